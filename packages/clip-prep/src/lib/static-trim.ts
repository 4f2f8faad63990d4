import type { MotionStep } from './motion-step.ts'

/** The part of a shot in which something moves. */
export interface MovingRange {
  /** In seconds from the first frame of the file; `end` is exclusive. */
  start: number
  end: number
  /** False when nothing in the shot moves: the range is then the whole shot. */
  moves: boolean
  /** Motion energy above which a frame counts as moving, in picture widths a second. */
  threshold: number
  /** Why the range begins and ends where it does, in one sentence. */
  reason: string
}

/**
 * Energy that noise, an encoder's pumping and a locked tripod stay below, in picture widths a second: 0.03 moves the fastest
 * tenth of an 832-pixel picture by 25 pixels a second, 1.6 a frame at 16 fps.
 */
export const stillEnergy = 0.03

/**
 * Up to this energy an unsteady hand can explain it: held cameras that wait tremble by up to 0.1 to 0.15 picture widths a
 * second at the fastest places, to and fro.
 */
const handEnergy = 0.15
/** A hand that waits is calmer than the shot's own motion: below this share of its upper quartile. */
const handShare = 0.45
/**
 * How straight the camera's way is: distance between the ends of a second and a half over its length. Trembling and swaying
 * (a hand and a breath have 0.5 to 8 Hz) goes nowhere and has 0.1 to 0.5; a pan or a dolly, however slow, 0.8 and more.
 */
const straightWay = 0.7
const wayHalfSeconds = 0.75
/** A step takes part in the way when the half second around it goes along with at least this share of the way's speed. */
const partShare = 0.25
const partHalfSeconds = 0.2
/** A way must stay straight for as long as the window is on either side: less is a chance of the swaying. */
const straightSeconds = 0.75
/** Weak motion that runs into the strong for no longer than this is its run-up or its end; for longer, it is a wait. */
const runUpSeconds = 0.6

/** Pauses up to this length do not part two movements. */
const pauseSeconds = 0.4
/** Movements shorter than this are a pop of the picture, such as a key frame's. */
const leastSeconds = 0.12
/**
 * A movement before a long wait is still part of the wait: somebody steps aside, the button is pressed, the grip is changed.
 * The stronger it is beside the strongest movement of the shot, the longer the wait must be, in seconds and in lengths of
 * the movement itself.
 */
const preludes = [
  { power: 0.5, waitSeconds: 1.5, waitLengths: 3 },
  { power: 0.75, waitSeconds: 2.5, waitLengths: 3 },
  { power: Infinity, waitSeconds: 5, waitLengths: 6 },
] as const
/** Stillness shorter than this at an end is not worth a cut: three frames at 16 fps. */
const leastTrimSeconds = 0.2

/**
 * Finds where the motion of a shot begins and ends.
 *
 * @param steps the steps that lie inside the shot, in order
 * @param pad stillness kept before and after, in seconds
 */
export function findMovingRange(
  steps: readonly MotionStep[],
  shot: { start: number; end: number },
  pad: number,
): MovingRange {
  const whole = { start: shot.start, end: shot.end }
  if (steps.length === 0)
    return {
      ...whole,
      moves: true,
      threshold: stillEnergy,
      reason: 'The shot is too short to measure motion, so nothing was trimmed.',
    }
  const energy = smoothed(steps.map((step) => step.energy))
  const active = energy.filter((value) => value >= stillEnergy).toSorted((a, b) => a - b)
  const upper = active[Math.floor(active.length * 0.75)] ?? 0
  const threshold = Math.max(stillEnergy, Math.min(handEnergy, handShare * upper))
  const straight = longRuns(
    steps,
    steps.map((_, index) => energy[index]! >= stillEnergy && isStraight(steps, index)),
  )
  const moving = steps.map(
    (_, index) =>
      straight[index]! ||
      (energy[index]! >= threshold &&
        // A restless hand has its peaks: they count where the second around them is as lively.
        (!isRestless(steps, energy, index) || levelAround(steps, energy, index) >= threshold)),
  )

  let runs = joinRuns(steps, moving)
  runs = runs.filter((run) => run.end - run.start >= Math.min(leastSeconds, shot.end - shot.start))
  if (runs.length === 0) {
    return {
      ...whole,
      moves: false,
      threshold,
      reason: `Nothing moves: the motion energy stays below ${threshold.toFixed(3)} picture widths a second.`,
    }
  }
  const power = (run: Run) => {
    let sum = 0
    for (let index = run.first; index <= run.last; index++) sum += energy[index]!
    return sum / (run.last - run.first + 1)
  }
  const strongest = Math.max(...runs.map(power))
  const isPrelude = (run: Run, wait: number) =>
    preludes.some(
      ({ power: share, waitSeconds, waitLengths }) =>
        power(run) < share * strongest &&
        wait >= waitSeconds &&
        wait >= waitLengths * (run.end - run.start),
    )
  while (runs.length > 1 && isPrelude(runs[0]!, runs[1]!.start - runs[0]!.end)) runs.shift()
  while (runs.length > 1 && isPrelude(runs.at(-1)!, runs.at(-1)!.start - runs.at(-2)!.end))
    runs.pop()

  const first = runs[0]!
  const last = runs.at(-1)!
  const runUp = runUpEnergy(energy)
  extend(first, steps, energy, runUp, -1)
  extend(last, steps, energy, runUp, 1)
  // The first and last steps of a shot touch its ends; the gap to a cut is no stillness.
  let start = first.first === 0 ? shot.start : Math.max(shot.start, first.start - pad)
  let end = last.last === steps.length - 1 ? shot.end : Math.min(shot.end, last.end + pad)
  if (start - shot.start < leastTrimSeconds) start = shot.start
  if (shot.end - end < leastTrimSeconds) end = shot.end
  return {
    start,
    end,
    moves: true,
    threshold,
    reason: explain(shot, start, end, steps, first, last, threshold),
  }
}

interface Run {
  first: number
  last: number
  start: number
  end: number
}

function joinRuns(steps: readonly MotionStep[], moving: readonly boolean[]): Run[] {
  const runs: Run[] = []
  for (let index = 0; index < steps.length; index++) {
    if (!moving[index]) continue
    const { from, to } = steps[index]!
    const last = runs.at(-1)
    if (last && from - last.end <= pauseSeconds) {
      last.last = index
      last.end = to
    } else runs.push({ first: index, last: index, start: from, end: to })
  }
  return runs
}

/**
 * Energy from which weak motion beside a run belongs to it: well above what the still part of the shot shows by itself, and
 * down to a quarter of what counts as stillness where that part is clean, so that a slow start is not cut off.
 */
function runUpEnergy(energy: readonly number[]): number {
  const still = energy.filter((value) => value < stillEnergy).toSorted((a, b) => a - b)
  const noise = still[Math.floor(still.length * 0.9)] ?? stillEnergy
  return Math.min(stillEnergy, Math.max(stillEnergy / 4, 1.5 * noise))
}

/** Takes the run-up (step -1) or the end (1) of a run into it, where it is short enough to be one. */
function extend(
  run: Run,
  steps: readonly MotionStep[],
  energy: readonly number[],
  least: number,
  step: 1 | -1,
) {
  const edge = step === 1 ? run.last : run.first
  let at = edge
  while (energy[at + step] !== undefined && energy[at + step]! >= least) {
    at += step
    if (Math.abs(steps[at]!.from - steps[edge]!.from) > runUpSeconds) return
  }
  if (step === 1) {
    run.last = at
    run.end = steps[at]!.to
  } else {
    run.first = at
    run.start = steps[at]!.from
  }
}

/** Median of three: a single step that stands out is a key frame's pop or a flash, not motion. */
function smoothed(values: readonly number[]): number[] {
  return values.map((value, index) => {
    const before = values[index - 1] ?? value
    const after = values[index + 1] ?? value
    return Math.max(Math.min(value, before), Math.min(Math.max(value, before), after))
  })
}

/** Steps whose middles lie within `half` seconds of that of step `index`. */
function* around(steps: readonly MotionStep[], index: number, half: number): Generator<number> {
  const centre = (steps[index]!.from + steps[index]!.to) / 2
  let first = index
  while (first > 0 && (steps[first - 1]!.from + steps[first - 1]!.to) / 2 >= centre - half) first--
  for (let at = first; at < steps.length; at++) {
    if ((steps[at]!.from + steps[at]!.to) / 2 > centre + half) break
    yield at
  }
}

/** Mean energy over the second around a step. */
function levelAround(
  steps: readonly MotionStep[],
  energy: readonly number[],
  index: number,
): number {
  let sum = 0
  let count = 0
  for (const at of around(steps, index, 0.5)) {
    sum += energy[at]!
    count++
  }
  return sum / count
}

/** Whether even the calmer quarter of the two seconds around a step is no stillness: a hand holds the camera. */
function isRestless(
  steps: readonly MotionStep[],
  energy: readonly number[],
  index: number,
): boolean {
  const values = Array.from(around(steps, index, 1), (at) => energy[at]!).toSorted((a, b) => a - b)
  return values[values.length >> 2]! >= stillEnergy
}

/** The marks without runs that are shorter than `straightSeconds`. */
function longRuns(steps: readonly MotionStep[], marks: readonly boolean[]): boolean[] {
  const kept = marks.slice()
  const whole = steps.at(-1)!.to - steps[0]!.from
  for (let index = 0; index < marks.length; index++) {
    if (!marks[index]) continue
    let last = index
    while (marks[last + 1]) last++
    if (steps[last]!.to - steps[index]!.from < Math.min(straightSeconds, whole))
      kept.fill(false, index, last + 1)
    index = last
  }
  return kept
}

function isStraight(steps: readonly MotionStep[], index: number): boolean {
  const wide = wayOf(steps, around(steps, index, wayHalfSeconds))
  const speed = wide.distance / wide.seconds
  if (wide.distance < straightWay * wide.length || speed < stillEnergy / 3) return false
  // Beside a strong movement the window is straight before that has begun: the step itself must take part in it.
  const near = wayOf(steps, around(steps, index, partHalfSeconds))
  const along = near.net.reduce((sum, part, way) => sum + part * wide.net[way]!, 0)
  return along / wide.distance / near.seconds >= partShare * speed
}

/** What the camera does over some steps, in picture widths: zoom and roll as what they move 0.3 widths from the centre. */
function wayOf(steps: readonly MotionStep[], indices: Iterable<number>) {
  const net = [0, 0, 0, 0]
  let length = 0
  let seconds = 0
  for (const index of indices) {
    const step = steps[index]!
    const lasts = step.to - step.from
    const parts = [step.x, step.y, 0.3 * step.zoom, 0.3 * step.roll].map((part) => part * lasts)
    for (const [way, part] of parts.entries()) net[way]! += part
    length += Math.hypot(...parts)
    seconds += lasts
  }
  return { net, distance: Math.hypot(...net), length, seconds }
}

function explain(
  shot: { start: number; end: number },
  start: number,
  end: number,
  steps: readonly MotionStep[],
  first: Run,
  last: Run,
  threshold: number,
): string {
  const mean = (from: number, to: number) => {
    let sum = 0
    for (let index = from; index < to; index++) sum += steps[index]!.energy
    return to > from ? sum / (to - from) : 0
  }
  const describe = (value: number) =>
    value < stillEnergy ? 'nothing moves' : 'the camera only trembles or idles'
  const parts: string[] = []
  if (start > shot.start)
    parts.push(`${describe(mean(0, first.first))} before ${start.toFixed(2)} s`)
  if (end < shot.end)
    parts.push(`${describe(mean(last.last + 1, steps.length))} after ${end.toFixed(2)} s`)
  if (parts.length === 0) return 'It moves from the first frame of the shot to the last.'
  const text = parts.join(', and ')
  return `${text[0]!.toUpperCase()}${text.slice(1)} (motion energy below ${threshold.toFixed(3)} picture widths a second).`
}
