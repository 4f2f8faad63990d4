import { bytesPerElement, isSafetensorsDType, type SafetensorsDType } from './dtype.ts'
import { fetchAgain, SafetensorsError } from './safetensors-error.ts'

// A safetensors file (https://github.com/huggingface/safetensors), all integers little-endian:
//
//   offset     bytes   what
//   0          8       n, length of the header in bytes, unsigned
//   8          n       header: one JSON object in UTF-8, starting with "{", padded at its end with spaces
//                        "<name>": { "dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end] }
//                        "__metadata__": { "<key>": "<string>" }            (optional)
//   8 + n      …       data: begin and end count from here, end exclusive; row-major elements, no gaps, no overlaps,
//                        up to the end of the file
//
// Both sides of every number come from outside, so each has a bound here:

/** Bytes before the JSON. */
export const headerLengthBytes = 8
/** Longest header accepted, in bytes: the reference implementation's limit. A real expert of 1 095 tensors needs 0.2 MB. */
export const maxHeaderBytes = 100_000_000
/** Most dimensions of a tensor: what any framework holds is far below; it keeps a hostile shape from costing time. */
export const maxRank = 64
/** The header starts here relative to a multiple of this, so that the data is aligned for every dtype. */
export const headerAlignment = 8

/** Where a tensor lies in its file. */
export interface TensorInfo {
  readonly dtype: SafetensorsDType
  readonly shape: readonly number[]
  /** First byte, counted from the start of the file. */
  readonly start: number
  /** One past the last byte. */
  readonly end: number
}

/** A header that was checked against the size of its file. */
export interface SafetensorsHeader {
  /** In the order of their bytes. */
  readonly tensors: ReadonlyMap<string, TensorInfo>
  readonly metadata: Readonly<Record<string, string>>
  /** Bytes before the data: 8 + the header's length. */
  readonly dataStart: number
}

/**
 * Length of the JSON header, from the first 8 bytes of a file.
 *
 * @param file name for errors
 * @param fileBytes size of the whole file
 */
export function parseHeaderLength(prefix: Uint8Array, file: string, fileBytes: number): number {
  if (prefix.length < headerLengthBytes) {
    throw new SafetensorsError(
      'SAFETENSORS_TRUNCATED',
      `${file} has ${fileBytes} bytes; a safetensors file starts with 8 bytes of header length.`,
      fetchAgain,
      { file },
    )
  }
  const view = new DataView(prefix.buffer, prefix.byteOffset, prefix.byteLength)
  const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32
  if (length > maxHeaderBytes) {
    throw new SafetensorsError(
      'SAFETENSORS_HEADER_TOO_LARGE',
      `${file} says that its header has ${length} bytes; the limit is ${maxHeaderBytes}. It is probably not a safetensors file.`,
      'Pass a .safetensors file; a .pt, .pth or .ckpt pickle must be converted first.',
      { file },
    )
  }
  if (headerLengthBytes + length > fileBytes) {
    throw new SafetensorsError(
      'SAFETENSORS_TRUNCATED',
      `${file} has ${fileBytes} bytes, but its header alone ends at ${headerLengthBytes + length}.`,
      fetchAgain,
      { file },
    )
  }
  return length
}

/**
 * Parses and checks a header: every tensor inside the file, none overlapping, shape × dtype = bytes, no name twice.
 *
 * @param json the header's bytes, without the 8 before it
 * @param file name for errors
 * @param fileBytes size of the whole file
 */
export function parseHeader(json: Uint8Array, file: string, fileBytes: number): SafetensorsHeader {
  const text = decodeUtf8(json, file)
  if (!text.startsWith('{')) {
    throw new SafetensorsError(
      'SAFETENSORS_NOT_SAFETENSORS',
      `${file} has no JSON object where the header should be.`,
      'Pass a .safetensors file; a .pt, .pth or .ckpt pickle must be converted first.',
      { file },
    )
  }
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (cause) {
    throw new SafetensorsError(
      'SAFETENSORS_BAD_HEADER',
      `The header of ${file} is not valid JSON: ${(cause as Error).message}.`,
      fetchAgain,
      { file, cause },
    )
  }
  const twice = findDuplicateKey(text)
  if (twice !== undefined) {
    throw new SafetensorsError(
      'SAFETENSORS_DUPLICATE_NAME',
      `${file} names ${JSON.stringify(twice)} twice in its header.`,
      'Write the file again with one tensor a name.',
      { file, tensor: twice },
    )
  }
  const dataStart = headerLengthBytes + json.length
  let metadata: Record<string, string> = {}
  const found: [string, TensorInfo][] = []
  for (const [name, entry] of Object.entries(parsed as object)) {
    if (name === '__metadata__') metadata = checkMetadata(entry, file)
    else found.push([name, checkEntry(name, entry, file, dataStart)])
  }
  found.sort(([, a], [, b]) => a.start - b.start || a.end - b.end)
  checkLayout(found, file, dataStart, fileBytes)
  return { tensors: new Map(found), metadata, dataStart }
}

function decodeUtf8(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (cause) {
    throw new SafetensorsError(
      'SAFETENSORS_BAD_HEADER',
      `The header of ${file} is not valid UTF-8.`,
      fetchAgain,
      { file, cause },
    )
  }
}

/** `JSON.parse` keeps the last of two equal keys without a word. The text is known to be valid JSON. */
function findDuplicateKey(text: string): string | undefined {
  const seen = new Set<string>()
  let depth = 0
  let expectKey = false
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (c === '"') {
      let end = i + 1
      while (text[end] !== '"') end += text[end] === '\\' ? 2 : 1
      if (depth === 1 && expectKey) {
        const key = JSON.parse(text.slice(i, end + 1)) as string
        if (seen.has(key)) return key
        seen.add(key)
        expectKey = false
      }
      i = end
    } else if (c === '{' || c === '[') {
      depth++
      expectKey = depth === 1
    } else if (c === '}' || c === ']') depth--
    else if (c === ',' && depth === 1) expectKey = true
  }
  return undefined
}

function checkMetadata(entry: unknown, file: string): Record<string, string> {
  const pairs = isRecord(entry) ? Object.entries(entry) : undefined
  if (!pairs?.every(([, value]) => typeof value === 'string')) {
    throw new SafetensorsError(
      'SAFETENSORS_BAD_HEADER',
      `__metadata__ in ${file} is not an object of strings.`,
      'Write the file again with string values in its metadata.',
      { file },
    )
  }
  return Object.fromEntries(pairs) as Record<string, string>
}

function checkEntry(name: string, entry: unknown, file: string, dataStart: number): TensorInfo {
  const bad = (what: string) =>
    new SafetensorsError(
      'SAFETENSORS_BAD_TENSOR',
      `Tensor ${name} in ${file} ${what}.`,
      fetchAgain,
      { file, tensor: name },
    )
  if (!isRecord(entry)) throw bad('is not described by an object')
  const dtype = entry['dtype']
  if (!isSafetensorsDType(dtype)) {
    throw new SafetensorsError(
      'SAFETENSORS_UNKNOWN_DTYPE',
      `Tensor ${name} in ${file} has dtype ${JSON.stringify(dtype)}; known are ${Object.keys(bytesPerElement).join(', ')}.`,
      'Convert the file to one of the known dtypes.',
      { file, tensor: name },
    )
  }
  const shape = entry['shape']
  if (!isSizes(shape)) throw bad('has a shape that is not a list of non-negative integers')
  if (shape.length > maxRank) throw bad(`has ${shape.length} dimensions; the limit is ${maxRank}`)
  const offsets = entry['data_offsets']
  if (!isSizes(offsets) || offsets.length !== 2)
    throw bad('has data_offsets that are not two non-negative integers')
  const [begin, end] = offsets as [number, number]
  const bytes = shape.reduce((product, extent) => product * extent, bytesPerElement[dtype])
  if (end - begin !== bytes) {
    throw bad(
      `has shape [${shape.join(', ')}] of ${dtype}, ${bytes} bytes, but offsets [${begin}, ${end}], ${end - begin} bytes`,
    )
  }
  return { dtype, shape, start: dataStart + begin, end: dataStart + end }
}

/** Sorted tensors must tile the data exactly: the format allows neither gaps nor overlaps nor leftover bytes. */
function checkLayout(
  sorted: readonly [string, TensorInfo][],
  file: string,
  dataStart: number,
  fileBytes: number,
): void {
  let position = dataStart
  let before = 'the header'
  for (const [name, { start, end }] of sorted) {
    if (end > fileBytes) {
      throw new SafetensorsError(
        'SAFETENSORS_TRUNCATED',
        `${file} has ${fileBytes} bytes, but tensor ${name} ends at byte ${end}.`,
        fetchAgain,
        { file, tensor: name },
      )
    }
    if (start !== position) {
      throw new SafetensorsError(
        'SAFETENSORS_BAD_OFFSETS',
        start < position
          ? `Tensor ${name} in ${file} starts at byte ${start}, inside ${before}, which ends at ${position}.`
          : `${file} has ${start - position} bytes between ${before} and tensor ${name} that belong to no tensor.`,
        'Write the file again with a library that follows the format.',
        { file, tensor: name },
      )
    }
    position = end
    before = `tensor ${name}`
  }
  if (position !== fileBytes) {
    throw new SafetensorsError(
      'SAFETENSORS_BAD_OFFSETS',
      `${file} has ${fileBytes - position} bytes after its last tensor.`,
      fetchAgain,
      { file },
    )
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0)
}

/** What a header is made of: the tensors in the order of their bytes. */
export interface HeaderEntry {
  readonly name: string
  readonly dtype: SafetensorsDType
  readonly shape: readonly number[]
}

/** The 8 bytes of length and the JSON, padded so that the data is aligned. Metadata keys are sorted. */
export function encodeHeader(
  entries: readonly HeaderEntry[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const parts: string[] = []
  const keys = Object.keys(metadata).sort(compareCodeUnits)
  if (keys.length > 0) {
    const pairs = keys.map((key) => `${JSON.stringify(key)}:${JSON.stringify(metadata[key])}`)
    parts.push(`"__metadata__":{${pairs.join(',')}}`)
  }
  let begin = 0
  for (const { name, dtype, shape } of entries) {
    const end = begin + tensorBytes(dtype, shape)
    parts.push(
      `${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, end] })}`,
    )
    begin = end
  }
  const json = new TextEncoder().encode(`{${parts.join(',')}}`)
  const padded = Math.ceil(json.length / headerAlignment) * headerAlignment
  const bytes = new Uint8Array(headerLengthBytes + padded).fill(0x20)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true)
  bytes.set(json, headerLengthBytes)
  return bytes
}

/** Order by UTF-16 code units: the same in every locale. */
export function compareCodeUnits(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/** Bytes of a tensor's elements. */
export function tensorBytes(dtype: SafetensorsDType, shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, bytesPerElement[dtype])
}
