// f16 and bf16 reach and leave a device as their 16 bits (`HostArray`): the conversions, on arrays, for backends and tests.
// To 16 bits they round to nearest, ties to even.

const scratchF32 = new Float32Array(1)
const scratchU32 = new Uint32Array(scratchF32.buffer)

function f16Bits(value: number): number {
  scratchF32[0] = value
  const bits = scratchU32[0]!
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00 // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00 // 65 520 and more round to infinity
  if (magnitude >= 0x38800000) {
    return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13)
  }
  // Subnormal: 2^-24 is one step of f32 in [0.5, 1), so the addition rounds and leaves the wanted bits last.
  scratchU32[0] = magnitude
  scratchF32[0] = scratchF32[0]! + 0.5
  return sign | (scratchU32[0]! - 0x3f000000)
}

function f16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >>> 10) & 31
  const fraction = (bits & 0x3ff) / 1024
  if (exponent === 31) return fraction ? Number.NaN : sign * Infinity
  return sign * (exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14)
}

let f16Table: Float32Array | undefined

/** Numbers to the bits of IEEE half precision; infinite from 65 520 on. */
export function f16FromF32(source: ArrayLike<number>): Uint16Array {
  const out = new Uint16Array(source.length)
  for (let i = 0; i < out.length; i++) out[i] = f16Bits(source[i]!)
  return out
}

/** The bits of half precision to numbers; exact. */
export function f32FromF16(source: Uint16Array): Float32Array {
  f16Table ??= Float32Array.from({ length: 0x10000 }, (_, bits) => f16Value(bits))
  const out = new Float32Array(source.length)
  for (let i = 0; i < out.length; i++) out[i] = f16Table[source[i]!]!
  return out
}

/** Numbers to the bits of bf16, the upper half of an f32. */
export function bf16FromF32(source: ArrayLike<number>): Uint16Array {
  const out = new Uint16Array(source.length)
  for (let i = 0; i < out.length; i++) {
    scratchF32[0] = source[i]!
    const bits = scratchU32[0]!
    const isNaN = (bits & 0x7fffffff) > 0x7f800000
    out[i] = isNaN ? (bits >>> 16) | 0x40 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
  }
  return out
}

/** The bits of bf16 to numbers; exact. */
export function f32FromBf16(source: Uint16Array): Float32Array {
  const out = new Float32Array(source.length)
  const bits = new Uint32Array(out.buffer)
  for (let i = 0; i < out.length; i++) bits[i] = source[i]! << 16
  return out
}
