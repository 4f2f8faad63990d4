// Axes: M pixels of the result, K channels in, O channels out.
import type { AdapterProfile } from '../device/adapter-profile.ts'
import {
  CONV_MATRIX_SIZE,
  convMatrixBytes,
  convMatrixStep,
  type ConvMatrixVariant,
} from '../kernels/conv3d/matrix/matrix.wgsl.ts'
import { hasMatrixUnit } from './matrix-unit.ts'

/** What the unit of a convolution is chosen by. */
export interface ConvShape {
  readonly M: number
  readonly O: number
  readonly K: number
  readonly dtype: 'f32' | 'f16'
  readonly bias: 'none' | 'f32' | 'f16'
}

/** Pixels below which tensor cores are not worth the packing of the weights. */
const FEWEST_PIXELS = 512

/** The tensor-core variant of a convolution, if its extents allow one. */
export function chooseConvMatrix(
  profile: AdapterProfile,
  { M, O, K, dtype, bias }: ConvShape,
): ConvMatrixVariant | undefined {
  if (!hasMatrixUnit(profile, 'conv3d')) return undefined
  // A step's channels lie under one tap. Images of three channels are as fast without.
  if (M < FEWEST_PIXELS || K % convMatrixStep(dtype) !== 0) return undefined
  const variant: ConvMatrixVariant = {
    dtype,
    bias,
    // With 128 channels the sums leave too few registers: 95 TFLOP/s where 96 give 177.
    blockN: O <= 32 ? 32 : 96,
    yWidth: O % (dtype === 'f32' ? 4 : 8) === 0 ? 4 : 1,
  }
  const { maxWorkgroupBytes, maxInvocations } = profile.limits
  const fits = convMatrixBytes(variant) <= maxWorkgroupBytes && CONV_MATRIX_SIZE <= maxInvocations
  return fits ? variant : undefined
}
