// Axes: B batch, N tokens, H heads, D head channels.
import { scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { withSchedules } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { rowSchedule, rowSchedules } from '../../tuning/row-schedule.ts'
import { widthOf } from '../../wgsl/float-vector.ts'
import { rowDotBindings, rowDotText, type RowDotVariant } from './row-dot.wgsl.ts'

/**
 * δ[b, h, n] = Σ_d x[b, n, h, d] · y[b, n, h, d]: what attention's backward pass subtracts from dP.
 *
 * - `x`, `y` [B, N, H, D] dtype, read · `dot_product` [B, H, N] f32, written
 */
export const rowDotKernel = defineKernel<RowDotVariant>({
  name: 'row-dot',
  bindings: rowDotBindings,
  // D counts vectors.
  uniforms: { R: 'u32', N: 'u32', H: 'u32', D: 'u32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: rowDotText,
  variants: () =>
    withSchedules(
      rowSchedules,
      (['f32', 'f16'] as const).flatMap((x) =>
        (['f32', 'f16'] as const).flatMap((y) =>
          ([1, 4] as const).map((width) => ({ x, y, width })),
        ),
      ),
    ),
})

export function rowDot(run: Runner, x: WgpuTensor, y: WgpuTensor): WgpuTensor {
  const [B, N, H, D] = x.shape as [number, number, number, number]
  const dot = run.alloc([B, H, N], 'f32')
  const width = widthOf(D)
  const schedule = rowSchedule(run.profile, D / width)
  const R = B * N * H
  run.run(
    rowDotKernel,
    { x: scalarOf(x) as 'f32', y: scalarOf(y) as 'f32', width, ...schedule },
    { x, y, dot_product: dot },
    { R, N, H, D: D / width },
    Math.ceil(R / (schedule.workgroupSize / schedule.lanes)),
  )
  return dot
}
