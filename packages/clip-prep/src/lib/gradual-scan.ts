import type { LumaLevel } from './luma-pyramid.ts'

/**
 * Evidence of a dissolve: between `from` and `to` the picture goes evenly from one to another. In seconds from the first
 * frame of the file.
 */
export interface GradualWindow {
  from: number
  to: number
  /** 0 to 1: how well a mix of the two ends explains what lies between them, and how far apart the ends are. */
  score: number
}

interface Sample {
  time: number
  data: Float32Array
  mean: number
  variance: number
}

/** Half lengths of the windows that are tried, in samples of about 1/13 s: dissolves of 0.15 to 2.5 s lie within them. */
const halfLengths = [2, 3, 4, 6, 8, 11, 15] as const
const ringLength = 2 * 15 + 1

/**
 * Largest share of the way from one end to the other that the middle may lie off it. Unrelated pictures lie 0.87 off, a mix
 * of two stills 0; halves that move on under the dissolve by as much as leaves them 0.6 correlated, 0.45.
 */
const mostResidual = 0.45
/** Least drop of contrast in the middle, as a share of the drop that a true mix has. Motion alone drops nothing. */
const leastDip = 0.55
/** More than a mix can lose is lost to something else: an object that leaves, a focus that is lost. */
const mostDip = 1.2
/** Most correlation of the two ends: above it they are the same scene, lit or framed a little differently. */
const mostCorrelation = 0.55
/**
 * Most spread of the mix over the parts of the picture, at the moment that is nearest to half: a dissolve is everywhere
 * equally far, a car that drives through has passed here and not yet there. In shares of the way; a dissolve of moving
 * shots spreads by 0.1 to 0.2, a passing object by 0.4.
 */
const mostSpread = 0.27
const partColumns = 4
const partRows = 3
/** Of the 12 parts, how many the change must be spread over (the inverse of the sum of squared shares). */
const leastParts = 3

/** Least contrast of an end, in gray levels squared: flat pictures mix with anything. Fades are found by their flat end. */
const leastVariance = 25

/** Looks for dissolves in small gray pictures of one size that come in order, about 13 a second. */
export function createGradualScan(): {
  push(time: number, luma: LumaLevel): void
  readonly windows: GradualWindow[]
} {
  const ring: Sample[] = []
  const windows: GradualWindow[] = []
  return {
    windows,
    push(time, { data, width }) {
      ring.push({ time, data, ...moments(data) })
      if (ring.length > ringLength) ring.shift()
      for (const half of halfLengths) {
        const last = ring.length - 1
        const first = last - 2 * half
        if (first < 0) break
        const window = examine(ring, first, last, width)
        if (window) windows.push(window)
      }
    },
  }
}

function moments(data: Float32Array): { mean: number; variance: number } {
  let sum = 0
  let squares = 0
  for (let at = 0; at < data.length; at++) {
    sum += data[at]!
    squares += data[at]! * data[at]!
  }
  const mean = sum / data.length
  return { mean, variance: squares / data.length - mean * mean }
}

function examine(
  ring: Sample[],
  first: number,
  last: number,
  width: number,
): GradualWindow | undefined {
  const a = ring[first]!
  const b = ring[last]!
  if (a.variance < leastVariance || b.variance < leastVariance) return undefined
  const n = a.data.length
  let ab = 0
  for (let at = 0; at < n; at++) ab += a.data[at]! * b.data[at]!
  const covariance = ab / n - a.mean * b.mean
  const correlation = covariance / Math.sqrt(a.variance * b.variance)
  if (correlation > mostCorrelation) return undefined
  // Squared distance of the ends, without brightness: a lamp or an auto exposure changes that evenly too.
  const apart = a.variance + b.variance - 2 * covariance

  const shares: number[] = []
  let worst = 0
  let dips = 0
  let weights = 0
  let half = { index: first, off: 1 }
  for (let index = first + 1; index < last; index++) {
    const m = ring[index]!
    let ma = 0
    let mb = 0
    for (let at = 0; at < n; at++) {
      ma += m.data[at]! * a.data[at]!
      mb += m.data[at]! * b.data[at]!
    }
    const covA = ma / n - m.mean * a.mean
    const covB = mb / n - m.mean * b.mean
    // <M − A, B − A> and |M − A|², per pixel.
    const along = covB - covA - covariance + a.variance
    const square = m.variance + a.variance - 2 * covA
    const share = along / apart
    const residual = Math.sqrt(Math.max(0, square - share * along) / apart)
    shares.push(share)
    if (Math.abs(share - 0.5) < half.off) half = { index, off: Math.abs(share - 0.5) }
    const position = (index - first) / (last - first)
    if (position > 0.25 && position < 0.75) worst = Math.max(worst, residual)
    const p = Math.min(1, Math.max(0, share))
    const ends = (1 - p) * a.variance + p * b.variance
    const mixed = (1 - p) * (1 - p) * a.variance + p * p * b.variance + 2 * p * (1 - p) * covariance
    const weight = p * (1 - p)
    dips += weight * Math.min(1.5, (ends - m.variance) / Math.max(ends - mixed, 1e-6))
    weights += weight
  }
  if (worst > mostResidual || weights < 0.2) return undefined
  const dip = dips / weights
  if (dip < leastDip || dip > mostDip) return undefined
  const ramp = fitRamp(ring, first, shares)
  if (!ramp) return undefined
  const { spread, parts } = spreadOverParts(a, ring[half.index]!, b, width)
  if (spread > mostSpread || parts < leastParts) return undefined
  return { ...ramp, score: (1 - worst) * Math.min(1, dip) * Math.min(1, 1 - correlation) }
}

/**
 * How unequally far the parts of the picture are on their way from `a` to `b`, weighted by how far their ends are apart, and
 * over how many of them the change is spread.
 */
function spreadOverParts(
  a: Sample,
  m: Sample,
  b: Sample,
  width: number,
): { spread: number; parts: number } {
  const height = a.data.length / width
  let sum = 0
  let squares = 0
  let weights = 0
  let weightSquares = 0
  for (let row = 0; row < partRows; row++) {
    for (let column = 0; column < partColumns; column++) {
      let along = 0
      let apart = 0
      const yEnd = Math.floor(((row + 1) * height) / partRows)
      const xEnd = Math.floor(((column + 1) * width) / partColumns)
      for (let y = Math.floor((row * height) / partRows); y < yEnd; y++) {
        for (let x = Math.floor((column * width) / partColumns); x < xEnd; x++) {
          const at = y * width + x
          const from = a.data[at]! - a.mean
          const way = b.data[at]! - b.mean - from
          along += (m.data[at]! - m.mean - from) * way
          apart += way * way
        }
      }
      if (apart === 0) continue
      const share = along / apart
      sum += apart * share
      squares += apart * share * share
      weights += apart
      weightSquares += apart * apart
    }
  }
  if (weights === 0) return { spread: 0, parts: 0 }
  return {
    spread: Math.sqrt(Math.max(0, squares / weights - (sum / weights) ** 2)),
    parts: (weights * weights) / weightSquares,
  }
}

/** The straight line through the shares between the ends; none where they do not rise all the way. */
function fitRamp(
  ring: Sample[],
  first: number,
  shares: readonly number[],
): { from: number; to: number } | undefined {
  let n = 0
  let st = 0
  let ss = 0
  let stt = 0
  let sts = 0
  let falls = 0
  for (let k = 0; k < shares.length; k++) {
    const share = shares[k]!
    if (k > 0 && share < shares[k - 1]! - 0.08) falls++
    if (share < 0.12 || share > 0.88) continue
    const time = ring[first + 1 + k]!.time
    n++
    st += time
    ss += share
    stt += time * time
    sts += time * share
  }
  if (n < 2 || falls > 0) return undefined
  const slope = (n * sts - st * ss) / (n * stt - st * st)
  if (!(slope > 0)) return undefined
  const offset = (ss - slope * st) / n
  const start = ring[first]!.time
  const end = ring[first + shares.length + 1]!.time
  const from = -offset / slope
  const to = (1 - offset) / slope
  const slack = (end - start) * 0.35
  if (from < start - slack || to > end + slack) return undefined
  return { from, to }
}
