import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'
import { floatVector } from '../../wgsl/float-vector.ts'

export interface GatedAddVariant extends ElementwiseSchedule {
  /** `forward`: out = x + gate · y. `backward`: out = gate · x, where x is the gradient. */
  readonly fn: 'forward' | 'backward'
  /** Dtype of x, which is f32 in the forward pass. */
  readonly x: 'f32' | 'f16'
  /** Dtype of y in the forward pass, of the result in the backward pass. */
  readonly y: 'f32' | 'f16'
  readonly width: 1 | 4
}

export function gatedAddBindings({
  fn,
  x,
  y,
  width,
}: GatedAddVariant): Record<string, BindingDecl> {
  return fn === 'forward'
    ? {
        x: reads('f32', width),
        y: reads(y, width),
        gate: reads('f32', width),
        out: writes('f32', width),
      }
    : { x: reads(x, width), gate: reads('f32', width), out: writes(y, width) }
}

export function gatedAddText(variant: GatedAddVariant): KernelText {
  const type = floatVector(variant.width)
  const gate = `let e = u.start + i;
    let g = gate[(e / u.per_batch) * u.C + e % u.C];`
  return {
    main: forEachVector(
      variant,
      variant.fn === 'forward'
        ? `${gate}
    out[i] = x[i] + g * ${type}(y[i]);`
        : `${gate}
    out[i] = out_t(g * ${type}(x[i]));`,
    ),
  }
}
