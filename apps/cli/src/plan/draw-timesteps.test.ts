import { parseTrainJob, recipe } from '@kinora/config-schema'
import { plannedTimesteps } from '@kinora/trainer-core'
import { describe, expect, it } from 'vitest'
import { binTimesteps, drawTimesteps } from './draw-timesteps.ts'

function planned(change: (text: string) => string, boundary = 0.9) {
  const text = change(recipe('motion', 24).replace('steps: 2500', 'steps: 2000'))
  const job = parseTrainJob(text, { fileName: 'job.yaml' })
  return plannedTimesteps(job, boundary)
}
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0)

describe('drawTimesteps', () => {
  it('counts every draw in the band of its expert', () => {
    const timesteps = planned((text) => text)
    const bins = binTimesteps(timesteps)
    expect(sum(bins.map(({ high }) => high))).toBe(1000)
    expect(sum(bins.map(({ low }) => low))).toBe(1000)
    // Linear and balanced: two parts of the high band share its draws, eighteen of the low band theirs.
    expect(bins.slice(0, 2).every(({ high, low }) => low === 0 && Math.abs(high - 500) < 20)).toBe(
      true,
    )
    // Pearson's statistic over 18 equal parts; 27.6 is the 95 % quantile for independent draws.
    const expected = 1000 / 18
    const statistic = sum(bins.slice(2).map(({ low }) => (low - expected) ** 2 / expected))
    expect(statistic).toBeLessThan(27.6)
  })

  it('shows where a bias leans, within each expert', () => {
    const bins = binTimesteps(
      planned((text) => text.replace('content_or_style: balanced', 'content_or_style: content')),
    )
    expect(bins[0]!.high).toBeGreaterThan(2 * bins[1]!.high)
    expect(bins[2]!.low).toBeGreaterThan(4 * bins[19]!.low)
    expect(sum(bins.map(({ high }) => high))).toBe(1000)
  })

  it('draws bars as long as their counts, marked by expert', () => {
    const text = drawTimesteps(
      {
        high: Float64Array.from([1000, 960, 951, 910, 890]),
        low: Float64Array.from([880, 12, 0]),
      },
      0.875,
    )
    expect(text.split('\n')).toEqual([
      'Timesteps that will be drawn: 5 at high noise (█), 3 at low noise (▒); the experts meet at 875.',
      `950–1000  ${'█'.repeat(48)} 3`,
      ` 900–950  ${'█'.repeat(16)} 1`,
      ` 850–900  ${'█'.repeat(16)}${'▒'.repeat(16)} 2`,
      ...Array.from(
        { length: 16 },
        (_, i) => `${`${800 - 50 * i}–${850 - 50 * i}`.padStart(8)}  0`,
      ),
      `    0–50  ${'▒'.repeat(32)} 2`,
    ])
  })
})
