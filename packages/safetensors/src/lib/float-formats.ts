// Conversions between f32 and the shorter float formats, on arrays. All round to nearest, ties to even, as IEEE 754 asks and
// as torch and numpy do. Decoding goes through a table (at most 65 536 entries, made at first use): exact, and several times
// faster than assembling each number.

const scratchF32 = new Float32Array(1)
const scratchU32 = new Uint32Array(scratchF32.buffer)

/** Value of a small float: `exponentBits` and `mantissaBits` after the sign, IEEE-like subnormals. */
function decodeSmall(
  exponent: number,
  mantissa: number,
  mantissaBits: number,
  bias: number,
): number {
  const fraction = mantissa / 2 ** mantissaBits
  return exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias)
}

let f16Table: Float32Array | undefined
function f16Values(): Float32Array {
  if (f16Table) return f16Table
  const table = new Float32Array(0x10000)
  const bits = new Uint32Array(table.buffer)
  for (let code = 0; code < 0x8000; code++) {
    const exponent = code >>> 10
    const mantissa = code & 0x3ff
    if (exponent === 31) bits[code] = 0x7f800000 | (mantissa << 13)
    else table[code] = decodeSmall(exponent, mantissa, 10, 15)
    bits[code + 0x8000] = (bits[code]! | 0x80000000) >>> 0
  }
  return (f16Table = table)
}

let e4m3Table: Float32Array | undefined
function e4m3Values(): Float32Array {
  if (e4m3Table) return e4m3Table
  const table = new Float32Array(256)
  for (let code = 0; code < 128; code++) {
    const value = code === 0x7f ? Number.NaN : decodeSmall(code >>> 3, code & 7, 3, 7)
    table[code] = value
    table[code + 128] = -value
  }
  return (e4m3Table = table)
}

/**
 * IEEE half precision to f32; exact, NaN payloads and signed zeros included.
 *
 * @param source the 16 bits of each number
 * @param target receives the numbers; made unless given, at least as long as `source`
 */
export function f16ToF32(
  source: Uint16Array,
  target: Float32Array = new Float32Array(source.length),
): Float32Array {
  // NaN payloads survive only when the bits are moved as integers.
  const values = new Uint32Array(f16Values().buffer)
  const out = new Uint32Array(target.buffer, target.byteOffset, target.length)
  for (let i = 0; i < source.length; i++) out[i] = values[source[i]!]!
  return target
}

/** f32 to the bits of IEEE half precision. From 65 520 on the result is infinite; NaN stays NaN. */
export function f32ToF16(
  source: Float32Array,
  target: Uint16Array = new Uint16Array(source.length),
): Uint16Array {
  const input = new Uint32Array(source.buffer, source.byteOffset, source.length)
  for (let i = 0; i < input.length; i++) target[i] = f16Bits(input[i]!)
  return target
}

function f16Bits(bits: number): number {
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00 // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00 // 65 520 and more
  if (magnitude >= 0x38800000) {
    // Normal: drop 13 bits of mantissa, rounding to even, and rebias the exponent by 112.
    return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13)
  }
  // Below the smallest normal, 2^-14: adding 0.5 leaves exactly the wanted bits at the end of the sum, rounded to even by
  // the addition itself, since one step of a subnormal half, 2^-24, is one step of f32 in [0.5, 1).
  scratchU32[0] = magnitude
  scratchF32[0] = scratchF32[0]! + 0.5
  return sign | (scratchU32[0]! - 0x3f000000)
}

/** bf16 (the upper half of an f32) to f32; exact. */
export function bf16ToF32(
  source: Uint16Array,
  target: Float32Array = new Float32Array(source.length),
): Float32Array {
  const out = new Uint32Array(target.buffer, target.byteOffset, target.length)
  for (let i = 0; i < source.length; i++) out[i] = source[i]! << 16
  return target
}

/** f32 to bf16. NaN stays NaN, quiet. */
export function f32ToBf16(
  source: Float32Array,
  target: Uint16Array = new Uint16Array(source.length),
): Uint16Array {
  const input = new Uint32Array(source.buffer, source.byteOffset, source.length)
  for (let i = 0; i < input.length; i++) {
    const bits = input[i]!
    target[i] =
      (bits & 0x7fffffff) > 0x7f800000
        ? (bits >>> 16) | 0x40
        : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
  }
  return target
}

/** float8 E4M3 ("fn": no infinities, largest 448) to f32; exact. */
export function f8e4m3ToF32(
  source: Uint8Array,
  target: Float32Array = new Float32Array(source.length),
): Float32Array {
  const values = e4m3Values()
  for (let i = 0; i < source.length; i++) target[i] = values[source[i]!]!
  return target
}

/** f32 to float8 E4M3. What would round past 448 (above 464, and infinities) becomes NaN, as in torch. */
export function f32ToF8e4m3(
  source: Float32Array,
  target: Uint8Array = new Uint8Array(source.length),
): Uint8Array {
  const input = new Uint32Array(source.buffer, source.byteOffset, source.length)
  for (let i = 0; i < input.length; i++) target[i] = e4m3Bits(input[i]!)
  return target
}

function e4m3Bits(bits: number): number {
  const sign = (bits >>> 24) & 0x80
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x43e80000) return sign | 0x7f // above 464, infinite or NaN
  if (magnitude >= 0x3c800000) {
    // Normal, from 2^-6: drop 20 bits of mantissa and rebias the exponent by 120.
    return sign | ((magnitude - 0x3c000000 + 0x7ffff + ((magnitude >>> 20) & 1)) >>> 20)
  }
  // Subnormal steps of 2^-9 are one f32 step in [2^14, 2^15): the addition rounds, as for f16.
  scratchU32[0] = magnitude
  scratchF32[0] = scratchF32[0]! + 16384
  return sign | (scratchU32[0]! - 0x46800000)
}

/** float8 E5M2 (the upper half of an f16) to f32; exact. */
export function f8e5m2ToF32(
  source: Uint8Array,
  target: Float32Array = new Float32Array(source.length),
): Float32Array {
  const values = f16Values()
  for (let i = 0; i < source.length; i++) target[i] = values[source[i]! << 8]!
  return target
}
