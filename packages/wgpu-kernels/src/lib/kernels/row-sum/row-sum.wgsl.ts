import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { RowSchedule } from '../../tuning/row-schedule.ts'
import { rowIndex, rowReductions } from '../../wgsl/row-reduce.ts'

export function rowSumBindings(): Record<string, BindingDecl> {
  return { x: reads('f32'), y: writes('f32') }
}

export function rowSumText(variant: RowSchedule): KernelText {
  return {
    declarations: rowReductions(variant),
    main: /* wgsl */ `${rowIndex(variant)}
  let base = min(row, u.R - 1u) * u.C;
  var sum = 0.0;
  for (var c = lane; c < u.C; c += ${variant.lanes}u) { sum += x[base + c]; }
  let total = reduce_sum(sum, local);
  if (row < u.R && lane == 0u) { y[row] = total * u.scale; }`,
  }
}
