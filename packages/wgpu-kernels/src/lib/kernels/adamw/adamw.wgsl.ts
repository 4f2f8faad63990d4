import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'

export function adamwBindings(): Record<string, BindingDecl> {
  return {
    grad: reads('f32', 4),
    param: writes('f32', 4),
    m: writes('f32', 4),
    v: writes('f32', 4),
  }
}

export function adamwText(variant: ElementwiseSchedule): KernelText {
  return {
    main: forEachVector(
      variant,
      /* wgsl */ `let g = grad[i] * u.grad_scale;
    let m1 = u.beta1 * m[i] + u.rest1 * g;
    let v1 = u.beta2 * v[i] + u.rest2 * g * g;
    m[i] = m1;
    v[i] = v1;
    param[i] = param[i] * u.decay - u.step_size * m1 / (sqrt(v1) * u.root_correction + u.eps);`,
    ),
  }
}
