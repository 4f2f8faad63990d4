// Axes: O channels out, D contraction (taps and channels in).
import { scalarOf } from '../../../program/compute-dtype.ts'
import { defineKernel, reads, writes } from '../../../program/define-kernel.ts'
import type { Runner } from '../../../program/runner.ts'
import type { WgpuTensor } from '../../../tensor/wgpu-tensor.ts'
import { convUniforms } from '../geometry.wgsl.ts'
import {
  CONV_MATRIX_SIZE,
  convMatrixBindings,
  convMatrixStep,
  convMatrixText,
  convWeightText,
  weightParts,
  type ConvMatrixVariant,
  type ConvWeightVariant,
} from './matrix.wgsl.ts'

const floats = ['f32', 'f16'] as const

/**
 * Channels-last 3-D convolution on subgroup matrices, with the geometry of `conv3d`. f32 is computed from two f16 halves of
 * each operand (values above 65504 become infinite), f16 as it is; sums in f32.
 *
 * - `x` [B, T, Y, X, K], read · `weight` [O, parts, D / 8] vectors of eight f16, read · `bias` [O] f32 or f16, read
 * - `y` [B, T', Y', X', O] dtype, written
 */
export const convMatrixKernel = defineKernel<ConvMatrixVariant>({
  name: 'conv3d-matrix',
  bindings: convMatrixBindings,
  uniforms: { ...convUniforms, depth_vectors: 'u32' },
  workgroupSize: () => CONV_MATRIX_SIZE,
  wgsl: convMatrixText,
  variants: () =>
    floats.flatMap((dtype) =>
      ([32, 96] as const).flatMap((blockN) =>
        (['none', dtype] as const).flatMap((bias) =>
          ([1, 4] as const).map((yWidth) => ({ dtype, bias, blockN, yWidth })),
        ),
      ),
    ),
})

/**
 * Splits rows of weights into f16 halves.
 *
 * - `weight` [O, D] f32 or f16, read · `packed` [O, parts, D / 8] vectors of eight f16, D rounded up, written
 */
export const convWeightKernel = defineKernel<ConvWeightVariant>({
  name: 'conv3d-weight',
  bindings: ({ weight }) => ({ weight: reads(weight), packed: writes('u32', 4) }),
  uniforms: { O: 'u32', depth: 'u32', depth_vectors: 'u32' },
  workgroupSize: () => 64,
  wgsl: convWeightText,
  variants: () => floats.flatMap((weight) => ([1, 2] as const).map((parts) => ({ weight, parts }))),
})

/** The weight of a convolution of `dtype` as `convMatrixKernel` reads it; scratch of the caller's scope. */
export function packConvWeight(
  run: Runner,
  weight: WgpuTensor,
  O: number,
  depth: number,
  dtype: 'f32' | 'f16',
): { packed: WgpuTensor; depthVectors: number } {
  const step = convMatrixStep(dtype)
  const depthVectors = (Math.ceil(depth / step) * step) / 8
  const parts = weightParts(dtype)
  const packed = run.alloc([O, parts, depthVectors, 4], 'u32')
  run.run(
    convWeightKernel,
    { weight: scalarOf(weight) as 'f32', parts },
    { weight, packed },
    { O, depth, depth_vectors: depthVectors },
    Math.ceil((O * depthVectors) / 64),
  )
  return { packed, depthVectors }
}
