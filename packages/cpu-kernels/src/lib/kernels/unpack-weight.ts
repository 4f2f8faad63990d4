import type { PackedFormat } from '@kinora/kernel-api'
import type { FloatArray } from '../memory.ts'

/** Value of a float8 E4M3 code (no infinities; 0x7f and 0xff are NaN). */
function e4m3(code: number): number {
  const exponent = (code >>> 3) & 15
  const fraction = (code & 7) / 8
  if (exponent === 15 && fraction === 7 / 8) return Number.NaN
  const magnitude = exponent ? (1 + fraction) * 2 ** (exponent - 7) : fraction * 2 ** -6
  return code & 0x80 ? -magnitude : magnitude
}

const e4m3Table = Float64Array.from({ length: 256 }, (_, code) => e4m3(code))

/** Expands a packed weight [N, K] to its numbers; the arrangement is in kernel-api's `PackedFormat`. */
export function unpackWeight(
  format: PackedFormat,
  N: number,
  K: number,
  codes: Uint32Array,
  scales: FloatArray,
  zeros: FloatArray | undefined,
  groupSize: number,
): Float32Array {
  const out = new Float32Array(N * K)
  if (format === 'uint4') {
    const groups = K / groupSize
    for (let n = 0; n < N; n++) {
      for (let k = 0; k < K; k++) {
        const at = n * K + k
        const code = (codes[at >>> 3]! >>> (4 * (k & 7))) & 15
        const group = n * groups + Math.floor(k / groupSize)
        out[at] = (code - (zeros ? zeros[group]! : 0)) * scales[group]!
      }
    }
  } else {
    for (let n = 0; n < N; n++) {
      for (let k = 0; k < K; k++) {
        const at = n * K + k
        out[at] = e4m3Table[(codes[at >>> 2]! >>> (8 * (k & 3))) & 255]! * scales[n]!
      }
    }
  }
  return out
}
