import { numElements, type Tensor } from '@kinora/kernel-api'

import { wgpuErrors } from '../../errors.ts'
import { computable, produce, scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { expectFloat } from '../../program/expect.ts'
import { runFlat, withSchedules } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { elementwiseSchedules } from '../../tuning/elementwise-schedule.ts'
import { widthOf } from '../../wgsl/float-vector.ts'
import { binaryBindings, binaryText, type BinaryVariant } from './binary.wgsl.ts'

const floats = ['f32', 'f16'] as const

/**
 * y = a + b or a · b, in f32, stored as a's dtype.
 *
 * - `a` […, tail] dtype, read · `b` the same shape, or `tail`, dtype, read · `y` as a, written
 */
export const binary = defineKernel<BinaryVariant>({
  name: 'binary',
  bindings: binaryBindings,
  uniforms: { n: 'u32', start: 'u32', period: 'u32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: binaryText,
  variants: () =>
    withSchedules(
      elementwiseSchedules,
      (['add', 'mul'] as const).flatMap((fn) =>
        floats.flatMap((a) =>
          floats.flatMap((b) => [
            { fn, a, b, repeat: false, width: 4 as const },
            { fn, a, b, repeat: true, width: 4 as const },
            { fn, a, b, repeat: true, width: 1 as const },
          ]),
        ),
      ),
    ),
})

/** `Ops.add`, `Ops.mul`. */
export function applyBinary(
  run: Runner,
  fn: 'add' | 'mul',
  left: Tensor,
  right: Tensor,
): WgpuTensor {
  expectFloat(fn, 'a', left)
  expectFloat(fn, 'b', right)
  const tail = left.shape.slice(left.shape.length - right.shape.length)
  if (
    right.shape.length > left.shape.length ||
    right.shape.some((extent, i) => extent !== tail[i])
  ) {
    throw wgpuErrors.BAD_SHAPE(
      fn,
      `b [${right.shape.join(', ')}] is neither a's shape [${left.shape.join(', ')}] nor its trailing axes.`,
    )
  }
  const a = computable(run, fn, left)
  const b = computable(run, fn, right)
  const elements = numElements(right.shape)
  const repeat = elements !== numElements(left.shape)
  const width = repeat ? widthOf(elements) : 4
  return produce(run, left.shape, left.dtype, (y) =>
    runFlat(
      run,
      binary,
      { fn, a: scalarOf(a) as 'f32', b: scalarOf(b) as 'f32', repeat, width },
      {
        tensors: repeat ? { a, y } : { a, b, y },
        whole: repeat ? { b } : {},
        uniforms: { period: elements / width },
        width,
      },
    ),
  )
}
