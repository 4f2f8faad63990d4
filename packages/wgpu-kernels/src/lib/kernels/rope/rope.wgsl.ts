import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'

export interface RopeVariant extends ElementwiseSchedule {
  readonly x: 'f32' | 'f16'
  /** Elements an index covers: two pairs or one. */
  readonly width: 2 | 4
}

export function ropeBindings({ x, width }: RopeVariant): Record<string, BindingDecl> {
  const pairs = width === 4 ? 2 : 1
  return {
    x: reads(x, width),
    cosine: reads('f32', pairs),
    sine: reads('f32', pairs),
    y: writes(x, width),
  }
}

export function ropeText(variant: RopeVariant): KernelText {
  const body =
    variant.width === 4
      ? `let v = vec4<f32>(x[i]);
    let even = v.xz * c - v.yw * s;
    let odd = v.xz * s + v.yw * c;
    y[i] = y_t(vec4<f32>(even.x, odd.x, even.y, odd.y));`
      : `let v = vec2<f32>(x[i]);
    y[i] = y_t(vec2<f32>(v.x * c - v.y * s, v.x * s + v.y * c));`
  return {
    main: forEachVector(
      variant,
      `let e = u.start + i;
    let at = ((e / (u.H * u.D)) % u.N) * u.D + e % u.D;
    let c = cosine[at];
    let s = sine[at] * u.direction;
    ${body}`,
    ),
  }
}
