import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'
import { floatVector } from '../../wgsl/float-vector.ts'

export interface ReduceSplitsVariant extends ElementwiseSchedule {
  readonly y: 'f32' | 'f16'
  readonly bias: 'none' | 'f32' | 'f16'
  readonly width: 1 | 4
}

export function reduceSplitsBindings({
  y,
  bias,
  width,
}: ReduceSplitsVariant): Record<string, BindingDecl> {
  return {
    partial: reads('f32', width),
    ...(bias === 'none' ? {} : { bias: reads(bias, width) }),
    y: writes(y, width),
  }
}

export function reduceSplitsText(variant: ReduceSplitsVariant): KernelText {
  const type = floatVector(variant.width)
  return {
    main: forEachVector(
      variant,
      `var sum = ${type}(partial[i]);
    for (var s = 1u; s < u.splits; s++) { sum += partial[s * u.n + i]; }
    let column = u.n_first + i % u.N;
    y[(i / u.N) * u.ldy + column] = y_t(sum * u.scale${variant.bias === 'none' ? '' : ` + ${type}(bias[column])`});`,
    ),
  }
}
