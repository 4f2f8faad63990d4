import { z } from 'zod'
import { checkpointErrors } from '../errors.ts'
import {
  packedFormats,
  quantizeSchemes,
  type PackedLayout,
  type QuantizeScheme,
} from './schemes.ts'

// A packed checkpoint file: an ordinary safetensors file in which a packed weight `w` [N, K] is three tensors (two for float8),
// and whose metadata has one key, `kinora_packing`, that says how.
//
//   w.codes    U32 [N, K/8] or [N, K/4]    eight 4-bit codes or four bytes a word, lowest first
//   w.scales   F16 [N, K/64], or F32 [N]
//   w.zeros    F16 [N, K/64]               uint4 only
//
// The number an element stands for is (code − zero) · scale, or e4m3(code) · scale.

/** File beside packed weights with the adapter that gives back what packing lost, in ComfyUI's layout. */
export const recoveryFile = 'recovery_adapter.safetensors'

/** Metadata key of a file with packed weights. */
export const packingKey = 'kinora_packing'

const schema = z.object({
  version: z.literal(1),
  scheme: z.enum(quantizeSchemes as [QuantizeScheme, ...QuantizeScheme[]]),
  source: z.string(),
})

/** What a file says of its packed weights. */
export type Packing = z.output<typeof schema>

/** Metadata of a file with packed weights. `source` is the fingerprint of what it was made from. */
export function packingMetadata(packing: Omit<Packing, 'version'>): Record<string, string> {
  return { [packingKey]: JSON.stringify({ version: 1, ...packing }) }
}

/** Reads it back; undefined for a file without packed weights. */
export function readPacking(
  metadata: Readonly<Record<string, string>>,
  file: string,
): Packing | undefined {
  const text = metadata[packingKey]
  if (text === undefined) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    value = undefined
  }
  const parsed = schema.safeParse(value)
  if (!parsed.success) throw checkpointErrors.BAD_PACKING(file, text)
  return parsed.data
}

/** A tensor of a packed file, with the dtype it must have. */
export interface PackedTensorShape {
  readonly shape: readonly number[]
  readonly dtype: 'U32' | 'F16' | 'F32'
}

/** The tensors that stand for a packed weight [n, k]. */
export function packedTensors(
  name: string,
  scheme: QuantizeScheme,
  [n, k]: readonly [number, number],
): Map<string, PackedTensorShape> {
  const { codesPerWord, groupSize } = packedFormats[scheme] as PackedLayout
  const tensors = new Map<string, PackedTensorShape>([
    [`${name}.codes`, { shape: [n, k / codesPerWord], dtype: 'U32' }],
  ])
  if (groupSize === undefined) {
    tensors.set(`${name}.scales`, { shape: [n], dtype: 'F32' })
  } else {
    tensors.set(`${name}.scales`, { shape: [n, k / groupSize], dtype: 'F16' })
    tensors.set(`${name}.zeros`, { shape: [n, k / groupSize], dtype: 'F16' })
  }
  return tensors
}
