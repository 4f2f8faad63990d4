import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { PartialSchedule } from '../../tuning/partial-schedule.ts'
import { maskTail, partialSums } from '../../wgsl/partial-sums.ts'

export interface SumSquaresVariant extends PartialSchedule {
  readonly x: 'f32' | 'f16'
}

export function sumSquaresBindings({ x }: SumSquaresVariant): Record<string, BindingDecl> {
  return { x: reads(x, 4), partial: writes('f32') }
}

export function sumSquaresText(variant: SumSquaresVariant): KernelText {
  return {
    declarations: maskTail,
    main: partialSums(
      variant,
      4,
      // What lies behind the last element is another tensor's past.
      `let v = mask_tail(vec4<f32>(x[i]), 4u * i, u.elements);
    let value = v * v;`,
    ),
  }
}
