import {
  bytesPerElement,
  numElements,
  type Device,
  type DType,
  type Ops,
  type PackedWeight,
  type Tensor,
} from '@kinora/kernel-api'

/** A device that takes weights and keeps only how many bytes they are: what loading holds on the host shows beside nothing else. */
export function createSinkDevice(): Device {
  let live = 0
  let peak = 0
  let scope: Set<Tensor> | undefined
  const owners = new Map<Tensor, number>()
  const sizeOf = ({ shape, dtype }: Tensor): number => numElements(shape) * bytesPerElement[dtype]
  const make = (shape: readonly number[], dtype: DType): Tensor => {
    const tensor: Tensor = { shape, dtype, handle: undefined }
    owners.set(tensor, 1)
    live += sizeOf(tensor)
    peak = Math.max(peak, live)
    scope?.add(tensor)
    return tensor
  }
  const release = (tensor: Tensor): void => {
    const left = owners.get(tensor)! - 1
    owners.set(tensor, left)
    if (left > 0) return
    owners.delete(tensor)
    live -= sizeOf(tensor)
  }
  const inScope = <T>(fn: () => T): T => {
    const outer = scope
    const own = new Set<Tensor>()
    scope = own
    try {
      return fn()
    } finally {
      scope = outer
      for (const tensor of own) release(tensor)
    }
  }
  const ops = {
    cast: (x: Tensor, dtype: DType) => make(x.shape, dtype),
    sumSquares: () => make([1], 'f32'),
    reshape: (x: Tensor, shape: readonly number[]) => make(shape, x.dtype),
    quantize({ shape }: Tensor, format: 'uint4'): PackedWeight {
      const [n, k] = shape as [number, number]
      const codes = make([n, k / 8], 'u32')
      const [scales, zeros] = [make([n, k / 64], 'f16'), make([n, k / 64], 'f16')]
      return { format, shape: [n, k], codes, scales, zeros, groupSize: 64 }
    },
    scope: inScope,
  } as unknown as Ops
  return {
    info: { computeDTypes: ['f32', 'f16'] },
    ops,
    upload: (_data: unknown, shape: readonly number[], dtype: DType) => make(shape, dtype),
    zeros: make,
    write: () => {},
    fill: (
      _tensor: Tensor,
      _at: number,
      size: number,
      read: (bytes: Uint8Array) => Promise<void>,
    ) => read(new Uint8Array(size)),
    read: () => Promise.resolve(Float32Array.of(0)),
    retain: (tensor: Tensor) => {
      owners.set(tensor, owners.get(tensor)! + 1)
      return tensor
    },
    release,
    scope: inScope,
    memory: () => ({ liveBytes: live, peakBytes: peak, pooledBytes: 0, parkedBytes: 0 }),
  } as unknown as Device
}
