import { scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { withSchedules } from '../../program/flat-run.ts'
import type { Runner, TensorRange } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { elementwiseSchedule, elementwiseSchedules } from '../../tuning/elementwise-schedule.ts'
import { widthOf } from '../../wgsl/float-vector.ts'
import {
  reduceSplitsBindings,
  reduceSplitsText,
  type ReduceSplitsVariant,
} from './reduce-splits.wgsl.ts'

/**
 * Second pass of a product whose contraction was split: y = scale · Σ_s partial[s] + bias, s ascending.
 *
 * - `partial` [S, M, N] f32, read · `bias` dtype, read · `y` dtype, written: M rows of N columns of a larger matrix
 */
export const reduceSplitsKernel = defineKernel<ReduceSplitsVariant>({
  name: 'reduce-splits',
  bindings: reduceSplitsBindings,
  // All but the splits count vectors: of the sum, of a row of it and of y, and the first column.
  uniforms: { n: 'u32', N: 'u32', ldy: 'u32', n_first: 'u32', splits: 'u32', scale: 'f32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: reduceSplitsText,
  variants: () =>
    withSchedules(
      elementwiseSchedules,
      (['f32', 'f16'] as const).flatMap((y) =>
        (['none', 'f32', 'f16'] as const).flatMap((bias) =>
          ([1, 4] as const).map((width) => ({ y, bias, width })),
        ),
      ),
    ),
})

export interface SplitSum {
  readonly partial: WgpuTensor
  readonly y: WgpuTensor
  readonly yRows: TensorRange
  readonly M: number
  readonly N: number
  /** Columns of y, and the first of those that are summed, all of them by default. */
  readonly ldy?: number
  readonly nFirst?: number
  readonly splits: number
  readonly bias: WgpuTensor | undefined
  readonly scale: number
}

export function reduceSplits(run: Runner, sum: SplitSum): void {
  const { partial, y, yRows, M, N, ldy = N, nFirst = 0, splits, bias, scale } = sum
  const width = widthOf(N, ldy, nFirst)
  const schedule = elementwiseSchedule(run.profile)
  const n = (M * N) / width
  run.run(
    reduceSplitsKernel,
    {
      y: scalarOf(y) as 'f32',
      bias: bias ? (scalarOf(bias) as 'f32') : 'none',
      width,
      ...schedule,
    },
    { partial, y: yRows, ...(bias ? { bias } : {}) },
    { n, N: N / width, ldy: ldy / width, n_first: nFirst / width, splits, scale },
    Math.ceil(n / (schedule.workgroupSize * schedule.perInvocation)),
  )
}
