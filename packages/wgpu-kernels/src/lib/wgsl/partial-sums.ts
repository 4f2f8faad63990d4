import type { PartialSchedule } from '../tuning/partial-schedule.ts'
import { floatVector, sumOf } from './float-vector.ts'

/**
 * First pass of a sum over `u.n` vectors: each invocation adds every `u.invocations`-th and writes its sum to
 * partial[u.partial_first + its index]. `value` is the vector at index `i`.
 */
export function partialSums(
  { workgroupSize }: PartialSchedule,
  width: 1 | 4,
  value: string,
): string {
  return /* wgsl */ `
  let invocation = group * ${workgroupSize}u + local;
  if (invocation >= u.invocations) { return; }
  var sum = ${floatVector(width)}(0.0);
  for (var i = invocation; i < u.n; i += u.invocations) {
    ${value}
    sum += value;
  }
  partial[u.partial_first + invocation] = ${sumOf(width, 'sum')};`
}

/** A tail shorter than a vector: keeps the components of `value` that lie before the last element, `u.elements`. */
export const maskTail = /* wgsl */ `
fn mask_tail(value: vec4<f32>, first: u32, elements: u32) -> vec4<f32> {
  let index = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
  return select(vec4<f32>(0.0), value, index < vec4<u32>(elements));
}`
