import type { ElementwiseSchedule } from '../tuning/elementwise-schedule.ts'

/** Loop over the vectors of a flat range of `u.n` vectors: `body` runs with their index in `i`. */
export function forEachVector(
  { workgroupSize, perInvocation }: ElementwiseSchedule,
  body: string,
): string {
  return /* wgsl */ `
  let first = group * ${workgroupSize * perInvocation}u + local;
  for (var step = 0u; step < ${perInvocation}u; step++) {
    let i = first + step * ${workgroupSize}u;
    if (i >= u.n) { break; }
    ${body}
  }`
}
