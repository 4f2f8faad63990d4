import { f16FromF32, f32FromF16 } from '@kinora/kernel-api'
import type { FloatArray } from '../memory.ts'

// Axes: N out features, K in features. The arithmetic is that of `Ops.quantize`: f32, and where the weight is bf16 every step
// rounded to it.

type Round = (value: number) => number

const scratchF32 = new Float32Array(1)
const scratchU32 = new Uint32Array(scratchF32.buffer)

const roundBf16: Round = (value) => {
  scratchF32[0] = value
  const bits = scratchU32[0]!
  scratchU32[0] = (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000
  return scratchF32[0]
}
const roundF16: Round = (value) => f32FromF16(f16FromF32([value]))[0]!

// 1.5 · 2^52 has a step of 1: adding it rounds to the nearest integer, ties to even.
const rint: Round = (value) => value + 6755399441055744 - 6755399441055744

/** Packs [N, K] in groups of `groupSize`: eight codes a word, a scale and a zero a group. */
export function quantizeUint4(
  w: FloatArray,
  isBf16: boolean,
  groupSize: number,
  out: { codes: Uint32Array; scales: FloatArray; zeros: FloatArray },
): void {
  const R = isBf16 ? roundBf16 : Math.fround
  for (let g = 0; g < out.scales.length; g++) {
    const at = g * groupSize
    let low = 0
    let high = 0
    for (let k = at; k < at + groupSize; k++) {
      if (w[k]! < low) low = w[k]!
      if (w[k]! > high) high = w[k]!
    }
    const scale = roundF16(Math.max(R(R(high - low) / 15), 2 ** -23))
    const zero = Math.min(-rint(R(low / scale)), 15)
    const inverse = R(1 / scale)
    for (let k = at; k < at + groupSize; k += 8) {
      let word = 0
      for (let i = 0; i < 8; i++) {
        const code = rint(R(w[k + i]! * inverse)) + zero
        word |= Math.min(Math.max(code, 0), 15) << (4 * i)
      }
      out.codes[k / 8] = word
    }
    out.scales[g] = scale
    out.zeros[g] = zero
  }
}

/** Packs the rows of [N, K]: four codes a word, a scale a row. */
export function quantizeFloat8(
  w: FloatArray,
  isBf16: boolean,
  K: number,
  out: { codes: Uint32Array; scales: FloatArray },
): void {
  const R = isBf16 ? roundBf16 : Math.fround
  for (let n = 0; n < out.scales.length; n++) {
    let largest = 0
    for (let k = n * K; k < (n + 1) * K; k++) largest = Math.max(largest, Math.abs(w[k]!))
    const scale = R(largest / 448) || 1
    for (let k = n * K; k < (n + 1) * K; k += 4) {
      let word = 0
      for (let i = 0; i < 4; i++) word |= e4m3Code(R(w[k + i]! / scale)) << (8 * i)
      out.codes[k / 4] = word
    }
    out.scales[n] = scale
  }
}

/** The nearest E4M3 code, ties to even; 448 past the end. */
function e4m3Code(value: number): number {
  const magnitude = Math.min(Math.abs(value), 448)
  const sign = value < 0 ? 0x80 : 0
  // Below 2^-6 the codes are 2^-9 apart; the eighth of them is the first normal one.
  if (magnitude < 2 ** -6) return sign | rint(magnitude * 512)
  scratchF32[0] = magnitude
  const bits = scratchU32[0]!
  return sign | ((bits - 0x3c000000 + 0x7ffff + ((bits >>> 20) & 1)) >>> 20)
}
