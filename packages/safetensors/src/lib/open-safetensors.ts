import { open, type FileHandle } from 'node:fs/promises'
import { bytesPerElement } from './dtype.ts'
import { bf16ToF32, f16ToF32, f8e4m3ToF32, f8e5m2ToF32 } from './float-formats.ts'
import {
  headerLengthBytes,
  parseHeader,
  parseHeaderLength,
  type SafetensorsHeader,
  type TensorInfo,
} from './header.ts'
import { fetchAgain, SafetensorsError } from './safetensors-error.ts'

/** Largest single read, in bytes: system calls stop at 2 GiB, and smaller parts let other work in between. */
const maxReadBytes = 64 * 2 ** 20
/** Bytes converted at a time by `readF32`, a multiple of every element size: what it holds beside its result. */
const convertBytes = 4 * 2 ** 20

/** An open file. Tensors are read when asked for, by range; the file is never held as a whole. */
export interface SafetensorsFile {
  readonly file: string
  /** In the order of their bytes. */
  readonly tensors: ReadonlyMap<string, TensorInfo>
  readonly metadata: Readonly<Record<string, string>>
  /** All bytes of a tensor. */
  read(name: string): Promise<Uint8Array>
  /**
   * Fills `target` with bytes of a tensor.
   *
   * @param from first byte wanted, counted from the tensor's own start; 0 unless given
   */
  readInto(name: string, target: Uint8Array, from?: number): Promise<void>
  /** A float tensor (F64, F32, F16, BF16, F8_E4M3, F8_E5M2) as f32. */
  readF32(name: string): Promise<Float32Array>
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * Opens a safetensors file and checks its whole header; reads no tensor.
 *
 * @throws SafetensorsError for a file that is missing, truncated or malformed
 */
export async function openSafetensors(file: string): Promise<SafetensorsFile> {
  let handle: FileHandle
  try {
    handle = await open(file, 'r')
  } catch (cause) {
    throw new SafetensorsError(
      'SAFETENSORS_CANNOT_OPEN',
      `${file} cannot be opened: ${(cause as Error).message}.`,
      'Check the path and that the file may be read.',
      { file, cause },
    )
  }
  try {
    return new OpenFile(file, handle, await readHeader(file, handle))
  } catch (error) {
    await handle.close()
    throw error
  }
}

async function readHeader(file: string, handle: FileHandle): Promise<SafetensorsHeader> {
  const stat = await handle.stat()
  if (!stat.isFile()) {
    throw new SafetensorsError(
      'SAFETENSORS_CANNOT_OPEN',
      `${file} is not a file.`,
      'Pass the path of a .safetensors file.',
      { file },
    )
  }
  const prefix = new Uint8Array(Math.min(headerLengthBytes, stat.size))
  await readFully(file, handle, prefix, 0)
  const json = new Uint8Array(parseHeaderLength(prefix, file, stat.size))
  await readFully(file, handle, json, headerLengthBytes)
  return parseHeader(json, file, stat.size)
}

async function readFully(
  file: string,
  handle: FileHandle,
  target: Uint8Array,
  position: number,
): Promise<void> {
  for (let done = 0; done < target.length;) {
    const length = Math.min(target.length - done, maxReadBytes)
    const { bytesRead } = await handle.read(target, done, length, position + done)
    if (bytesRead === 0) {
      throw new SafetensorsError(
        'SAFETENSORS_TRUNCATED',
        `${file} ended at byte ${position + done} while ${target.length - done} more bytes were wanted: it was cut after it was opened.`,
        fetchAgain,
        { file },
      )
    }
    done += bytesRead
  }
}

class OpenFile implements SafetensorsFile {
  readonly file: string
  readonly tensors: ReadonlyMap<string, TensorInfo>
  readonly metadata: Readonly<Record<string, string>>
  readonly #handle: FileHandle

  constructor(file: string, handle: FileHandle, header: SafetensorsHeader) {
    this.file = file
    this.#handle = handle
    this.tensors = header.tensors
    this.metadata = header.metadata
  }

  async read(name: string): Promise<Uint8Array> {
    const { start, end } = this.#info(name)
    const bytes = new Uint8Array(end - start)
    await readFully(this.file, this.#handle, bytes, start)
    return bytes
  }

  async readInto(name: string, target: Uint8Array, from = 0): Promise<void> {
    const { start, end } = this.#info(name)
    if (!Number.isSafeInteger(from) || from < 0 || from + target.length > end - start) {
      throw new SafetensorsError(
        'SAFETENSORS_BAD_RANGE',
        `Bytes ${from} to ${from + target.length} of tensor ${name} in ${this.file} were asked for; it has ${end - start}.`,
        'Ask for a range inside the tensor.',
        { file: this.file, tensor: name },
      )
    }
    await readFully(this.file, this.#handle, target, start + from)
  }

  async readF32(name: string): Promise<Float32Array> {
    const info = this.#info(name)
    const convert = toF32[info.dtype as keyof typeof toF32]
    if (!convert) {
      throw new SafetensorsError(
        'SAFETENSORS_NOT_FLOAT',
        `Tensor ${name} in ${this.file} is ${info.dtype}, not a float dtype.`,
        'Read its bytes instead, or check that this is the file you meant.',
        { file: this.file, tensor: name },
      )
    }
    const size = bytesPerElement[info.dtype]
    const out = new Float32Array((info.end - info.start) / size)
    if (info.dtype === 'F32') {
      await readFully(this.file, this.#handle, new Uint8Array(out.buffer), info.start)
      return out
    }
    const part = new Uint8Array(Math.min(info.end - info.start, convertBytes))
    for (let done = 0; done < info.end - info.start; done += part.length) {
      const bytes = part.subarray(0, Math.min(part.length, info.end - info.start - done))
      await readFully(this.file, this.#handle, bytes, info.start + done)
      convert(bytes, out.subarray(done / size, (done + bytes.length) / size))
    }
    return out
  }

  close(): Promise<void> {
    return this.#handle.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #info(name: string): TensorInfo {
    const info = this.tensors.get(name)
    if (!info) {
      throw new SafetensorsError(
        'SAFETENSORS_NO_SUCH_TENSOR',
        `${this.file} has no tensor ${name}; it has ${this.tensors.size} others.`,
        'Check that this is the file you meant, and that its layout is the expected one.',
        { file: this.file, tensor: name },
      )
    }
    return info
  }
}

const words = (bytes: Uint8Array) =>
  new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)

const toF32 = {
  F64: (bytes: Uint8Array, out: Float32Array) =>
    out.set(new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8)),
  F32: (bytes: Uint8Array, out: Float32Array) =>
    out.set(new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)),
  F16: (bytes: Uint8Array, out: Float32Array) => f16ToF32(words(bytes), out),
  BF16: (bytes: Uint8Array, out: Float32Array) => bf16ToF32(words(bytes), out),
  F8_E4M3: (bytes: Uint8Array, out: Float32Array) => f8e4m3ToF32(bytes, out),
  F8_E5M2: (bytes: Uint8Array, out: Float32Array) => f8e5m2ToF32(bytes, out),
} as const
