import type { Expert, RandomStreams } from './random-streams.ts'

// Timesteps t on the scale of the network, 0 to 1000 (1000 is pure noise, sigma = t / 1000). A step belongs to one expert, and
// its timestep is drawn inside that expert's band: high (boundary, 1000], low [0, boundary].
//
// The distributions are AI Toolkit's for Wan 2.2. It builds a falling schedule of 1000 timesteps, finds the part inside the
// band, and picks an index there; a bias bends the index towards one end. Two of its schedules are themselves random, a new
// draw a step, sorted; the i-th of many sorted draws is the i-th quantile, so here they are quantile functions. In short:
//
//   u uniform → p = u, u³ or 1 − u³ (balanced, towards noise, away from it) → t = the band's quantile p, counted from the noise
//
// Known differences: the low band never begins above the boundary (upstream's begins one schedule point early, in the other
// expert's band), and lognorm_blend's normalisation by the largest of 750 draws uses that maximum's median.

export type TimestepType = 'linear' | 'sigmoid' | 'shift' | 'weighted' | 'lognorm_blend'
/** `content` leans to the noisy end of the band, `style` to the clean end. */
export type TimestepBias = 'balanced' | 'content' | 'style'

export interface TimestepOptions {
  type: TimestepType
  bias: TimestepBias
  /** Sigma at which the experts meet, between 0 and 1. */
  boundary: number
  /** Flow shift of type `shift`; above 0. */
  shift: number
}

const numTrainTimesteps = 1000

/** Φ⁻¹ (Acklam's rational approximation with one Halley step; relative error below 1e-12). */
export function normalQuantile(p: number): number {
  if (p <= 0) return -Infinity
  if (p >= 1) return Infinity
  const a = [
    -39.69683028665376, 220.9460984245205, -275.9285104469687, 138.357751867269, -30.66479806614716,
    2.506628277459239,
  ]
  const b = [
    -54.47609879822406, 161.5858368580409, -155.6989798598866, 66.80131188771972,
    -13.28068155288572,
  ]
  const c = [
    -0.007784894002430293, -0.3223964580411365, -2.400758277161838, -2.549732539343734,
    4.374664141464968, 2.938163982698783,
  ]
  const d = [0.007784695709041462, 0.3224671290700398, 2.445134137142996, 3.754408661907416]
  const horner = (coefficients: number[], x: number): number =>
    coefficients.reduce((sum, coefficient) => sum * x + coefficient, 0)
  const low = 0.02425
  let x: number
  if (p < low || p > 1 - low) {
    const q = Math.sqrt(-2 * Math.log(Math.min(p, 1 - p)))
    x = horner(c, q) / horner([...d, 1], q)
    if (p > 0.5) x = -x
  } else {
    const q = p - 0.5
    const r = q * q
    x = (horner(a, r) * q) / horner([...b, 1], r)
  }
  const e = normalCdf(x) - p
  const u = e * Math.sqrt(2 * Math.PI) * Math.exp((x * x) / 2)
  return x - u / (1 + (x * u) / 2)
}

/** Φ to machine precision: a series near zero, a continued fraction in the tails. */
export function normalCdf(x: number): number {
  const z = Math.abs(x)
  if (z > 38) return x > 0 ? 1 : 0
  let upper: number
  if (z < 3) {
    let term = z
    let sum = z
    for (let n = 1; n < 200 && Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
      term *= (z * z) / (2 * n + 1)
      sum += term
    }
    upper = 0.5 - (sum * Math.exp((-z * z) / 2)) / Math.sqrt(2 * Math.PI)
  } else {
    let fraction = z
    for (let n = 120; n > 0; n--) fraction = z + n / fraction
    upper = Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI) / fraction
  }
  return x > 0 ? 1 - upper : upper
}

const linearSchedule = Float64Array.from(
  { length: numTrainTimesteps },
  (_, i) => numTrainTimesteps - i,
)
let shiftSchedule = { shift: 0, schedule: linearSchedule }

/** Falling schedule of 1000 timesteps, for the types that have a fixed one. */
function fixedSchedule(type: 'linear' | 'weighted' | 'shift', shift: number): Float64Array {
  if (type !== 'shift') return linearSchedule
  if (shiftSchedule.shift === shift) return shiftSchedule.schedule
  const warp = (s: number): number => (shift * s) / (1 + (shift - 1) * s)
  // The least sigma is warped before and again after: upstream's schedule does so, and ends at t = 24.41 for shift 5.
  const least = warp(1 / numTrainTimesteps)
  const schedule = Float64Array.from(
    { length: numTrainTimesteps },
    (_, i) => 1000 * warp(1 + ((least - 1) * i) / (numTrainTimesteps - 1)),
  )
  shiftSchedule = { shift, schedule }
  return schedule
}

/** Cumulative distribution of t for the types whose schedule is random. */
function randomCdf(type: 'sigmoid' | 'lognorm_blend', t: number): number {
  if (t <= 0) return 0
  if (t >= 1000) return 1
  if (type === 'sigmoid') return normalCdf(Math.log(t / (1000 - t)))
  // y = exp(0.333 z), t = 1000 (1 − y / yMax) for three draws in four; evenly spread for the fourth.
  const y = (1 - t / 1000) * lognormMax
  return 0.75 * (1 - normalCdf(Math.log(y) / 0.333)) + 0.25 * (t / 1000)
}
const lognormMax = Math.exp(0.333 * normalQuantile(0.5 ** (1 / 750)))

/** t of a share `p` of a random schedule's band [low, high], counted from the noisy end. */
function randomQuantile(
  type: 'sigmoid' | 'lognorm_blend',
  low: number,
  high: number,
  p: number,
): number {
  const from = randomCdf(type, low)
  const target = from + (randomCdf(type, high) - from) * (1 - p)
  if (type === 'sigmoid') {
    const t = 1000 / (1 + Math.exp(-normalQuantile(target)))
    return Math.min(Math.max(t, low + 1e-9), high)
  }
  let [below, above] = [low, high]
  for (let i = 0; i < 60; i++) {
    const middle = (below + above) / 2
    if (randomCdf(type, middle) < target) below = middle
    else above = middle
  }
  const t = (below + above) / 2
  // Truncated to whole timesteps inside the band; 0 has nothing to learn.
  return Math.min(Math.max(Math.trunc(t), Math.floor(low + 1e-9) + 1), Math.floor(high + 1e-9))
}

/** First and last index (both inclusive) of a falling schedule inside an expert's band. */
export function bandIndices(
  schedule: Float64Array,
  expert: Expert,
  boundary: number,
): { first: number; last: number } {
  const edge = 1000 * boundary
  // A boundary such as 0.9 is not exact: 900 must count as 900.
  let [numAbove, end] = [0, schedule.length]
  while (numAbove < end) {
    const middle = (numAbove + end) >> 1
    if (schedule[middle]! > edge + 1e-9) numAbove = middle + 1
    else end = middle
  }
  return expert === 'high'
    ? { first: 0, last: Math.max(numAbove - 1, 0) }
    : { first: Math.min(numAbove, schedule.length - 1), last: schedule.length - 1 }
}

function bend(u: number, bias: TimestepBias): number {
  if (bias === 'balanced') return u
  return bias === 'content' ? u ** 3 : 1 - u ** 3
}

/** Turns a uniform number in (0, 1) into a timestep of the expert's band. */
export function timestepAt(u: number, expert: Expert, options: TimestepOptions): number {
  const p = bend(u, options.bias)
  const { type } = options
  if (type === 'sigmoid' || type === 'lognorm_blend') {
    const edge = 1000 * options.boundary
    return expert === 'high'
      ? randomQuantile(type, edge, 1000, p)
      : randomQuantile(type, 0, edge, p)
  }
  const schedule = fixedSchedule(type, options.shift)
  const { first, last } = bandIndices(schedule, expert, options.boundary)
  // The band's last entry is never drawn, as upstream.
  return schedule[first + Math.floor(p * (last - first))]!
}

/** Strata that a block of consecutive draws covers once each. */
export const numStrata = 16

/** The uniform number of an expert's draw, which counts the expert's items from 0. */
export type TimestepUniforms = (expert: Expert, draw: number) => number

/**
 * Stratified: every 16 consecutive draws fall one in each sixteenth, in random order, so that a short run covers the band; over
 * many draws the numbers are uniform either way.
 */
export function createTimestepUniforms(
  random: RandomStreams,
  sampling: 'stratified' | 'random',
): TimestepUniforms {
  const newest = new Map<Expert, { block: number; order: Uint32Array }>()
  return (expert, draw) => {
    const u = random.uniforms('timestep', expert, draw, 1)[0]!
    if (sampling === 'random') return u
    const block = Math.floor(draw / numStrata)
    let entry = newest.get(expert)
    if (entry?.block !== block) {
      entry = { block, order: random.permutation('timestepStratum', expert, block, numStrata) }
      newest.set(expert, entry)
    }
    return (entry.order[draw % numStrata]! + u) / numStrata
  }
}

/** Anchors of AI Toolkit's `weighted` table: schedule index (0 is t = 1000), weight. */
const weightAnchors: readonly (readonly [number, number])[] = [
  [0, 0.906],
  [5, 0.962],
  [10, 1.043],
  [20, 1.176],
  [30, 1.256],
  [40, 1.33],
  [50, 1.375],
  [75, 1.471],
  [100, 1.507],
  [124, 1.523],
  [150, 1.507],
  [175, 1.481],
  [200, 1.441],
  [250, 1.355],
  [300, 1.264],
  [350, 1.172],
  [400, 1.083],
  [450, 1.0],
  [500, 0.925],
  [550, 0.86],
  [600, 0.805],
  [650, 0.762],
  [700, 0.731],
  [725, 0.721],
  [750, 0.715],
  [775, 0.714],
  [800, 0.716],
  [825, 0.721],
  [850, 0.729],
  [875, 0.732],
  [900, 0.716],
  [920, 0.679],
  [940, 0.619],
  [950, 0.582],
  [960, 0.545],
  [970, 0.51],
  [980, 0.476],
  [990, 0.452],
  [999, 0.447],
]

const weightTables: Record<'weighted' | 'linear_timesteps' | 'linear_timesteps2', Float64Array> = {
  weighted: withMean1(
    Float64Array.from({ length: numTrainTimesteps }, (_, index) => {
      const next = weightAnchors.findIndex(([at]) => at >= index)
      if (next <= 0) return weightAnchors[0]![1]
      const [i0, w0] = weightAnchors[next - 1]!
      const [i1, w1] = weightAnchors[next]!
      return w0 + ((w1 - w0) * (index - i0)) / (i1 - i0)
    }),
  ),
  linear_timesteps: bell(false),
  linear_timesteps2: bell(true),
}

function withMean1(weights: Float64Array): Float64Array {
  const mean = weights.reduce((sum, weight) => sum + weight, 0) / weights.length
  return weights.map((weight) => weight / mean)
}

function bell(flatSecondHalf: boolean): Float64Array {
  const raw = Float64Array.from({ length: numTrainTimesteps }, (_, i) =>
    Math.exp(-2 * ((i - 500) / 1000) ** 2),
  )
  const least = Math.min(...raw)
  const weights = withMean1(raw.map((weight) => weight - least))
  if (flatSecondHalf) weights.fill(Math.max(...weights.subarray(500)), 500)
  return weights
}

/** How much the loss at timestep `t` (0 to 1000) counts: 1 unless a weighting was chosen. */
export function timestepWeight(
  t: number,
  weighting: 'none' | 'weighted' | 'linear_timesteps' | 'linear_timesteps2',
): number {
  if (weighting === 'none') return 1
  const index = Math.min(Math.max(Math.round(1000 - t), 0), numTrainTimesteps - 1)
  return weightTables[weighting][index]!
}
