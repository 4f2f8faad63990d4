import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'

export function addIntoBindings(): Record<string, BindingDecl> {
  return { source: reads('f32', 4), sum: writes('f32', 4) }
}

export function addIntoText(variant: ElementwiseSchedule): KernelText {
  return { main: forEachVector(variant, `sum[i] = sum[i] + u.scale * source[i];`) }
}
