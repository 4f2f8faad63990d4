import { fitTurning } from './affine-fit.ts'
import { fitCamera } from './camera-fit.ts'
import type { LumaPyramid } from './luma-pyramid.ts'
import { trackPoints, type SparseFlow } from './sparse-flow.ts'

/**
 * What moved between two pictures, as speeds. Lengths are in picture widths, so that a measure means the same at every size;
 * times in seconds.
 */
export interface MotionStep {
  /** Times of the two pictures, from the first frame of the file. */
  from: number
  to: number
  /** Speed of the content at the centre by the camera's motion; a camera that pans right moves it to negative x. */
  x: number
  /** The same downwards; a camera that tilts up moves the content to positive y. */
  y: number
  /** Growth of the content, as a natural logarithm of scale a second. */
  zoom: number
  /** Turn of the content in radians a second, clockwise positive. */
  roll: number
  /** Share of the tracked points that follow the camera, 0 to 1. */
  agreement: number
  /** Points that were tracked. */
  numPoints: number
  /** How fast the fastest tenth of the picture moves, noise left out: 0 for stillness under any noise. */
  energy: number
  /** The same after the camera's motion is taken out. */
  subject: number
  /** Mean radial growth over all points, near and far alike, as a logarithm a second: what flying forward shows. */
  expansion: number
  /** Share of all motion that the camera's similarity does not explain, 0 to 1. */
  parallax: number
  /** How fast content turns, by an affine fit: see `Turning`; in radians a second. A plain roll has `turnY = −turnX`. */
  turnX: number
  turnY: number
  /** Share of the moving points that move sideways against most of the others, 0 to 0.5. */
  counterflow: number
}

/** Share of the picture whose fastest part `energy` and `subject` describe: a hand or a walking person fills as much. */
const fastestShare = 0.1

/**
 * How many times its own standard error a shift must be to count as motion. Among a hundred points under pure noise the
 * largest is about 2.5 errors in each direction; the tenth part that is averaged stays below 3.5.
 */
const significance = 3.5

/** Shifts below this are not told from noise and interpolation, in pixels of level 0. */
const leastShift = 0.04

/**
 * Least change of a window that counts as lost, in gray levels above the noise: what the pumping of a weak encoder between
 * its key frames stays below.
 */
const lostChange = 8

/** A window that was lost counts as moving at least this fast, in picture widths a second: it changed too much to be found. */
const lostSpeed = 0.1

/** Measures the step between two pictures `seconds` apart. */
export function measureStep(
  from: LumaPyramid,
  to: LumaPyramid,
  times: { from: number; to: number },
): MotionStep {
  const { width, height } = from[0]!
  const seconds = Math.max(times.to - times.from, 1e-3)
  const flow = trackPoints(from, to)
  const outliers = new Float32Array(flow.count)
  const camera = fitCamera(flow, width, height, outliers)
  const turning = fitTurning(flow)
  const perSecond = 1 / (width * seconds)

  const speeds = new Float32Array(flow.count)
  const own = new Float32Array(flow.count)
  let moved = 0
  let unexplained = 0
  let leftward = 0
  let rightward = 0
  for (let point = 0; point < flow.count; point++) {
    if (flow.good[point]) {
      const noise = Math.max(flow.noise, flow.residual[point]!, 0.25)
      const error = significance * flow.sensitivity[point]! * noise
      const least = Math.max(leastShift, error)
      const shift = Math.hypot(flow.dx[point]!, flow.dy[point]!)
      if (shift > least) speeds[point] = shift * perSecond
      if (flow.dx[point]! > least) rightward++
      else if (flow.dx[point]! < -least) leftward++
      // Too few points for a fit leave none of it.
      const away = Math.max(0, outliers[point]! * width)
      if (away > least) own[point] = away * perSecond
      // What the noise alone would do, in both directions, is neither.
      const byNoise = 2 * (flow.sensitivity[point]! * noise) ** 2
      moved += Math.sqrt(Math.max(0, shift * shift - byNoise))
      unexplained += Math.sqrt(Math.max(0, Math.min(away, shift) ** 2 - byNoise))
    } else if (flow.change[point]! > 4 * flow.noise + lostChange) {
      speeds[point] = lostSpeed
      own[point] = lostSpeed
    }
  }
  return {
    ...times,
    x: camera.x / seconds,
    y: camera.y / seconds,
    zoom: camera.zoom / seconds,
    roll: camera.roll / seconds,
    agreement: camera.agreement,
    numPoints: camera.numPoints,
    energy: meanOfLargest(speeds, fastestShare),
    subject: meanOfLargest(own, fastestShare),
    expansion: meanExpansion(flow) / seconds,
    parallax: moved > 0 ? unexplained / moved : 0,
    turnX: turning.x / seconds,
    turnY: turning.y / seconds,
    counterflow: Math.min(leftward, rightward) / Math.max(1, leftward + rightward),
  }
}

function meanOfLargest(values: Float32Array, share: number): number {
  const count = Math.max(1, Math.round(values.length * share))
  const sorted = values.slice().sort()
  let sum = 0
  for (let index = sorted.length - count; index < sorted.length; index++) sum += sorted[index] ?? 0
  return sum / count
}

/**
 * Growth of the distance between pairs of points, as a logarithm: pairs feel neither pan nor tilt, and a mean between the
 * tenths at the ends feels near and far alike, where the similarity settles for whatever most of the picture does.
 */
function meanExpansion(flow: SparseFlow): number {
  const points: number[] = []
  for (let point = 0; point < flow.count; point++) if (flow.good[point]) points.push(point)
  if (points.length < 8) return 0
  const growth: number[] = []
  for (let offset = points.length >> 2; offset <= points.length >> 1; offset += 3) {
    for (let index = 0; index < points.length; index++) {
      const a = points[index]!
      const b = points[(index + offset) % points.length]!
      const px = flow.x[b]! - flow.x[a]!
      const py = flow.y[b]! - flow.y[a]!
      const length = px * px + py * py
      if (length < 400) continue
      const qx = flow.dx[b]! - flow.dx[a]!
      const qy = flow.dy[b]! - flow.dy[a]!
      growth.push((px * qx + py * qy) / length)
    }
  }
  if (growth.length < 8) return 0
  growth.sort((a, b) => a - b)
  const cut = Math.floor(growth.length * 0.1)
  let sum = 0
  for (let index = cut; index < growth.length - cut; index++) sum += growth[index]!
  return Math.log1p(Math.max(-0.9, sum / (growth.length - 2 * cut)))
}
