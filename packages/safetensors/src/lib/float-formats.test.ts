import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  bf16ToF32,
  f16ToF32,
  f32ToBf16,
  f32ToF16,
  f32ToF8e4m3,
  f8e4m3ToF32,
  f8e5m2ToF32,
} from './float-formats.ts'

const f32Bits = (value: number) => new Uint32Array(new Float32Array([value]).buffer)[0]!
const ofBits = (bits: number) => new Float32Array(new Uint32Array([bits]).buffer)

/** The definition of rounding: of all finite codes the nearest, at a tie the one with an even code. */
function nearestCode(value: number, codes: readonly { code: number; value: number }[]): number {
  let best = codes[0]!
  for (const candidate of codes) {
    const d = Math.abs(candidate.value - value) - Math.abs(best.value - value)
    if (d < 0 || (d === 0 && candidate.code % 2 === 0)) best = candidate
  }
  return best.code
}

const formats = [
  {
    name: 'f16',
    bits: 16,
    decode: (codes: number[]) => f16ToF32(Uint16Array.from(codes)),
    encode: (x: Float32Array): ArrayLike<number> => f32ToF16(x),
    magnitudes: 0x7c00,
    largest: 65504,
  },
  {
    name: 'bf16',
    bits: 16,
    decode: (codes: number[]) => bf16ToF32(Uint16Array.from(codes)),
    encode: (x: Float32Array): ArrayLike<number> => f32ToBf16(x),
    magnitudes: 0x7f80,
    largest: 3.3895313892515355e38,
  },
  {
    name: 'f8e4m3',
    bits: 8,
    decode: (codes: number[]) => f8e4m3ToF32(Uint8Array.from(codes)),
    encode: (x: Float32Array): ArrayLike<number> => f32ToF8e4m3(x),
    magnitudes: 0x7f,
    largest: 448,
  },
]

describe.each(formats)('$name', ({ bits, decode, encode, magnitudes, largest }) => {
  const signBit = 2 ** (bits - 1)
  const table = [...decode(Array.from({ length: magnitudes }, (_, code) => code))].map(
    (value, code) => ({ value, code }),
  )

  test('every finite code, either sign, decodes and encodes to itself', () => {
    const codes = [...table.map(({ code }) => code), ...table.map(({ code }) => code + signBit)]
    expect([...(encode(decode(codes)) as Uint16Array)]).toEqual(codes)
  })

  test('values rise with the code, up to the largest', () => {
    for (let i = 1; i < table.length; i++)
      expect(table[i]!.value).toBeGreaterThan(table[i - 1]!.value)
    expect(table.at(-1)!.value).toBe(largest)
  })

  test('midpoints go to the even code and their neighbours to the nearest', () => {
    for (let i = 0; i + 1 < table.length; i += bits === 8 ? 1 : 7) {
      const middle = (table[i]!.value + table[i + 1]!.value) / 2
      if (Math.fround(middle) !== middle) continue // bf16's smallest subnormals
      const up = ofBits(f32Bits(middle) + 1)[0]!
      const down = ofBits(f32Bits(middle) - 1)[0]!
      const got = encode(Float32Array.of(middle, up, down, -middle))
      const even = i % 2 === 0 ? i : i + 1
      expect([got[0], got[1], got[2], got[3]]).toEqual([even, i + 1, i, even + signBit])
    }
  })

  test('any f32 in range rounds to the nearest code', () => {
    const inRange = fc.float({ noNaN: true, min: Math.fround(-largest), max: Math.fround(largest) })
    fc.assert(
      fc.property(inRange, (value) => {
        const code = encode(Float32Array.of(value))[0]!
        const magnitude = Math.abs(value)
        const near = table.slice(
          Math.max(0, (code % signBit) - 2),
          Math.min(table.length, (code % signBit) + 3),
        )
        expect(code % signBit).toBe(nearestCode(magnitude, near))
        expect(code >= signBit).toBe(Object.is(Math.sign(value), -1) || Object.is(value, -0))
      }),
      { numRuns: 500 },
    )
  })

  test('NaN stays NaN', () => {
    const payloads = new Float32Array(Uint32Array.of(0x7fc00000, 0x7f800001, 0xffffffff).buffer)
    const codes = encode(payloads)
    expect([...decode([codes[0]!, codes[1]!, codes[2]!])]).toEqual([NaN, NaN, NaN])
  })
})

test('f16 overflows to infinity from 65 520 on', () => {
  const codes = f32ToF16(Float32Array.of(65519.996, 65520, 1e30, Infinity, -Infinity))
  expect([...codes]).toEqual([0x7bff, 0x7c00, 0x7c00, 0x7c00, 0xfc00])
  expect([...f16ToF32(codes)].slice(3)).toEqual([Infinity, -Infinity])
})

test('bf16 overflows to infinity past its largest', () => {
  expect([...f32ToBf16(Float32Array.of(3.4e38, Infinity, -Infinity))]).toEqual([
    0x7f80, 0x7f80, 0xff80,
  ])
})

test('f8e4m3 overflows to NaN past 464, as in torch', () => {
  expect([...f32ToF8e4m3(Float32Array.of(464, 464.1, -1e9, Infinity))]).toEqual([
    0x7e, 0x7f, 0xff, 0x7f,
  ])
})

test('f8e5m2 is the upper half of f16', () => {
  expect([...f8e5m2ToF32(Uint8Array.of(0x3c, 0xc0, 0x7b, 0x7c, 1))]).toEqual([
    1,
    -2,
    57344,
    Infinity,
    2 ** -16,
  ])
})
