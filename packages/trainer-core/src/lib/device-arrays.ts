import { numElements, type Device, type Tensor } from '@kinora/kernel-api'

/** Bytes gathered for one read: large enough to hide the cost of waiting, small beside what training holds. */
const gatherBytes = 64 * 2 ** 20

/**
 * Copies many tensors of one dtype, f32 or u32, to the host with few waits: they are gathered on the device first. The arrays are
 * the caller's.
 */
export async function readTensors<A extends Float32Array | Uint32Array = Float32Array>(
  device: Device,
  tensors: readonly Tensor[],
): Promise<A[]> {
  const out: A[] = []
  for (let start = 0; start < tensors.length;) {
    let end = start
    let count = 0
    while (
      end < tensors.length &&
      (end === start || (count + numElements(tensors[end]!.shape)) * 4 <= gatherBytes)
    ) {
      count += numElements(tensors[end]!.shape)
      end++
    }
    const group = tensors.slice(start, end)
    const flat = device.scope(() => {
      const parts = group.map((tensor) => device.ops.reshape(tensor, [numElements(tensor.shape)]))
      return device.ops.concat(parts, 0)
    })
    const values = (await device.read(flat).finally(() => device.release(flat))) as A
    let at = 0
    for (const tensor of group) {
      const length = numElements(tensor.shape)
      out.push(values.slice(at, at + length) as A)
      at += length
    }
    start = end
  }
  return out
}
