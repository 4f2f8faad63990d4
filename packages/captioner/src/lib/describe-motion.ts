import type { ClipMotion } from '@kinora/config-schema'

/**
 * Below this confidence nothing is said: a caption that names the wrong motion teaches it, one that names none only
 * teaches less.
 */
const minConfidence = 0.4

/**
 * Share of the strongest part from which on another part of a mixed motion is worth a word. Half as fast is still seen;
 * less reads as wobble.
 */
const minShare = 0.4

/** Speeds in picture sides a second (for zoom and roll: as the edge of the picture moves) that get an adverb. */
const slow = 0.06
const fast = 0.5

/** Measured motion as a phrase for a caption, such as `the camera slowly pans left`; undefined where nothing is sure. */
export function describeMotion(motion: ClipMotion): string | undefined {
  if (motion.confidence < minConfidence) return undefined
  switch (motion.camera) {
    case 'static':
      return 'the camera is still'
    case 'subject':
      return 'the camera is still while the subject moves'
    case 'orbit':
      return 'the camera orbits around the subject'
    case 'mixed':
      return mixed(motion)
    case 'pan-left':
    case 'pan-right':
    case 'tilt-up':
    case 'tilt-down':
    case 'zoom-in':
    case 'zoom-out':
    case 'roll': {
      const { verb, speed } = parts(motion).find(({ kind }) => motion.camera.startsWith(kind))!
      const adverb = speed < slow ? 'slowly ' : speed > fast ? 'quickly ' : ''
      return `the camera ${adverb}${verbs[motion.camera] ?? verb}`
    }
    default:
      return motion.camera satisfies never
  }
}

const verbs: Partial<Record<ClipMotion['camera'], string>> = {
  'pan-left': 'pans left',
  'pan-right': 'pans right',
  'tilt-up': 'tilts up',
  'tilt-down': 'tilts down',
  'zoom-in': 'moves in',
  'zoom-out': 'pulls back',
  roll: 'rolls',
}

interface MotionPart {
  kind: 'pan' | 'tilt' | 'zoom' | 'roll'
  verb: string
  /** Of the edge of the picture, in picture sides a second. */
  speed: number
}

function parts(motion: ClipMotion): MotionPart[] {
  const { panPerSecond, tiltPerSecond, zoomPerSecond, rollPerSecond } = motion
  return [
    {
      kind: 'pan',
      verb: panPerSecond < 0 ? 'pans left' : 'pans right',
      speed: Math.abs(panPerSecond),
    },
    {
      kind: 'tilt',
      verb: tiltPerSecond < 0 ? 'tilts down' : 'tilts up',
      speed: Math.abs(tiltPerSecond),
    },
    // The edge is half a picture from the centre.
    {
      kind: 'zoom',
      verb: zoomPerSecond < 0 ? 'pulls back' : 'moves in',
      speed: Math.abs(zoomPerSecond) / 2,
    },
    { kind: 'roll', verb: 'rolls', speed: (Math.abs(rollPerSecond) * Math.PI) / 180 / 2 },
  ]
}

function mixed(motion: ClipMotion): string {
  const all = parts(motion)
  const strongest = Math.max(...all.map(({ speed }) => speed))
  const named = all.filter(({ speed }) => speed >= strongest * minShare).map(({ verb }) => verb)
  // Four words of motion are no description.
  if (strongest === 0 || named.length > 3) return 'the camera moves'
  const last = named.pop()!
  return `the camera ${named.length > 0 ? `${named.join(', ')} and ` : ''}${last}`
}
