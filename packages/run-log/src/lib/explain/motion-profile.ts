import type { MotionSummary } from '@kinora/config-schema'
import { mean, median } from './statistics.ts'

/** What a set of clips does, movement by movement. */
export interface MotionProfile {
  numClips: number
  /** Median speed without sign, and mean with it; in the units of `motionUnits`. */
  movements: Record<Movement, { speed: number; signed: number }>
}

export const movements = ['pan', 'tilt', 'zoom', 'roll', 'subject'] as const
export type Movement = (typeof movements)[number]

const readers: Record<Movement, (motion: MotionSummary) => number> = {
  pan: (motion) => motion.panPerSecond,
  tilt: (motion) => motion.tiltPerSecond,
  zoom: (motion) => motion.zoomPerSecond,
  roll: (motion) => motion.rollPerSecond,
  subject: (motion) => motion.subject,
}

/** What one unit of a movement moves a pixel by, in picture widths: which movement is the strongest. */
const effect: Record<Movement, number> = {
  pan: 1,
  tilt: 1,
  zoom: 0.3,
  roll: (0.3 * Math.PI) / 180,
  // What is left over counts only where the camera does next to nothing.
  subject: 0.25,
}

/** Slower than this, in picture widths a second, nothing moves. */
const stillSpeed = 0.012

/** The profile of motions as they are seen at playback; undefined of none. */
export function motionProfile(motions: readonly MotionSummary[]): MotionProfile | undefined {
  if (motions.length === 0) return undefined
  return {
    numClips: motions.length,
    movements: Object.fromEntries(
      movements.map((name) => {
        const values = motions.map(readers[name])
        return [name, { speed: median(values.map(Math.abs)), signed: mean(values) }]
      }),
    ) as MotionProfile['movements'],
  }
}

/** A motion played `speedUp` times as fast: all its speeds grow alike. */
export function spedUp(motion: MotionSummary, speedUp: number): MotionSummary {
  return {
    ...motion,
    panPerSecond: motion.panPerSecond * speedUp,
    tiltPerSecond: motion.tiltPerSecond * speedUp,
    zoomPerSecond: motion.zoomPerSecond * speedUp,
    rollPerSecond: motion.rollPerSecond * speedUp,
    subject: motion.subject * speedUp,
  }
}

/** Previews beside the clips they were trained on. */
export interface MotionComparison {
  /** The strongest movement of the clips; null where they hold still. */
  movement: Movement | null
  trained: number
  previews: number
  /** Speed of the previews over that of the clips; null where the clips hold still. */
  ratio: number | null
  /** Both have a direction, and it is not the same. */
  otherWay: boolean
  /** One line for a person. */
  sentence: string
}

/** Compares the previews' motion with the clips' in the movement that is strongest in the clips. */
export function compareMotion(trained: MotionProfile, previews: MotionProfile): MotionComparison {
  const strength = (name: Movement): number => trained.movements[name].speed * effect[name]
  const strongest = movements.reduce((best, name) =>
    strength(name) > strength(best) ? name : best,
  )
  if (strength(strongest) < stillSpeed) {
    const moving = movements.reduce((best, name) =>
      previews.movements[name].speed * effect[name] > previews.movements[best].speed * effect[best]
        ? name
        : best,
    )
    const { speed } = previews.movements[moving]
    return {
      movement: null,
      trained: 0,
      previews: speed,
      ratio: null,
      otherWay: false,
      sentence:
        speed * effect[moving] < stillSpeed
          ? 'Trained on clips that hold still; previews hold still.'
          : `Trained on clips that hold still; previews ${verbs[moving]} ${amount(moving, speed)}.`,
    }
  }
  const clips = trained.movements[strongest]
  const made = previews.movements[strongest]
  // The movement has a direction when most clips agree on it.
  const directed = Math.abs(clips.signed) > 0.7 * clips.speed
  const otherWay =
    directed &&
    strongest !== 'subject' &&
    made.speed * effect[strongest] >= stillSpeed &&
    Math.abs(made.signed) > 0.7 * made.speed &&
    Math.sign(made.signed) !== Math.sign(clips.signed)
  const ratio = made.speed / clips.speed
  const way = (signed: number): string => (directed ? ` ${directionOf(strongest, signed)}` : '')
  const inWords = `Trained on ${nouns[strongest]}${way(clips.signed)} of ${amount(strongest, clips.speed)}`
  const still = made.speed * effect[strongest] < stillSpeed
  return {
    movement: strongest,
    trained: clips.speed,
    previews: made.speed,
    ratio,
    otherWay,
    sentence: still
      ? `${inWords}; previews hold still.`
      : `${inWords}; previews ${verbs[strongest]} ${amount(strongest, made.speed)}${otherWay ? ` the other way (${directionOf(strongest, made.signed)})` : ` (${Math.round(100 * ratio)} %)`}.`,
  }
}

const nouns: Record<Movement, string> = {
  pan: 'pans',
  tilt: 'tilts',
  zoom: 'moves',
  roll: 'rolls',
  subject: 'subjects that move',
}
const verbs: Record<Movement, string> = {
  pan: 'pan',
  tilt: 'tilt',
  zoom: 'move',
  roll: 'roll',
  subject: 'have subjects that move',
}

function directionOf(movement: Movement, signed: number): string {
  const positive = signed > 0
  switch (movement) {
    case 'pan':
      return positive ? 'to the right' : 'to the left'
    case 'tilt':
      return positive ? 'upwards' : 'downwards'
    case 'zoom':
      return positive ? 'in' : 'out'
    case 'roll':
      return positive ? 'clockwise' : 'counter-clockwise'
    case 'subject':
      return ''
    default:
      return movement satisfies never
  }
}

function amount(movement: Movement, speed: number): string {
  switch (movement) {
    case 'pan':
    case 'subject':
      return `${speed.toFixed(2)} widths/s`
    case 'tilt':
      return `${speed.toFixed(2)} heights/s`
    case 'zoom':
      return `${Math.round(100 * Math.expm1(speed))} %/s`
    case 'roll':
      return `${speed.toFixed(0)} degrees/s`
    default:
      return movement satisfies never
  }
}
