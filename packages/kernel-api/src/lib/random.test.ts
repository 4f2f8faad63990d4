import { describe, expect, test } from 'vitest'
import { normals, philox4x32, uniforms } from './random.ts'

describe('Philox 4x32-10', () => {
  // Random123's kat_vectors: counter, key, result.
  const vectors = [
    {
      counter: [0, 0, 0, 0],
      key: [0, 0],
      result: [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    },
    {
      counter: [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      key: [0xffffffff, 0xffffffff],
      result: [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    },
    {
      counter: [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      key: [0xa4093822, 0x299f31d0],
      result: [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    },
  ] as const

  test.each(vectors)(
    'gives the published result for counter $counter',
    ({ counter, key, result }) => {
      const c = Uint32Array.from(counter)
      philox4x32(c, key[0], key[1])
      expect([...c]).toEqual([...result])
    },
  )
})

describe('uniforms', () => {
  test('are inside (0, 1) with the moments of a uniform distribution', () => {
    const n = 100_000
    const u = uniforms(1, 2, n)
    expect(u.every((x) => x > 0 && x < 1)).toBe(true)
    const mean = u.reduce((s, x) => s + x, 0) / n
    const variance = u.reduce((s, x) => s + (x - mean) ** 2, 0) / n
    // Five standard errors.
    expect(Math.abs(mean - 1 / 2)).toBeLessThan(5 * Math.sqrt(1 / 12 / n))
    expect(Math.abs(variance - 1 / 12)).toBeLessThan(5 * Math.sqrt(1 / 180 / n))
  })

  test('a shorter draw is a prefix of a longer one, at odd and even lengths', () => {
    const long = uniforms(7, 8, 101)
    for (const count of [0, 1, 2, 3, 50, 99, 100]) {
      expect([...uniforms(7, 8, count)]).toEqual([...long.subarray(0, count)])
    }
  })

  test('all 53 bits of seed and stream matter', () => {
    const first = (seed: number, stream: number) => uniforms(seed, stream, 1)[0]
    const seen = new Set<number | undefined>()
    for (let bit = 0; bit < 53; bit++) {
      seen.add(first(2 ** bit, 0))
      seen.add(first(0, 2 ** bit))
    }
    seen.add(first(0, 0))
    expect(seen.size).toBe(107)
  })
})

describe('normals', () => {
  test('have the first four moments of a standard normal', () => {
    const n = 100_000
    const x = normals(3, 4, n)
    const moment = (k: number) => x.reduce((s, value) => s + value ** k, 0) / n
    // Five standard errors: the variance of x^k is E x^2k − (E x^k)².
    expect(Math.abs(moment(1))).toBeLessThan(5 * Math.sqrt(1 / n))
    expect(Math.abs(moment(2) - 1)).toBeLessThan(5 * Math.sqrt(2 / n))
    expect(Math.abs(moment(3))).toBeLessThan(5 * Math.sqrt(15 / n))
    expect(Math.abs(moment(4) - 3)).toBeLessThan(5 * Math.sqrt(96 / n))
  })

  test('streams and seeds are uncorrelated, also with their neighbours shifted', () => {
    const n = 50_000
    const base = normals(5, 6, n)
    for (const other of [normals(5, 7, n), normals(6, 6, n), normals(6, 5, n)]) {
      for (const shift of [0, 1, 2]) {
        let dot = 0
        for (let i = 0; i + shift < n; i++) dot += base[i]! * other[i + shift]!
        expect(Math.abs(dot / n)).toBeLessThan(5 / Math.sqrt(n))
      }
    }
  })

  test('a shorter draw is a prefix of a longer one, at odd and even lengths', () => {
    const long = normals(9, 10, 101)
    for (const count of [0, 1, 2, 3, 50, 99, 100]) {
      expect([...normals(9, 10, count)]).toEqual([...long.subarray(0, count)])
    }
  })

  test('the numbers of a stream never change: resumed runs and files of latents depend on it', () => {
    expect([...normals(42, 0, 4)]).toMatchInlineSnapshot(`
      [
        0.8864974975585938,
        0.4393560588359833,
        -0.15660962462425232,
        -0.013718678615987301,
      ]
    `)
  })
})
