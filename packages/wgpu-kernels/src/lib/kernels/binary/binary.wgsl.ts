import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'
import { floatVector } from '../../wgsl/float-vector.ts'

export interface BinaryVariant extends ElementwiseSchedule {
  readonly fn: 'add' | 'mul'
  readonly a: 'f32' | 'f16'
  readonly b: 'f32' | 'f16'
  /** False: b has the shape of a. True: it repeats over the leading axes. */
  readonly repeat: boolean
  readonly width: 1 | 4
}

export function binaryBindings({ a, b, width }: BinaryVariant): Record<string, BindingDecl> {
  return { a: reads(a, width), b: reads(b, width), y: writes(a, width) }
}

export function binaryText(variant: BinaryVariant): KernelText {
  const type = floatVector(variant.width)
  const index = variant.repeat ? '(u.start + i) % u.period' : 'i'
  return {
    main: forEachVector(
      variant,
      `y[i] = y_t(${type}(a[i]) ${variant.fn === 'add' ? '+' : '*'} ${type}(b[${index}]));`,
    ),
  }
}
