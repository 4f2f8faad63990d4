// Axes: R rows, C numbers a row.
import { defineKernel } from '../../program/define-kernel.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { rowSchedule, rowSchedules, type RowSchedule } from '../../tuning/row-schedule.ts'
import { rowSumBindings, rowSumText } from './row-sum.wgsl.ts'

/**
 * y[r] = scale · Σ_c x[r, c]: the second pass of sums over everything, in a fixed order.
 *
 * - `x` [R, C] f32, read · `y` [R] f32, written
 */
export const rowSumKernel = defineKernel<RowSchedule>({
  name: 'row-sum',
  bindings: rowSumBindings,
  uniforms: { R: 'u32', C: 'u32', scale: 'f32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: rowSumText,
  variants: () => Object.values(rowSchedules),
})

export function rowSum(run: Runner, x: WgpuTensor, scale: number): WgpuTensor {
  const [R, C] = x.shape as [number, number]
  const y = run.alloc([R], 'f32')
  const schedule = rowSchedule(run.profile, C)
  run.run(
    rowSumKernel,
    schedule,
    { x, y },
    { R, C, scale },
    Math.ceil(R / (schedule.workgroupSize / schedule.lanes)),
  )
  return y
}
