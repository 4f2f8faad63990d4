import type { Tensor } from '@kinora/kernel-api'

import { wgpuErrors } from '../errors.ts'
import { describeTensor } from '../tensor/wgpu-tensor.ts'

/** Throws unless the tensor holds f32, f16 or bf16. */
export function expectFloat(op: string, name: string, tensor: Tensor): void {
  if (tensor.dtype === 'i32' || tensor.dtype === 'u32') {
    throw wgpuErrors.BAD_DTYPE(op, `${name} ${describeTensor(tensor)} must hold floats.`)
  }
}

/** Throws unless the tensor is f32. */
export function expectF32(op: string, name: string, tensor: Tensor): void {
  if (tensor.dtype !== 'f32') {
    throw wgpuErrors.BAD_DTYPE(op, `${name} ${describeTensor(tensor)} must be f32.`)
  }
}

/** Throws unless the tensor has exactly this shape. */
export function expectShape(
  op: string,
  name: string,
  tensor: Tensor,
  shape: readonly number[],
): void {
  if (tensor.shape.length !== shape.length || tensor.shape.some((n, i) => n !== shape[i])) {
    throw wgpuErrors.BAD_SHAPE(
      op,
      `${name} is [${tensor.shape.join(', ')}], not [${shape.join(', ')}].`,
    )
  }
}

/** Throws unless both tensors have one shape. */
export function expectSameShape(op: string, name: string, tensor: Tensor, like: Tensor): void {
  expectShape(op, name, tensor, like.shape)
}

/** Throws unless the tensor has this many axes, or at least as many with `atLeast`. */
export function expectRank(
  op: string,
  name: string,
  tensor: Tensor,
  rank: number,
  atLeast = false,
): void {
  const { length } = tensor.shape
  if (atLeast ? length < rank : length !== rank) {
    throw wgpuErrors.BAD_SHAPE(
      op,
      `${name} [${tensor.shape.join(', ')}] needs ${atLeast ? 'at least ' : ''}${rank} axes.`,
    )
  }
}

/** Extent of the last axis; 1 for a scalar. */
export function lastDim(tensor: Tensor): number {
  return tensor.shape.at(-1) ?? 1
}
