import type { Expert } from '@kinora/lora-files'

/** How many timesteps of each expert fall into a part of the scale. */
export interface TimestepBin {
  /** Lowest timestep, exclusive but for 0; highest, inclusive. */
  from: number
  to: number
  high: number
  low: number
}

const numBins = 20
const barWidth = 48
const marks: Record<Expert, string> = { high: '█', low: '▒' }

/** Counts timesteps in twenty equal parts of 0 to 1000, from the noisy end. */
export function binTimesteps(timesteps: Readonly<Record<Expert, Float64Array>>): TimestepBin[] {
  const width = 1000 / numBins
  const bins = Array.from({ length: numBins }, (_, index): TimestepBin => {
    const to = 1000 - index * width
    return { from: to - width, to, high: 0, low: 0 }
  })
  for (const expert of ['high', 'low'] as const) {
    for (const t of timesteps[expert]) {
      const index = Math.floor((1000 - t) / width)
      bins[Math.min(Math.max(index, 0), numBins - 1)]![expert]++
    }
  }
  return bins
}

/** A histogram in text: one line a part of the scale, the expert told by the mark. */
export function drawTimesteps(
  timesteps: Readonly<Record<Expert, Float64Array>>,
  boundary: number,
): string {
  const bins = binTimesteps(timesteps)
  const most = Math.max(1, ...bins.map(({ high, low }) => high + low))
  const length = (count: number): number =>
    // Whatever is drawn at all is seen.
    count === 0 ? 0 : Math.max(1, Math.round((barWidth * count) / most))
  const edge = Math.round(1000 * boundary)
  const lines = bins.map(({ from, to, high, low }) => {
    const bar = marks.high.repeat(length(high)) + marks.low.repeat(length(low))
    return `${`${from}–${to}`.padStart(8)}  ${bar}${bar === '' ? '' : ' '}${high + low}`
  })
  return [
    `Timesteps that will be drawn: ${timesteps.high.length} at high noise (${marks.high}), ${timesteps.low.length} at low noise (${marks.low}); the experts meet at ${edge}.`,
    ...lines,
  ].join('\n')
}
