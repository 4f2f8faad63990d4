import type { RowSchedule } from '../tuning/row-schedule.ts'

/** WGSL that says which row and lane an invocation has: `row` (may pass the last; not clamped), `lane`. */
export function rowIndex({ workgroupSize, lanes }: RowSchedule): string {
  return /* wgsl */ `
  let row = group * ${workgroupSize / lanes}u + local / ${lanes}u;
  let lane = local % ${lanes}u;`
}

/**
 * `reduce_sum(value, local)` and, with `max`, `reduce_max`: over the lanes of a row, the result in each of them. A tree over
 * workgroup memory, so the order never changes. Call it in uniform control flow.
 */
export function rowReductions({ workgroupSize, lanes }: RowSchedule, max = false): string {
  const reduction = (name: string, combine: (a: string, b: string) => string): string =>
    lanes === 1
      ? `fn ${name}(value: f32, local: u32) -> f32 { return value; }`
      : /* wgsl */ `
fn ${name}(value: f32, local: u32) -> f32 {
  // Whoever still reads the last result must have it before it is overwritten.
  workgroupBarrier();
  shared_sums[local] = value;
  workgroupBarrier();
  for (var half = ${lanes / 2}u; half > 0u; half /= 2u) {
    if (local % ${lanes}u < half) {
      shared_sums[local] = ${combine('shared_sums[local]', 'shared_sums[local + half]')};
    }
    workgroupBarrier();
  }
  return shared_sums[local - local % ${lanes}u];
}`
  return [
    lanes === 1 ? '' : `var<workgroup> shared_sums: array<f32, ${workgroupSize}>;`,
    reduction('reduce_sum', (a, b) => `${a} + ${b}`),
    max ? reduction('reduce_max', (a, b) => `max(${a}, ${b})`) : '',
  ].join('\n')
}
