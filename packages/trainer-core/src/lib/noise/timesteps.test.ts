import { describe, expect, it } from 'vitest'
import { createRandomStreams, experts } from './random-streams.ts'
import {
  createTimestepUniforms,
  normalCdf,
  normalQuantile,
  numStrata,
  timestepAt,
  timestepWeight,
  type TimestepOptions,
} from './timesteps.ts'

const random = createRandomStreams(7)
const options: TimestepOptions = { type: 'linear', bias: 'balanced', boundary: 0.875, shift: 5 }
const range = (expert: 'high' | 'low', changes: Partial<TimestepOptions> = {}) => {
  const at = (u: number) => timestepAt(u, expert, { ...options, ...changes })
  return [at(1e-12), at(1 - 1e-12)]
}

describe('the normal distribution', () => {
  it.each([
    [0, 0.5],
    [1, 0.8413447460685429],
    [-2.5, 0.006209665325776132],
    [6, 0.9999999990134123],
    [-8, 6.220960574271785e-16],
  ])('Φ(%d) is %d, and back', (x, p) => {
    expect(Math.abs(normalCdf(x) / p - 1)).toBeLessThan(1e-12)
    if (x < 6) expect(normalQuantile(p)).toBeCloseTo(x, 9)
  })
})

describe('bands are those of AI Toolkit at its boundary, 0.875', () => {
  it.each([
    ['linear', 'high', 1000, 877],
    ['linear', 'low', 875, 2],
    ['shift', 'high', 1000, 875.6],
    // Upstream begins one point early, in the other band, and ends at 29.18.
    ['shift', 'low', 874.7, 29.18],
  ] as const)('%s, %s noise: %d to %d', (type, expert, first, last) => {
    const [begins, ends] = range(expert, { type })
    expect(begins).toBeCloseTo(first, 1)
    expect(ends).toBeCloseTo(last, 1)
  })

  it.each(['linear', 'weighted', 'shift', 'sigmoid', 'lognorm_blend'] as const)(
    '%s never leaves the band, at any boundary and bias',
    (type) => {
      for (const boundary of [0.5, 0.875, 0.9, 0.97]) {
        for (const bias of ['balanced', 'content', 'style'] as const) {
          for (const u of [1e-9, 0.001, 0.3, 0.7, 0.999, 1 - 1e-9]) {
            const high = timestepAt(u, 'high', { ...options, type, bias, boundary })
            const low = timestepAt(u, 'low', { ...options, type, bias, boundary })
            expect(high).toBeGreaterThan(1000 * boundary)
            expect(high).toBeLessThanOrEqual(1000)
            expect(low).toBeLessThanOrEqual(1000 * boundary + 1e-9)
            expect(low).toBeGreaterThan(0)
          }
        }
      }
    },
  )
})

describe('statistics of the linear schedule are those of AI Toolkit', () => {
  it.each([
    ['high', 'balanced', 938.5, 939],
    ['high', 'content', 969, 985],
    ['high', 'style', 907, 892],
    ['low', 'balanced', 438, 438],
    ['low', 'content', 657, 766],
    ['low', 'style', 220, 110],
  ] as const)('%s noise, %s: mean %d, median %d', (expert, bias, mean, median) => {
    const t = Array.from({ length: 20_000 }, (_, i) =>
      timestepAt((i + 0.5) / 20_000, expert, { ...options, bias }),
    ).sort((a, b) => a - b)
    expect(Math.abs(t.reduce((sum, each) => sum + each, 0) / t.length - mean)).toBeLessThan(1)
    expect(Math.abs(t[10_000]! - median)).toBeLessThan(1.5)
  })
})

/** Upper 0.1 % point of χ² with `k` degrees of freedom (Wilson and Hilferty). */
const chiSquareLimit = (k: number): number =>
  k * (1 - 2 / (9 * k) + 3.0902 * Math.sqrt(2 / (9 * k))) ** 3

describe('1e5 draws a setting follow the stated distribution', () => {
  const numDraws = 100_000
  const numBins = 20
  const edge = 1000 * options.boundary
  /** How far towards the noise the bias puts the share p of the band, as the uniform number it came from. */
  const unbend = (p: number, bias: TimestepOptions['bias']): number => {
    if (bias === 'balanced') return p
    return bias === 'content' ? Math.cbrt(p) : 1 - Math.cbrt(1 - p)
  }

  /** Bins of timesteps, [least, share], falling; from the definition in the text, not from our quantiles. */
  function bins(
    type: 'linear' | 'sigmoid',
    expert: 'high' | 'low',
    bias: TimestepOptions['bias'],
  ): [number, number][] {
    const cells: [number, number][] = []
    if (type === 'linear') {
      const [first, count] = expert === 'high' ? [1000, 124] : [875, 874]
      for (let i = 0; i < count; i++) {
        cells.push([first - i, unbend((i + 1) / count, bias) - unbend(i / count, bias)])
      }
    } else {
      const above = (t: number) => 1 - normalCdf(Math.log(t / (1000 - t)))
      const [from, to] = expert === 'high' ? [0, above(edge)] : [above(edge), 1]
      const fine = 2000
      for (let i = 0; i < fine; i++) {
        const t = 1000 / (1 + Math.exp(normalQuantile(from + ((to - from) * (i + 1)) / fine)))
        cells.push([t, unbend((i + 1) / fine, bias) - unbend(i / fine, bias)])
      }
    }
    const merged: [number, number][] = []
    let share = 0
    for (const [t, part] of cells) {
      share += part
      if (share >= 1 / numBins - 1e-9 || t === cells.at(-1)![0]) {
        merged.push([t, share])
        share = 0
      }
    }
    return merged
  }

  it.each([
    ['linear', 'high', 'balanced', 'random'],
    ['linear', 'low', 'balanced', 'stratified'],
    ['linear', 'low', 'content', 'random'],
    ['linear', 'high', 'style', 'stratified'],
    ['sigmoid', 'high', 'balanced', 'random'],
    ['sigmoid', 'low', 'balanced', 'stratified'],
    ['sigmoid', 'low', 'style', 'random'],
    ['sigmoid', 'high', 'content', 'random'],
  ] as const)('%s, %s noise, %s, %s', (type, expert, bias, sampling) => {
    const expected = bins(type, expert, bias)
    const counts = expected.map(() => 0)
    const uniformOf = createTimestepUniforms(random, sampling)
    for (let draw = 0; draw < numDraws; draw++) {
      const t = timestepAt(uniformOf(expert, draw), expert, { ...options, type, bias })
      const bin = expected.findIndex(([least]) => t >= least - 1e-9)
      counts[bin < 0 ? counts.length - 1 : bin]!++
    }
    const chiSquare = expected.reduce(
      (sum, [, share], bin) => sum + (counts[bin]! - share * numDraws) ** 2 / (share * numDraws),
      0,
    )
    expect(expected.reduce((sum, [, share]) => sum + share, 0)).toBeCloseTo(1, 9)
    expect(chiSquare).toBeLessThan(chiSquareLimit(expected.length - 1))
    // A sampler that ignored its random number could be too even; random draws must not be.
    if (sampling === 'random') expect(chiSquare).toBeGreaterThan(2)
  })
})

describe('stratified draws', () => {
  it.each(experts)('cover each sixteenth of the %s-noise band once in sixteen steps', (expert) => {
    const uniformOf = createTimestepUniforms(random, 'stratified')
    for (let block = 0; block < 50; block++) {
      const strata = Array.from({ length: numStrata }, (_, i) =>
        Math.floor(uniformOf(expert, block * numStrata + i) * numStrata),
      )
      expect(new Set(strata).size).toBe(numStrata)
    }
  })

  it('come in another order each time, and differ between experts and seeds', () => {
    const first = (seed: number, expert: 'high' | 'low', block: number) => {
      const uniformOf = createTimestepUniforms(createRandomStreams(seed), 'stratified')
      return Array.from({ length: 8 }, (_, i) => uniformOf(expert, block * numStrata + i)).join()
    }
    expect(
      new Set([first(1, 'high', 0), first(1, 'high', 1), first(1, 'low', 0), first(2, 'high', 0)])
        .size,
    ).toBe(4)
  })
})

describe('weights', () => {
  it('have mean 1 over the schedule, and AI Toolkit’s anchors', () => {
    const all = Array.from({ length: 1000 }, (_, i) => timestepWeight(1000 - i, 'weighted'))
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
    expect(mean(all)).toBeCloseTo(1, 10)
    expect(all[124]! / 1.523).toBeCloseTo(1, 1)
    expect(mean(all.slice(0, 125))).toBeCloseTo(1.359, 1)
    expect(mean(all.slice(125))).toBeCloseTo(0.949, 1)
    expect(timestepWeight(500, 'none')).toBe(1)
    expect(timestepWeight(500, 'linear_timesteps')).toBeGreaterThan(
      timestepWeight(900, 'linear_timesteps'),
    )
    expect(timestepWeight(1, 'linear_timesteps2')).toBe(timestepWeight(400, 'linear_timesteps2'))
  })
})
