import { defineKernel } from '../../program/define-kernel.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { spliceBindings, spliceText } from './splice.wgsl.ts'

/**
 * Copies `count` 16-bit elements into the middle of a tensor, at any element. Works on words, so it needs no f16.
 *
 * - `source` read · `dest` written from element `first` on
 */
export const splice = defineKernel<Record<string, never>>({
  name: 'splice',
  bindings: spliceBindings,
  uniforms: { first: 'u32', count: 'u32' },
  workgroupSize: () => 64,
  wgsl: spliceText,
  variants: () => [{}],
})

/** Writes all of `source` (16-bit elements) into `target` from element `first` on. */
export function spliceHalfWords(
  run: Runner,
  target: WgpuTensor,
  source: WgpuTensor,
  first: number,
  count: number,
): void {
  if (count === 0) return
  const words = Math.floor((first + count - 1) / 2) - Math.floor(first / 2) + 1
  run.run(splice, {}, { source, dest: target }, { first, count }, Math.ceil(words / 64))
}
