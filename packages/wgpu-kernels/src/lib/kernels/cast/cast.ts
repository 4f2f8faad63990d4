import type { DType } from '@kinora/kernel-api'

import { defineKernel } from '../../program/define-kernel.ts'
import { runFlat, withSchedules } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { elementwiseSchedules } from '../../tuning/elementwise-schedule.ts'
import type { StorageFormat } from '../../wgsl/storage-codec.ts'
import { castBindings, castText, type CastVariant } from './cast.wgsl.ts'

const formats: readonly StorageFormat[] = ['f32', 'f16', 'f16-packed', 'bf16', 'i32', 'u32']

/**
 * y[i] = x[i] in another dtype. Floats round to nearest even, floats to integers towards zero. bf16, and f16 on an adapter
 * without it, are handled as bits.
 *
 * - `x` any dtype, read · `y` any dtype, written
 */
export const cast = defineKernel<CastVariant>({
  name: 'cast',
  bindings: castBindings,
  uniforms: { n: 'u32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: castText,
  variants: () =>
    withSchedules(
      elementwiseSchedules,
      formats.flatMap((from) => formats.map((to) => ({ from, to }))),
    ),
})

/** Converts all of `x` into `y`, of the same element count. */
export function castInto(run: Runner, x: WgpuTensor, y: WgpuTensor): void {
  const format = (dtype: DType): StorageFormat =>
    dtype === 'f16' && !run.profile.f16 ? 'f16-packed' : dtype
  runFlat(run, cast, { from: format(x.dtype), to: format(y.dtype) }, { tensors: { x, y } })
}

/** `Ops.cast`. The same dtype still copies: the result is a tensor of its own. */
export function castTo(run: Runner, x: WgpuTensor, dtype: DType): WgpuTensor {
  const y = run.alloc(x.shape, dtype)
  castInto(run, x, y)
  return y
}
