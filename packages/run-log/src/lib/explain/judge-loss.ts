import type { StepEntry, ValidationEntry } from '@kinora/config-schema'
import { mean } from './statistics.ts'

/** How a curve goes at its end. */
export type Trend = 'improving' | 'flat' | 'rising' | 'unknown'

/** Which way an expert's training loss goes. */
export interface LossTrend {
  trend: Trend
  /** Change over the last half of the steps, as a share of the loss; negative is better. */
  recentChange: number
  /** Change over all steps. */
  wholeChange: number
}

/** Too few steps to tell a trend from luck. */
const leastSteps = 24
/** Bands of timesteps whose levels are taken out, and how many steps one must hold. */
const maxBands = 8
const stepsPerBand = 6
/** A slope counts when it is this many standard errors from zero, and changes the loss by this share. */
const significance = 2.5
const leastChange = 0.01

/**
 * The trend of an expert's training loss. One step's loss says little: it depends on the timestep more than on what was learned,
 * so the level of each band of timesteps is taken out first, and a line is fitted to the logarithm of what is left.
 */
export function trainingTrend(steps: readonly StepEntry[]): LossTrend {
  const points = steps
    .map(({ expertStep, loss, unweightedLoss, timesteps }) => ({
      at: expertStep,
      log: Math.log(unweightedLoss ?? loss),
      timestep: timesteps.reduce((sum, t) => sum + t, 0) / Math.max(1, timesteps.length),
    }))
    .filter(({ log }) => Number.isFinite(log))
  if (points.length < leastSteps) return { trend: 'unknown', recentChange: 0, wholeChange: 0 }
  const whole = fitWithBands(points)
  const recent = fitWithBands(points.slice(Math.floor(points.length / 2)))
  const wholeChange = Math.expm1(whole.slope * span(points))
  const recentChange = Math.expm1(recent.slope * span(points.slice(Math.floor(points.length / 2))))
  const certain =
    Math.abs(recent.slope) > significance * recent.error && Math.abs(recentChange) > leastChange
  return {
    trend: !certain ? 'flat' : recentChange < 0 ? 'improving' : 'rising',
    recentChange,
    wholeChange,
  }
}

interface LossPoint {
  at: number
  log: number
  timestep: number
}

function span(points: readonly LossPoint[]): number {
  return points.at(-1)!.at - points[0]!.at
}

/**
 * Least squares of `log = level(band) + slope · at`, with the bands of timesteps chosen to hold equally many points. Within a
 * band both are measured from their means, so the levels drop out.
 */
function fitWithBands(points: readonly LossPoint[]): { slope: number; error: number } {
  const numBands = Math.max(1, Math.min(maxBands, Math.floor(points.length / stepsPerBand)))
  const sorted = points.toSorted((a, b) => a.timestep - b.timestep)
  let sxx = 0
  let sxy = 0
  let syy = 0
  for (let band = 0; band < numBands; band++) {
    const members = sorted.slice(
      Math.floor((band * sorted.length) / numBands),
      Math.floor(((band + 1) * sorted.length) / numBands),
    )
    const meanAt = mean(members.map(({ at }) => at))
    const meanLog = mean(members.map(({ log }) => log))
    for (const { at, log } of members) {
      sxx += (at - meanAt) ** 2
      sxy += (at - meanAt) * (log - meanLog)
      syy += (log - meanLog) ** 2
    }
  }
  if (sxx === 0) return { slope: 0, error: Infinity }
  const slope = sxy / sxx
  const freedom = Math.max(1, points.length - numBands - 1)
  const residual = Math.max(0, syy - slope * sxy) / freedom
  return { slope, error: Math.sqrt(residual / sxx) }
}

/** What held-out clips say of an expert. */
export interface ValidationVerdict {
  trend: 'improving' | 'flat' | 'overfitting' | 'unknown'
  /** Steps done at the lowest loss. */
  bestStep: number
  bestLoss: number
  firstLoss: number
  lastLoss: number
}

/** Held-out losses are on fixed noise, so they compare to about this share. */
const validationNoise = 0.005
/** Above the best by this share, twice, and the clips are being learned by heart. */
const overfitShare = 0.01

/** What an expert's validation curve says; undefined without one. */
export function validationVerdict(
  entries: readonly ValidationEntry[],
  expert: 'high' | 'low',
): ValidationVerdict | undefined {
  const curve = entries.flatMap(({ step, experts }) => {
    const loss = experts[expert]?.loss
    return loss !== undefined && Number.isFinite(loss) ? [{ step, loss }] : []
  })
  const [first] = curve
  const last = curve.at(-1)
  if (first === undefined || last === undefined) return undefined
  const best = curve.reduce((least, point) => (point.loss < least.loss ? point : least))
  const since = curve.slice(curve.indexOf(best) + 1)
  const facts = {
    bestStep: best.step,
    bestLoss: best.loss,
    firstLoss: first.loss,
    lastLoss: last.loss,
  }
  if (curve.length < 3) return { trend: 'unknown', ...facts }
  const overfits =
    since.length >= 2 && since.slice(-2).every(({ loss }) => loss > best.loss * (1 + overfitShare))
  if (overfits) return { trend: 'overfitting', ...facts }
  // The best of the newest third against the best before it.
  const numRecent = Math.max(1, Math.floor(curve.length / 3))
  const least = (points: typeof curve): number => Math.min(...points.map(({ loss }) => loss))
  const improves =
    least(curve.slice(-numRecent)) < least(curve.slice(0, -numRecent)) * (1 - validationNoise)
  return { trend: improves ? 'improving' : 'flat', ...facts }
}
