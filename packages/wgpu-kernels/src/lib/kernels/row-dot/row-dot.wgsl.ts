import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { RowSchedule } from '../../tuning/row-schedule.ts'
import { floatVector, sumOf } from '../../wgsl/float-vector.ts'
import { rowIndex, rowReductions } from '../../wgsl/row-reduce.ts'

export interface RowDotVariant extends RowSchedule {
  readonly x: 'f32' | 'f16'
  readonly y: 'f32' | 'f16'
  readonly width: 1 | 4
}

export function rowDotBindings({ x, y, width }: RowDotVariant): Record<string, BindingDecl> {
  return { x: reads(x, width), y: reads(y, width), dot_product: writes('f32') }
}

export function rowDotText(variant: RowDotVariant): KernelText {
  return {
    declarations: rowReductions(variant),
    main: /* wgsl */ `${rowIndex(variant)}
  let safe_row = min(row, u.R - 1u);
  var sum = ${floatVector(variant.width)}(0.0);
  for (var c = lane; c < u.D; c += ${variant.lanes}u) {
    sum += ${floatVector(variant.width)}(x[safe_row * u.D + c]) * ${floatVector(variant.width)}(y[safe_row * u.D + c]);
  }
  let total = reduce_sum(${sumOf(variant.width, 'sum')}, local);
  if (row < u.R && lane == 0u) {
    let h = row % u.H;
    let n = (row / u.H) % u.N;
    dot_product[((row / (u.H * u.N)) * u.H + h) * u.N + n] = total;
  }`,
  }
}
