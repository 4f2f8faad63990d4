import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { RowSchedule } from '../../tuning/row-schedule.ts'
import { rowIndex, rowReductions } from '../../wgsl/row-reduce.ts'

export interface RowDotVariant extends RowSchedule {
  readonly x: 'f32' | 'f16'
  readonly y: 'f32' | 'f16'
}

export function rowDotBindings({ x, y }: RowDotVariant): Record<string, BindingDecl> {
  return { x: reads(x), y: reads(y), dot_product: writes('f32') }
}

export function rowDotText(variant: RowDotVariant): KernelText {
  return {
    declarations: rowReductions(variant),
    main: /* wgsl */ `${rowIndex(variant)}
  let safe_row = min(row, u.R - 1u);
  var sum = 0.0;
  for (var c = lane; c < u.D; c += ${variant.lanes}u) {
    sum += f32(x[safe_row * u.D + c]) * f32(y[safe_row * u.D + c]);
  }
  let total = reduce_sum(sum, local);
  if (row < u.R && lane == 0u) {
    let h = row % u.H;
    let n = (row / u.H) % u.N;
    dot_product[((row / (u.H * u.N)) * u.H + h) * u.N + n] = total;
  }`,
  }
}
