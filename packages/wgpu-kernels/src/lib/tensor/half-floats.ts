// Conversions between f32 and the 16-bit formats on the host, for `read`. Uploads never convert: f16 and bf16 arrive as bits.

let f16Table: Float32Array | undefined

/** Value of each of the 65 536 half-precision bit patterns. */
function halfTable(): Float32Array {
  if (f16Table) return f16Table
  const table = new Float32Array(65536)
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31
    const mantissa = bits & 1023
    const magnitude =
      exponent === 0
        ? mantissa * 2 ** -24
        : exponent === 31
          ? mantissa
            ? NaN
            : Infinity
          : (1024 + mantissa) * 2 ** (exponent - 25)
    table[bits] = bits & 0x8000 ? -magnitude : magnitude
  }
  return (f16Table = table)
}

/** Widens half-precision bits. */
export function widenF16(bits: Uint16Array): Float32Array {
  const table = halfTable()
  const out = new Float32Array(bits.length)
  for (let i = 0; i < bits.length; i++) out[i] = table[bits[i]!]!
  return out
}

/** Widens bfloat16 bits: the upper half of an f32. */
export function widenBf16(bits: Uint16Array): Float32Array {
  const out = new Uint32Array(bits.length)
  for (let i = 0; i < bits.length; i++) out[i] = bits[i]! << 16
  return new Float32Array(out.buffer)
}
