import { randomBytes } from 'node:crypto'
import { rmSync } from 'node:fs'
import { open, rename, rm, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { bytesPerElement, type SafetensorsDType } from './dtype.ts'
import { f32ToBf16, f32ToF16, f32ToF8e4m3 } from './float-formats.ts'
import { compareCodeUnits, encodeHeader, maxRank, tensorBytes } from './header.ts'
import { SafetensorsError } from './safetensors-error.ts'

/** Elements converted at a time: what the writer holds beside the caller's arrays. */
const convertElements = 2 ** 20

/** Arrays a tensor may be given as. */
export type TensorArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array

/**
 * A tensor to write.
 *
 * `data` is one of: the dtype's own array; a Uint8Array or Uint16Array of its raw bits; a Float32Array or Float64Array for
 * F64, F32, F16, BF16 and F8_E4M3, rounded to nearest even. Or a function that makes the bytes when their turn comes, whole or
 * in parts, so that nothing needs to be held: it is called once.
 */
export interface TensorToWrite {
  readonly name: string
  readonly dtype: SafetensorsDType
  readonly shape: readonly number[]
  readonly data: TensorArray | (() => TensorSource | Promise<TensorSource>)
}
/** Bytes of a tensor, whole or in parts that follow each other. */
export type TensorSource = TensorArray | Iterable<TensorArray> | AsyncIterable<TensorArray>

/** Temporary files being written, which a process that exits meanwhile must not leave. */
const unfinished = new Set<string>()
let watchesExit = false

function removeOnExit(temporary: string): void {
  unfinished.add(temporary)
  if (watchesExit) return
  watchesExit = true
  process.on('exit', () => {
    for (const file of unfinished) rmSync(file, { force: true })
  })
}

/**
 * Writes a file under a temporary name beside it, flushes it to the disk, and renames it: a reader sees the old file or the
 * whole new one. The bytes depend on the arguments alone, not on the order of tensors or keys: tensors are laid out by element
 * size, largest first (so that each is aligned), then by name.
 *
 * @param metadata strings by key
 * @throws SafetensorsError for data that does not fit its shape, a name given twice, or a disk that refuses
 */
export async function writeSafetensors(
  file: string,
  tensors: Iterable<TensorToWrite>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const sorted = [...tensors].sort(
    (a, b) =>
      bytesPerElement[b.dtype] - bytesPerElement[a.dtype] || compareCodeUnits(a.name, b.name),
  )
  checkTensors(file, sorted)
  const temporary = join(
    dirname(file),
    `.${basename(file)}.${process.pid}-${randomBytes(4).toString('hex')}.tmp`,
  )
  let handle: FileHandle | undefined
  removeOnExit(temporary)
  try {
    handle = await open(temporary, 'wx')
    await writeFully(handle, encodeHeader(sorted, metadata))
    for (const tensor of sorted) await writeTensor(handle, file, tensor)
    await handle.sync()
    await handle.close()
    handle = undefined
    await rename(temporary, file)
    await syncFolder(dirname(file))
  } catch (cause) {
    await handle?.close()
    await rm(temporary, { force: true })
    if (!isSystemError(cause)) throw cause
    throw new SafetensorsError(
      'SAFETENSORS_CANNOT_WRITE',
      `${file} cannot be written: ${cause.message}.`,
      'Check that the folder exists, may be written to and has room.',
      { file, cause },
    )
  } finally {
    unfinished.delete(temporary)
  }
}

function checkTensors(file: string, sorted: readonly TensorToWrite[]): void {
  const seen = new Set<string>()
  for (const { name, shape } of sorted) {
    if (seen.has(name) || name === '__metadata__') {
      throw new SafetensorsError(
        'SAFETENSORS_DUPLICATE_NAME',
        name === '__metadata__'
          ? `A tensor for ${file} is called __metadata__, which the format reserves.`
          : `Two tensors for ${file} are called ${name}.`,
        'Give every tensor its own name.',
        { file, tensor: name },
      )
    }
    seen.add(name)
    if (shape.length > maxRank || !shape.every((n) => Number.isSafeInteger(n) && n >= 0)) {
      throw new SafetensorsError(
        'SAFETENSORS_BAD_DATA',
        `Tensor ${name} for ${file} has shape [${shape.join(', ')}], which is not up to ${maxRank} non-negative integers.`,
        'Pass the extents of the array.',
        { file, tensor: name },
      )
    }
  }
}

async function writeTensor(
  handle: FileHandle,
  file: string,
  { name, dtype, shape, data }: TensorToWrite,
): Promise<void> {
  const expected = tensorBytes(dtype, shape)
  let written = 0
  for await (const part of partsOf(typeof data === 'function' ? await data() : data)) {
    for (const bytes of encode(file, name, dtype, part)) {
      written += bytes.length
      if (written > expected) break
      await writeFully(handle, bytes)
    }
  }
  if (written !== expected) {
    throw new SafetensorsError(
      'SAFETENSORS_BAD_DATA',
      `Tensor ${name} for ${file} has shape [${shape.join(', ')}] of ${dtype}, ${expected} bytes, but its data has ${written > expected ? 'more' : written}.`,
      'Pass as many elements as the shape has.',
      { file, tensor: name },
    )
  }
}

async function* partsOf(source: TensorSource): AsyncGenerator<TensorArray> {
  if (ArrayBuffer.isView(source)) yield source
  else yield* source
}

const arrayOf = {
  BOOL: Uint8Array,
  U8: Uint8Array,
  I8: Int8Array,
  F8_E5M2: Uint8Array,
  F8_E4M3: Uint8Array,
  I16: Int16Array,
  U16: Uint16Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I32: Int32Array,
  U32: Uint32Array,
  F32: Float32Array,
  F64: Float64Array,
  I64: BigInt64Array,
  U64: BigUint64Array,
} as const satisfies Record<SafetensorsDType, unknown>

const fromF32 = {
  F64: (part: Float32Array) => Float64Array.from(part),
  F32: (part: Float32Array) => part,
  F16: (part: Float32Array) => f32ToF16(part),
  BF16: (part: Float32Array) => f32ToBf16(part),
  F8_E4M3: (part: Float32Array) => f32ToF8e4m3(part),
} as const

function* encode(
  file: string,
  name: string,
  dtype: SafetensorsDType,
  part: TensorArray,
): Generator<Uint8Array> {
  if (part instanceof Uint8Array || part instanceof arrayOf[dtype]) {
    yield new Uint8Array(part.buffer, part.byteOffset, part.byteLength)
    return
  }
  const convert = fromF32[dtype as keyof typeof fromF32]
  if (!convert || !(part instanceof Float32Array || part instanceof Float64Array)) {
    throw new SafetensorsError(
      'SAFETENSORS_BAD_DATA',
      `Tensor ${name} for ${file} is ${dtype} but was given as ${part.constructor.name}.`,
      `Pass a ${arrayOf[dtype].name}, the raw bytes as a Uint8Array, or a Float32Array for a float dtype.`,
      { file, tensor: name },
    )
  }
  for (let i = 0; i < part.length; i += convertElements) {
    const piece = part.subarray(i, i + convertElements)
    const array = convert(piece instanceof Float32Array ? piece : Float32Array.from(piece))
    yield new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
  }
}

async function writeFully(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await handle.write(
      bytes,
      done,
      Math.min(bytes.length - done, 64 * 2 ** 20),
    )
    done += bytesWritten
  }
}

/** Makes the rename itself durable. Windows cannot open a folder, and needs no help. */
async function syncFolder(folder: string): Promise<void> {
  let handle: FileHandle | undefined
  try {
    handle = await open(folder, 'r')
    await handle.sync()
  } catch {
    // Durability of the name is best effort; the file itself is already safe.
  } finally {
    await handle?.close()
  }
}

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error
}
