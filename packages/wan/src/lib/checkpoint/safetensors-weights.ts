import {
  numElements,
  type Device,
  type HostArray,
  type PackedWeight,
  type Tensor,
} from '@kinora/kernel-api'
import {
  bf16ToF32,
  bytesPerElement,
  f16ToF32,
  f32ToF16,
  type SafetensorsDType,
  type SafetensorsFile,
  type TensorInfo,
} from '@kinora/safetensors'
import { checkpointErrors } from '../errors.ts'
import { readPacking, type Packing } from '../quantize/packing.ts'
import { packedFormats, type PackedLayout } from '../quantize/schemes.ts'
import type { WeightDType, WeightSource } from './weight-source.ts'

/** Bytes read and uploaded at a time. */
const chunkBytes = 16 * 2 ** 20
/** Reads under way at a time: one alone does not keep a fast disk busy. What loading holds on the host is about this many chunks. */
const readsAhead = 4
/** Bytes on the way to the device: more would pile up in staging memory, of which nobody waits for the end. */
const uploadWindowBytes = 128 * 2 ** 20

/** What the device stores as the file does. */
const deviceDTypes = { F32: 'f32', F16: 'f16', BF16: 'bf16', U32: 'u32' } as const
type ReadableDType = keyof typeof deviceDTypes

/**
 * Weights in safetensors files, read by ranges straight into upload-size parts, in the dtype they are stored in; the device
 * converts them, and checks every number.
 */
export class SafetensorsWeights implements WeightSource {
  readonly #byTensor: ReadonlyMap<string, SafetensorsFile>
  readonly #prefix: string
  /** By file: how its packed weights are packed. */
  readonly #packings = new Map<SafetensorsFile, Packing | undefined>()
  #pending: { bytes: number; done: Promise<void> }[] = []
  #failure: unknown

  /**
   * @param byTensor which file holds a tensor
   * @param prefix what stands before every name in the files
   */
  constructor(byTensor: ReadonlyMap<string, SafetensorsFile>, prefix = '') {
    this.#byTensor = byTensor
    this.#prefix = prefix
  }

  has(name: string): boolean {
    const stored = this.#prefix + name
    return this.#byTensor.has(stored) || this.#byTensor.has(`${stored}.codes`)
  }

  async load(
    name: string,
    device: Device,
    dtype: WeightDType,
    fits: 'f32' | 'f16' = dtype === 'f16' ? 'f16' : 'f32',
  ): Promise<Tensor> {
    const { file, info } = this.#find(name)
    if (!isFloat(info.dtype)) throw checkpointErrors.WRONG_DTYPE(name, file.file, info.dtype)
    const raw = await this.#upload(name, device)
    return this.#check(name, fits, device, info.end - info.start, () =>
      raw.dtype === dtype ? raw : replacing(device, raw, () => device.ops.cast(raw, dtype)),
    )
  }

  async loadPacked(
    name: string,
    device: Device,
    fits: 'f32' | 'f16' = 'f32',
  ): Promise<PackedWeight | undefined> {
    const file = this.#byTensor.get(`${this.#prefix}${name}.codes`)
    if (!file) return undefined
    if (!this.#packings.has(file)) this.#packings.set(file, readPacking(file.metadata, file.file))
    const packing = this.#packings.get(file)
    if (!packing) throw checkpointErrors.NOT_PACKED(`${name}.codes`, file.file)
    const loaded: Tensor[] = []
    const part = async (suffix: string): Promise<Tensor> => {
      const tensor = await this.#upload(`${name}.${suffix}`, device)
      loaded.push(tensor)
      return tensor
    }
    try {
      const codes = await part('codes')
      const { format, codesPerWord, groupSize, largestCode } = packedFormats[
        packing.scheme
      ] as PackedLayout
      const [n, words] = codes.shape as [number, number]
      const shape = [n, words * codesPerWord] as const
      const scales = await part('scales')
      // A scale that is not finite makes all its numbers so, and one too large for f16 the largest of them.
      await this.#check(`${name}.scales`, fits, device, 0, () => scales, largestCode)
      if (groupSize === undefined) return { format, shape, codes, scales }
      return { format, shape, codes, scales, zeros: await part('zeros'), groupSize }
    } catch (error) {
      for (const tensor of loaded) device.release(tensor)
      throw error
    }
  }

  async loadRows(
    name: string,
    rows: readonly number[],
    device: Device,
    dtype: WeightDType,
  ): Promise<Tensor> {
    const { file, info } = this.#find(name)
    if (!isFloat(info.dtype)) throw checkpointErrors.WRONG_DTYPE(name, file.file, info.dtype)
    const [, columns] = info.shape as [number, number]
    const rowBytes = columns * bytesPerElement[info.dtype]
    const bytes = new Uint8Array(rows.length * rowBytes)
    const place = { name, file: file.file }
    for (const [i, row] of rows.entries()) {
      const target = bytes.subarray(i * rowBytes, (i + 1) * rowBytes)
      await file.readInto(this.#prefix + name, target, row * rowBytes)
      checkValues(target, info.dtype, dtype === 'f16' ? 'f16' : 'f32', {
        ...place,
        from: row * columns,
      })
    }
    const shape = [rows.length, columns]
    const raw = device.upload(hostArray(bytes, info.dtype), shape, deviceDTypes[info.dtype])
    return raw.dtype === dtype ? raw : replacing(device, raw, () => device.ops.cast(raw, dtype))
  }

  async settle(): Promise<void> {
    await this.#drain(0)
  }

  #find(name: string): { file: SafetensorsFile; info: TensorInfo } {
    const stored = this.#prefix + name
    const file = this.#byTensor.get(stored)
    if (!file) throw checkpointErrors.MISSING_TENSOR(name, 'of any size', 'the open files', 0)
    return { file, info: file.tensors.get(stored)! }
  }

  /** A tensor as it is stored. */
  async #upload(name: string, device: Device): Promise<Tensor> {
    const { file, info } = this.#find(name)
    const stored = this.#prefix + name
    const { dtype, shape } = info
    if (!isReadable(dtype)) throw checkpointErrors.WRONG_DTYPE(name, file.file, dtype)
    const size = info.end - info.start
    if (size <= chunkBytes) {
      const bytes = new Uint8Array(size)
      await file.readInto(stored, bytes)
      return device.upload(hostArray(bytes, dtype), shape, deviceDTypes[dtype])
    }
    const tensor = device.zeros(shape, deviceDTypes[dtype])
    const chunks = Array.from({ length: Math.ceil(size / chunkBytes) }, (_, i) => i * chunkBytes)
    const fillNext = async (): Promise<void> => {
      for (let at = chunks.shift(); at !== undefined; at = chunks.shift()) {
        const from = at
        try {
          await device.fill(tensor, from, Math.min(chunkBytes, size - from), (bytes) =>
            file.readInto(stored, bytes, from),
          )
        } catch (error) {
          // Nothing more is read for a tensor that will not be.
          chunks.length = 0
          throw error
        }
      }
    }
    const fills = await Promise.allSettled(Array.from({ length: readsAhead }, fillNext))
    const failed = fills.find((fill) => fill.status === 'rejected')
    if (failed) {
      device.release(tensor)
      throw failed.reason
    }
    return tensor
  }

  /**
   * Queues the check of a tensor, and keeps what is on the way to the device inside its window.
   *
   * @param factor what its numbers are multiplied by before they are checked
   */
  async #check(
    name: string,
    fits: 'f32' | 'f16',
    device: Device,
    bytes: number,
    make: () => Tensor,
    factor = 1,
  ): Promise<Tensor> {
    const tensor = make()
    const { ops } = device
    let squares: Tensor | undefined
    device.scope(() => {
      const values = factor === 1 ? tensor : ops.affine(ops.cast(tensor, 'f32'), { scale: factor })
      const narrowed = fits === 'f16' && values.dtype !== 'f16' ? ops.cast(values, 'f16') : values
      squares = device.retain(ops.sumSquares([narrowed]))
    })
    const done = device
      .read(squares!)
      .finally(() => device.release(squares!))
      .then(async ([sum]) => {
        if (!Number.isFinite(sum)) await this.#explain(name, fits, factor)
      })
      .catch((error: unknown) => {
        this.#failure ??= error
      })
    this.#pending.push({ bytes, done })
    try {
      await this.#drain(uploadWindowBytes)
    } catch (error) {
      device.release(tensor)
      throw error
    }
    return tensor
  }

  async #drain(allowedBytes: number): Promise<void> {
    let bytes = this.#pending.reduce((sum, check) => sum + check.bytes, 0)
    while (this.#pending.length > 0 && (allowedBytes === 0 || bytes > allowedBytes)) {
      const oldest = this.#pending.shift()!
      bytes -= oldest.bytes
      await oldest.done
    }
    if (this.#failure !== undefined) throw this.#failure
  }

  /** Names the first bad number of a tensor. None is bad where only the sum of squares was too large. */
  async #explain(name: string, fits: 'f32' | 'f16', factor: number): Promise<void> {
    const { file, info } = this.#find(name)
    const size = bytesPerElement[info.dtype]
    const count = numElements(info.shape)
    const step = chunkBytes / size
    for (let from = 0; from < count; from += step) {
      const part = new Uint8Array(Math.min(step, count - from) * size)
      await file.readInto(this.#prefix + name, part, from * size)
      checkValues(part, info.dtype, fits, { name, file: file.file, from }, factor)
    }
  }
}

function isReadable(dtype: SafetensorsDType): dtype is ReadableDType {
  return dtype in deviceDTypes
}

function isFloat(dtype: SafetensorsDType): dtype is Exclude<ReadableDType, 'U32'> {
  return isReadable(dtype) && dtype !== 'U32'
}

/** Makes one tensor of another, which is freed. */
function replacing(device: Device, old: Tensor, make: () => Tensor): Tensor {
  const made = make()
  device.release(old)
  return made
}

function hostArray(bytes: Uint8Array, dtype: ReadableDType): HostArray {
  const { buffer, byteOffset, byteLength } = bytes
  if (dtype === 'F32') return new Float32Array(buffer, byteOffset, byteLength / 4)
  if (dtype === 'U32') return new Uint32Array(buffer, byteOffset, byteLength / 4)
  return new Uint16Array(buffer, byteOffset, byteLength / 2)
}

interface Place {
  name: string
  file: string
  /** Index in the tensor of the first element. */
  from: number
}

/** Throws for the first number that is not finite, or that f16 cannot hold where it has to. */
function checkValues(
  bytes: Uint8Array,
  dtype: SafetensorsDType,
  fits: 'f32' | 'f16',
  { name, file, from }: Place,
  factor = 1,
): void {
  const bits16 = (): Uint16Array =>
    new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)
  const stored =
    dtype === 'F32'
      ? new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
      : dtype === 'F16'
        ? f16ToF32(bits16())
        : bf16ToF32(bits16())
  const values = factor === 1 ? stored : stored.map((value) => value * factor)
  const narrow = fits === 'f16' ? f16ToF32(f32ToF16(values)) : values
  const index = narrow.findIndex((value) => !Number.isFinite(value))
  if (index < 0) return
  const value = values[index]!
  if (Number.isFinite(value)) {
    throw checkpointErrors.TOO_LARGE_FOR_F16(name, file, from + index, value)
  }
  throw checkpointErrors.NOT_FINITE(name, file, from + index)
}
