import { createHash } from 'node:crypto'
import type { SafetensorsDType } from '@kinora/safetensors'

/** A tensor as it lies in the file. */
export interface HashedTensor {
  name: string
  dtype: SafetensorsDType
  shape: readonly number[]
  sizeBytes: number
  /** Called once. */
  bytes: () => Uint8Array
}

/**
 * The two hashes that AI Toolkit and kohya's trainers put in the metadata, by which galleries recognise a LoRA.
 *
 * - `sshs_model_hash`: SHA-256 of the data of the file, header left out
 * - `sshs_legacy_hash`: first 8 digits of the SHA-256 of the 64 KiB at 1 MiB of the file as it would be with only the
 *   `ss_…` metadata in its header
 *
 * @param tensors in the order of the file
 */
export function modelHashes(
  tensors: readonly HashedTensor[],
  metadata: Readonly<Record<string, string>>,
): { sshs_model_hash: string; sshs_legacy_hash: string } {
  const header = headerBytes(
    tensors,
    Object.fromEntries(Object.entries(metadata).filter(([key]) => key.startsWith('ss_'))),
  )
  const whole = createHash('sha256')
  const legacy = createHash('sha256')
  const start = 0x100000
  const end = start + 0x10000
  let position = 0
  const visit = (bytes: Uint8Array) => {
    const from = Math.max(0, start - position)
    const to = Math.min(bytes.length, end - position)
    if (from < to) legacy.update(bytes.subarray(from, to))
    position += bytes.length
  }
  visit(header)
  for (const tensor of tensors) {
    const bytes = tensor.bytes()
    whole.update(bytes)
    visit(bytes)
  }
  return {
    sshs_model_hash: whole.digest('hex'),
    sshs_legacy_hash: legacy.digest('hex').slice(0, 8),
  }
}

/** The header as the reference library writes it: 8 bytes of length, JSON without spaces, padded to a multiple of 8. */
function headerBytes(
  tensors: readonly HashedTensor[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const entries: Record<string, unknown> = {}
  if (Object.keys(metadata).length > 0) entries['__metadata__'] = metadata
  let offset = 0
  for (const { name, dtype, shape, sizeBytes } of tensors) {
    entries[name] = { dtype, shape, data_offsets: [offset, offset + sizeBytes] }
    offset += sizeBytes
  }
  const json = Buffer.from(JSON.stringify(entries))
  const padded = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, 0x20)
  padded.writeBigUInt64LE(BigInt(padded.length - 8), 0)
  json.copy(padded, 8)
  return padded
}
