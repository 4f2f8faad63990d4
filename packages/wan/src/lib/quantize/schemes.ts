import { defaultGroupSize, type PackedFormat } from '@kinora/kernel-api'

/** What a packed format is made of. */
export interface PackedLayout {
  readonly format: PackedFormat
  /** Codes in a u32. */
  readonly codesPerWord: number
  /** Elements along K that share a scale and a zero; absent for a scale a row. */
  readonly groupSize?: number
  /** Largest size of what a scale is multiplied by. */
  readonly largestCode: number
}

const uint4: PackedLayout = {
  format: 'uint4',
  codesPerWord: 8,
  groupSize: defaultGroupSize,
  largestCode: 15,
}
const float8: PackedLayout = {
  format: 'float8_e4m3',
  codesPerWord: 4,
  largestCode: 448,
}

/**
 * How frozen linears are packed, by AI Toolkit's names: `uint4` (torchao's arrangement, groups of 64), `qfloat8` (quanto: E4M3
 * with a scale a row, worked out in bf16) and `float8` (torchao: the same, worked out in f32).
 */
export const packedFormats = { uint4, qfloat8: float8, float8 } as const

/** Name of a way to pack weights. */
export type QuantizeScheme = keyof typeof packedFormats

/** All schemes, for options. */
export const quantizeSchemes = Object.keys(packedFormats) as readonly QuantizeScheme[]

/** Dtype a weight has when it is packed: every step of the arithmetic is rounded to bf16, as torch does it, or is f32. */
export function packingDType(scheme: QuantizeScheme): 'bf16' | 'f32' {
  return scheme === 'float8' ? 'f32' : 'bf16'
}

/** Whether rows of K elements fill whole groups and words. Others stay dense. */
export function canPack(scheme: QuantizeScheme, k: number): boolean {
  const { codesPerWord, groupSize = codesPerWord } = packedFormats[scheme] as PackedLayout
  return k % groupSize === 0
}

/** Bytes of a packed weight [n, k]: codes, scales and zeros. */
export function packedBytes(scheme: QuantizeScheme, n: number, k: number): number {
  const { codesPerWord, groupSize } = packedFormats[scheme] as PackedLayout
  const codes = (n * k * 4) / codesPerWord
  return groupSize === undefined ? codes + 4 * n : codes + 4 * n * (k / groupSize)
}
