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
 * - `partial` [S, M, N] f32, read · `bias` [N] dtype, read · `y` [M, N] dtype, written
 */
export const reduceSplitsKernel = defineKernel<ReduceSplitsVariant>({
  name: 'reduce-splits',
  bindings: reduceSplitsBindings,
  // n and N count vectors.
  uniforms: { n: 'u32', N: 'u32', splits: 'u32', scale: 'f32' },
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
  readonly splits: number
  readonly bias: WgpuTensor | undefined
  readonly scale: number
}

export function reduceSplits(run: Runner, sum: SplitSum): void {
  const { partial, y, yRows, M, N, splits, bias, scale } = sum
  const width = widthOf(N)
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
    { n, N: N / width, splits, scale },
    Math.ceil(n / (schedule.workgroupSize * schedule.perInvocation)),
  )
}
