import { numElements, type Device, type HostArray, type Tensor } from '@kinora/kernel-api'
import {
  bf16ToF32,
  bytesPerElement,
  f16ToF32,
  f32ToF16,
  type SafetensorsDType,
  type SafetensorsFile,
} from '@kinora/safetensors'
import { checkpointErrors } from '../errors.ts'
import type { WeightSource } from './weight-source.ts'

/** Elements read, converted and uploaded at a time: what loading holds on the host is a few times this. */
const chunkElements = 4 * 2 ** 20
/** Bytes uploaded between waits: a queue that nobody waits for would hold all of a model in staging memory. */
const syncBytes = 128 * 2 ** 20

/**
 * Weights in safetensors files, read by ranges straight into upload-size parts. Every number is checked on the way: one that is
 * not finite, or that f16 cannot hold, is an error that names the tensor.
 */
export class SafetensorsWeights implements WeightSource {
  readonly #byTensor: ReadonlyMap<string, SafetensorsFile>
  readonly #prefix: string
  #bytesSinceSync = 0

  /**
   * @param byTensor which file holds a tensor
   * @param prefix what stands before every name in the files
   */
  constructor(byTensor: ReadonlyMap<string, SafetensorsFile>, prefix = '') {
    this.#byTensor = byTensor
    this.#prefix = prefix
  }

  has(name: string): boolean {
    return this.#byTensor.has(this.#prefix + name)
  }

  async load(name: string, device: Device, dtype: 'f32' | 'f16'): Promise<Tensor> {
    const stored = this.#prefix + name
    const source = this.#byTensor.get(stored)
    if (!source) throw checkpointErrors.MISSING_TENSOR(name, 'of any size', 'the open files', 0)
    const info = source.tensors.get(stored)!
    const count = numElements(info.shape)
    const size = bytesPerElement[info.dtype]
    const bytes = new Uint8Array(Math.min(count, chunkElements) * size)
    const next = async (from: number) => {
      const part = bytes.subarray(0, Math.min(chunkElements, count - from) * size)
      await source.readInto(stored, part, from * size)
      return convert(part, info.dtype, dtype, { name, file: source.file, from })
    }
    if (count <= chunkElements) {
      const values = await next(0)
      await this.#pace(device, values.byteLength)
      return device.upload(values, info.shape, dtype)
    }
    const tensor = device.zeros(info.shape, dtype)
    try {
      for (let from = 0; from < count; from += chunkElements) {
        const values = await next(from)
        device.write(tensor, values, from)
        await this.#pace(device, values.byteLength)
      }
    } catch (error) {
      device.release(tensor)
      throw error
    }
    return tensor
  }

  async #pace(device: Device, bytes: number): Promise<void> {
    this.#bytesSinceSync += bytes
    if (this.#bytesSinceSync < syncBytes) return
    this.#bytesSinceSync = 0
    await device.sync()
  }
}

interface Place {
  name: string
  file: string
  /** Index in the tensor of the first element. */
  from: number
}

function convert(
  bytes: Uint8Array,
  from: SafetensorsDType,
  to: 'f32' | 'f16',
  place: Place,
): HostArray {
  const bits16 = () => new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)
  const bits32 = () => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
  if (to === 'f32') {
    if (from === 'F32') return finiteF32(bits32(), place)
    if (from === 'F16') return finiteF32(f16ToF32(bits16()), place)
    if (from === 'BF16') return finiteF32(bf16ToF32(bits16()), place)
  } else {
    if (from === 'F16')
      return finiteF16(bits16(), place, (i) => f16ToF32(bits16().slice(i, i + 1))[0]!)
    if (from === 'BF16')
      return finiteF16(f16FromBf16(bits16()), place, (i) => bf16ToF32(bits16().slice(i, i + 1))[0]!)
    if (from === 'F32') return finiteF16(f32ToF16(bits32()), place, (i) => bits32()[i]!)
  }
  throw checkpointErrors.WRONG_DTYPE(place.name, place.file, from)
}

function finiteF32(values: Float32Array, { name, file, from }: Place): Float32Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < bits.length; i++) {
    if ((bits[i]! & 0x7f800000) === 0x7f800000)
      throw checkpointErrors.NOT_FINITE(name, file, from + i)
  }
  return values
}

function finiteF16(
  bits: Uint16Array,
  { name, file, from }: Place,
  original: (index: number) => number,
): Uint16Array {
  for (let i = 0; i < bits.length; i++) {
    if ((bits[i]! & 0x7c00) !== 0x7c00) continue
    const value = original(i)
    if (Number.isFinite(value))
      throw checkpointErrors.TOO_LARGE_FOR_F16(name, file, from + i, value)
    throw checkpointErrors.NOT_FINITE(name, file, from + i)
  }
  return bits
}

let bf16Table: Uint16Array | undefined

/** By table: several times faster than through f32, on what is half of all weights people have. */
function f16FromBf16(source: Uint16Array): Uint16Array {
  bf16Table ??= f32ToF16(bf16ToF32(Uint16Array.from({ length: 0x10000 }, (_, code) => code)))
  const out = new Uint16Array(source.length)
  for (let i = 0; i < out.length; i++) out[i] = bf16Table[source[i]!]!
  return out
}
