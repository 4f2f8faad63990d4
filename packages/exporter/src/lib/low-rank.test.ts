import type { LoraModule } from '@kinora/lora-files'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { concatenate, reduceRank } from './low-rank.ts'

function normals(seed: number) {
  let state = seed >>> 0
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state + 0.5) / 2 ** 32
  }
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())
}

function randomModule(
  rank: number,
  inFeatures: number,
  outFeatures: number,
  seed: number,
): LoraModule {
  const next = normals(seed)
  return {
    a: Float32Array.from({ length: rank * inFeatures }, next),
    b: Float32Array.from({ length: outFeatures * rank }, next),
    rank,
    inFeatures,
    outFeatures,
  }
}

/** (alpha/rank) · B A in f64. */
function product(module: LoraModule): Float64Array {
  const { a, b, rank, inFeatures, outFeatures, alpha } = module
  const out = new Float64Array(outFeatures * inFeatures)
  for (let o = 0; o < outFeatures; o++) {
    for (let r = 0; r < rank; r++) {
      const factor = (b[o * rank + r]! * (alpha ?? rank)) / rank
      for (let i = 0; i < inFeatures; i++)
        out[o * inFeatures + i]! += factor * a[r * inFeatures + i]!
    }
  }
  return out
}

const norm = (values: Float64Array) =>
  Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
const minus = (p: Float64Array, q: Float64Array) => p.map((value, index) => value - q[index]!)

describe('concatenate', () => {
  it('is the weighted sum of the products, whatever ranks and alphas', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            rank: fc.integer({ min: 1, max: 5 }),
            alpha: fc.option(fc.integer({ min: 1, max: 32 }), { nil: undefined }),
            weight: fc.double({ min: -2, max: 2, noNaN: true }),
            seed: fc.integer(),
          }),
          { minLength: 1, maxLength: 4 },
        ),
        (specs) => {
          const parts = specs.map(({ rank, alpha, weight, seed }) => ({
            module: {
              ...randomModule(rank, 7, 5, seed),
              ...(alpha === undefined ? {} : { alpha }),
            },
            weight,
          }))
          const expected = new Float64Array(35)
          for (const { module, weight } of parts) {
            product(module).forEach((value, index) => (expected[index]! += weight * value))
          }
          const sum = concatenate('m', parts)
          expect(sum.rank).toBe(specs.reduce((total, { rank }) => total + rank, 0))
          expect(norm(minus(product(sum), expected))).toBeLessThanOrEqual(
            1e-6 * (1 + norm(expected)) * 40,
          )
        },
      ),
      { numRuns: 50 },
    )
  })

  it('refuses modules of different shapes by name', () => {
    expect(() =>
      concatenate('blocks.0.attn1.to_q', [
        { module: randomModule(1, 4, 4, 1), weight: 1 },
        { module: randomModule(1, 5, 4, 1), weight: 1 },
      ]),
    ).toThrow(/blocks\.0\.attn1\.to_q is 4 → 4 .* 5 → 4/)
  })
})

describe('reduceRank', () => {
  it('gives a module of no higher rank back as it is', () => {
    const module = randomModule(4, 6, 5, 1)
    expect(reduceRank(module, 4)).toEqual({ module, kept: 1 })
  })

  it('finds the rank that a product really has', () => {
    const module = concatenate('m', [
      { module: randomModule(2, 40, 30, 1), weight: 1 },
      { module: randomModule(2, 40, 30, 1), weight: 0.5 },
      { module: randomModule(1, 40, 30, 2), weight: 1 },
    ])
    const { module: reduced, kept } = reduceRank(module, 3)
    expect(reduced.rank).toBe(3)
    expect(kept).toBeCloseTo(1, 12)
    expect(norm(minus(product(reduced), product(module)))).toBeLessThanOrEqual(
      1e-6 * norm(product(module)),
    )
  })

  it('errs by exactly what the dropped singular values say, and by less than any other choice tried', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 8 }), fc.integer(), (rank, seed) => {
        const module = randomModule(rank, 20, 15, seed)
        const target = Math.max(1, rank - 2)
        const whole = product(module)
        const { module: reduced, kept } = reduceRank(module, target)
        const error = norm(minus(product(reduced), whole)) / norm(whole)
        expect(error ** 2).toBeCloseTo(1 - kept, 5)
        // Leaving out the last columns is another approximation of that rank.
        const cut: LoraModule = {
          ...module,
          rank: target,
          a: module.a.subarray(0, target * 20),
          b: Float32Array.from(
            { length: 15 * target },
            (_, index) => module.b[Math.floor(index / target) * rank + (index % target)]!,
          ),
        }
        expect(error).toBeLessThanOrEqual(norm(minus(product(cut), whole)) / norm(whole) + 1e-6)
      }),
      { numRuns: 30 },
    )
  })

  it('honours alpha, and takes zeros and repeated columns', () => {
    const module = { ...randomModule(3, 12, 10, 5), alpha: 6 }
    const whole = product(module)
    expect(
      norm(minus(product(reduceRank({ ...module, rank: 3 }, 2).module), whole)) / norm(whole),
    ).toBeLessThan(0.9)
    const zero = { ...randomModule(4, 12, 10, 5), b: new Float32Array(40) }
    const { module: reduced, kept } = reduceRank(zero, 2)
    expect(kept).toBe(1)
    expect(reduced.a.every(Number.isFinite) && reduced.b.every((value) => value === 0)).toBe(true)
    const same = randomModule(1, 12, 10, 5)
    const twice = concatenate('m', [
      { module: same, weight: 1 },
      { module: same, weight: 1 },
    ])
    const one = reduceRank(twice, 1)
    expect(one.kept).toBeCloseTo(1, 12)
    expect(norm(minus(product(one.module), product(twice)))).toBeLessThanOrEqual(
      1e-6 * norm(product(twice)),
    )
  })
})
