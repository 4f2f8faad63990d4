import { bytesPerElement, numElements, type DType, type Tensor } from '@kinora/kernel-api'

import type { PooledBuffer } from '../device/buffer-pool.ts'
import { wgpuErrors } from '../errors.ts'

/** A buffer and how many tensors look at it: `reshape` shares it. */
export interface Storage {
  /** Identity of the device the buffer belongs to. */
  readonly owner: object
  readonly pooled: PooledBuffer
  /** Live tensors on this storage; at none the buffer returns to the pool. */
  tensors: number
}

/** A tensor of this backend. Elements start at byte 0 of the buffer, row-major and dense. */
export class WgpuTensor implements Tensor {
  readonly shape: readonly number[]
  readonly dtype: DType
  readonly handle: Storage
  /** One for the scope (or the caller) it was made in, one for each `retain`; freed at none. */
  owners = 1

  constructor(shape: readonly number[], dtype: DType, handle: Storage) {
    this.shape = shape
    this.dtype = dtype
    this.handle = handle
  }

  get numElements(): number {
    return numElements(this.shape)
  }

  /** Bytes of the elements, without the padding of the buffer. */
  get sizeBytes(): number {
    return this.numElements * bytesPerElement[this.dtype]
  }
}

/** `[2, 3] f16`, for messages. */
export function describeTensor(tensor: Tensor): string {
  return `[${tensor.shape.join(', ')}] ${tensor.dtype}`
}

/** Narrows a tensor to one of this device that is still alive. */
export function ownTensor(op: string, tensor: Tensor, owner: object): WgpuTensor {
  if (!(tensor instanceof WgpuTensor) || tensor.handle.owner !== owner) {
    throw wgpuErrors.FOREIGN_TENSOR(op)
  }
  if (tensor.owners <= 0) throw wgpuErrors.TENSOR_FREED(op, describeTensor(tensor))
  return tensor
}
