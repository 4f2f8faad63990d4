import type { CameraMotion, ClipMotion } from '@kinora/config-schema'
import type { MotionStep } from './motion-step.ts'

/** A typical distance of a pixel from the centre, in picture widths: turns radians and log scales into lengths. */
const typicalRadius = 0.3

/**
 * Net speed below which a camera stands, in picture widths a second. A locked tripod measures below 0.002; a hand that holds
 * still wanders by up to 0.01 over some seconds.
 */
const standingSpeed = 0.012

/** A movement goes one way: its net over its length. What goes to and fro by more than that is no pan but a sway. */
const steadyShare = 0.3

/** Growth that goes on as evenly as this is the camera's. */
const steadyGrowth = 0.5

/** A second movement this strong beside the first makes the clip mixed. */
const mixedShare = 0.6

/**
 * A roll about the optical axis turns the picture in circles. When the picture turns in ellipses (one side of the turning
 * exceeds the other by this factor), the camera goes around a scene that it looks down on: seen 60° steep, a table already
 * turns flattened by 1 / sin² 60° = 1.33, and a roll measures within 2 % of a circle. Or, where the view hides that, when one
 * similarity leaves more unexplained than the errors of tracking a roll do (0.05 to 0.15, more where little can be tracked)
 * and what is left over is faster than the turning itself: what stands up moves against what lies flat.
 */
const flattened = 1.2
const rollParallax = 0.15
const rollLeftOver = 1.2

/**
 * Going around a scene at eye level shears the picture: the floor in front moves one way and what is far the other. So the
 * sideways turning is much the larger side, and this share of the points moves against the rest. Moving past a scene shears
 * it too, but all one way; turning on the spot shears nothing.
 */
const sheared = 2
/** Flying forward past the sides of a valley shears too, but less than it grows. */
const shearOverGrowth = 1.2
const orbitCounterflow = 0.15
const steadyShear = 0.6

/** Below this share of a picture's swaying, a net movement is what was left over from several, not one. */
const leftOver = 0.08
/** Speed to and fro that is more than an unsteady hand, in picture widths a second. */
const swayingSpeed = 0.12

/** Energy of the moving tenth from which something moves before a standing camera, in picture widths a second. */
const subjectEnergy = 0.03

const measured = ['x', 'y', 'zoom', 'roll', 'expansion', 'turnX', 'turnY'] as const

interface Component {
  camera: CameraMotion
  /** Net effect in picture widths a second. */
  net: number
  /** Net over length, 0 to 1. */
  steadiness: number
}

/** What the camera does over the given steps; null when there are none. */
export function classifyMotion(steps: readonly MotionStep[]): ClipMotion | null {
  if (steps.length === 0) return null
  let seconds = 0
  const net = { x: 0, y: 0, zoom: 0, roll: 0, expansion: 0, turnX: 0, turnY: 0 }
  const way = { x: 0, y: 0, zoom: 0, roll: 0, expansion: 0, turnX: 0, turnY: 0 }
  let subject = 0
  let parallax = 0
  let counterflow = 0
  let motion = 0
  for (const step of steps) {
    const length = step.to - step.from
    seconds += length
    for (const key of measured) {
      net[key] += step[key] * length
      way[key] += Math.abs(step[key]) * length
    }
    subject += step.subject * length
    // Weighted by how much there is to explain.
    const strength = Math.hypot(
      step.x,
      step.y,
      typicalRadius * step.zoom,
      typicalRadius * step.roll,
    )
    parallax += step.parallax * strength * length
    counterflow += step.counterflow * strength * length
    motion += strength * length
  }
  const speed = (value: number) => Math.abs(value) / seconds
  const steadiness = (value: number, length: number) => Math.abs(value) / Math.max(length, 1e-9)
  // Flying forward, most of a wide view is too far to grow: the mean of all points shows it where the similarity, which
  // settles for most of the view, shows a trace of it. Without that trace it is a subject that comes closer.
  const agree =
    net.expansion * net.zoom > 0 &&
    steadiness(net.zoom, way.zoom) >= steadyGrowth &&
    steadiness(net.expansion, way.expansion) >= steadyGrowth
  const growth = agree && Math.abs(net.expansion) > Math.abs(net.zoom) ? net.expansion : net.zoom
  const growthWay = Math.max(way.zoom, way.expansion, 1e-9)
  const components: Component[] = [
    // The content moves against the camera.
    {
      camera: net.x < 0 ? 'pan-right' : 'pan-left',
      net: speed(net.x),
      steadiness: steadiness(net.x, way.x),
    },
    {
      camera: net.y > 0 ? 'tilt-up' : 'tilt-down',
      net: speed(net.y),
      steadiness: steadiness(net.y, way.y),
    },
    {
      camera: growth > 0 ? 'zoom-in' : 'zoom-out',
      net: speed(growth) * typicalRadius,
      steadiness: steadiness(growth, growthWay),
    },
    {
      camera: 'roll',
      net: speed(net.roll) * typicalRadius,
      steadiness: steadiness(net.roll, way.roll),
    },
  ]
  const moving = components
    .filter((one) => one.net >= standingSpeed && one.steadiness >= steadyShare)
    // What goes one way all the time is meant; what mostly sways happens.
    .toSorted((a, b) => b.net * b.steadiness - a.net * a.steadiness)
  const meanSubject = subject / seconds
  const meanParallax = motion > 0 ? parallax / motion : 0
  const { camera, confidence } = decide(components, moving, {
    meanSubject,
    meanParallax,
    meanCounterflow: motion > 0 ? counterflow / motion : 0,
    swaying: motion / seconds,
    flattening: Math.max(
      Math.abs(net.turnX) / Math.max(Math.abs(net.turnY), 1e-6),
      Math.abs(net.turnY) / Math.max(Math.abs(net.turnX), 1e-6),
    ),
    shear: {
      net: speed(net.turnX) * typicalRadius,
      steadiness: steadiness(net.turnX, way.turnX),
      factor: Math.abs(net.turnX) / Math.max(Math.abs(net.turnY), 1e-6),
      growth: speed(Math.max(Math.abs(net.zoom), Math.abs(net.expansion))) * typicalRadius,
    },
  })
  // Adding 0 makes −0, which JSON does not keep, a 0.
  const round = (value: number, digits = 4) => Math.round(value * 10 ** digits) / 10 ** digits + 0
  return {
    camera,
    confidence: round(confidence, 2),
    panPerSecond: round(-net.x / seconds),
    tiltPerSecond: round(net.y / seconds),
    zoomPerSecond: round(growth / seconds),
    rollPerSecond: round((net.roll / seconds) * (180 / Math.PI), 2),
    parallax: round(meanParallax, 3),
    subject: round(meanSubject),
    curve: steps.map((step) => round(step.energy)),
  }
}

function decide(
  components: readonly Component[],
  moving: readonly Component[],
  found: {
    meanSubject: number
    meanParallax: number
    meanCounterflow: number
    swaying: number
    flattening: number
    shear: { net: number; steadiness: number; factor: number; growth: number }
  },
): { camera: CameraMotion; confidence: number } {
  const { meanSubject, meanParallax, swaying } = found
  const first = moving[0]
  const second = moving[1]
  const total = components.reduce((sum, one) => sum + one.net, 0)
  const worth = (one: Component) => one.net * one.steadiness
  const severalMoves = swaying > swayingSpeed && (!first || worth(first) < leftOver * swaying)
  if (severalMoves) return { camera: 'mixed', confidence: Math.min(1, swaying / 0.3) }
  const { shear } = found
  if (
    shear.net >= Math.max(standingSpeed, 0.5 * (first?.net ?? 0), shearOverGrowth * shear.growth) &&
    shear.factor >= sheared &&
    shear.steadiness >= steadyShear &&
    found.meanCounterflow >= orbitCounterflow
  )
    return { camera: 'orbit', confidence: shear.steadiness }
  if (!first) {
    if (meanSubject >= Math.max(subjectEnergy, 0.5 * swaying))
      return { camera: 'subject', confidence: meanSubject / (meanSubject + swaying) }
    return { camera: 'static', confidence: 1 - 0.5 * Math.min(1, swaying / swayingSpeed) }
  }
  const standsUp = meanParallax >= rollParallax && meanSubject >= rollLeftOver * first.net
  if (first.camera === 'roll' && (found.flattening >= flattened || standsUp))
    return { camera: 'orbit', confidence: first.steadiness }
  if (second && worth(second) >= mixedShare * worth(first))
    return { camera: 'mixed', confidence: (first.net + second.net) / total }
  return { camera: first.camera, confidence: (first.net / total) * first.steadiness }
}
