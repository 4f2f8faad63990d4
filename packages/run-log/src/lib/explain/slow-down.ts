import type { StepEntry } from '@kinora/config-schema'
import { median } from './statistics.ts'

/** Steps that take longer than they did. */
export interface SlowDown {
  /** How many times as long as at first. */
  factor: number
  /** First step of the slow stretch that goes on to the end. */
  sinceStep: number
  /** Seconds a step: at first, and of late. */
  before: number
  after: number
}

/** Pipelines compile and pools fill during the first steps of each kind. */
const warmUp = 3
/** Steps that tell what is usual, at least and at most. */
const leastUsual = 6
const mostUsual = 32
/** Steps over whose median it is judged: one slow step is not a slow run. */
const window = 9
/** From this factor on it is a slow-down; it began where it passed the lower one. */
const alarmFactor = 1.5
const beganFactor = 1.25

/**
 * Finds whether steps have become slower than they were at first, and since when.
 *
 * A step's time is compared with those of its own kind (expert and size), since buckets differ, and without the loading of
 * weights, which turns bring with them.
 */
export function findSlowDown(steps: readonly StepEntry[]): SlowDown | undefined {
  const kinds = new Map<string, { step: number; seconds: number }[]>()
  for (const entry of steps) {
    const key = `${entry.expert} ${entry.shape?.join('×') ?? ''}`
    const load = entry.seconds['load']
    const seconds = entry.seconds.total - (typeof load === 'number' ? load : 0)
    const kind = kinds.get(key) ?? []
    kinds.set(key, kind)
    kind.push({ step: entry.step, seconds })
  }
  const relative: { step: number; ratio: number; seconds: number }[] = []
  for (const all of kinds.values()) {
    const settled = all.slice(warmUp)
    const numUsual = Math.min(mostUsual, Math.floor(settled.length / 3))
    if (numUsual < leastUsual) continue
    const usual = median(settled.slice(0, numUsual).map(({ seconds }) => seconds))
    for (const { step, seconds } of settled) {
      relative.push({ step, ratio: seconds / usual, seconds })
    }
  }
  relative.sort((a, b) => a.step - b.step)
  if (relative.length < 2 * window) return undefined
  const smooth = relative.map((_, index) =>
    median(relative.slice(Math.max(0, index - window + 1), index + 1).map(({ ratio }) => ratio)),
  )
  const factor = smooth.at(-1)!
  if (factor < alarmFactor) return undefined
  let first = smooth.length - 1
  while (first > 0 && smooth[first - 1]! >= beganFactor) first--
  // The median of a window turns slow when half of it is.
  const began = Math.max(0, first - (window >> 1))
  const after = median(relative.slice(-window).map(({ seconds }) => seconds))
  return { factor, sinceStep: relative[began]!.step, before: after / factor, after }
}
