import type { SparseFlow } from './sparse-flow.ts'

/**
 * The similarity that carries one picture into the next: content moves by (`x`, `y`) picture widths at the centre, grows by
 * e^`zoom` and turns by `roll` radians (clockwise as seen, since y points down).
 */
export interface CameraStep {
  x: number
  y: number
  zoom: number
  roll: number
  /** Share of the tracked points that agree with it, 0 to 1. */
  agreement: number
  /** Number of points tracked. */
  numPoints: number
}

/** Points that disagree by more than this are not the camera's, in picture widths: 0.3 pixels of a 192-pixel picture. */
const tightest = 0.3 / 192

/** How much looser than at the end each round of reweighting is: early rounds may be far off. */
const loosening = [6, 4, 3, 2, 1.5, 1.5] as const

/**
 * Fits the camera's motion to tracked points by iteratively reweighted least squares with Tukey's biweight, from several
 * starts: at rest, the median shift, and similarities of pairs of points drawn at even spacing (so that a large subject that
 * moves against a small background cannot capture every start). The start with the most agreement wins.
 *
 * @param outliers receives each point's distance from the fit in picture widths, -1 for a point that was not tracked
 */
export function fitCamera(
  flow: SparseFlow,
  width: number,
  height: number,
  outliers: Float32Array,
): CameraStep {
  const { count } = flow
  const points: number[] = []
  for (let point = 0; point < count; point++) {
    outliers[point] = -1
    if (flow.good[point]) points.push(point)
  }
  if (points.length < 4)
    return { x: 0, y: 0, zoom: 0, roll: 0, agreement: 0, numPoints: points.length }
  const n = points.length
  const px = new Float64Array(n)
  const py = new Float64Array(n)
  const qx = new Float64Array(n)
  const qy = new Float64Array(n)
  const noise = new Float64Array(n)
  for (let i = 0; i < n; i++) {
    const point = points[i]!
    px[i] = (flow.x[point]! - width / 2) / width
    py[i] = (flow.y[point]! - height / 2) / width
    qx[i] = flow.dx[point]! / width
    qy[i] = flow.dy[point]! / width
    noise[i] = (flow.sensitivity[point]! * flow.residual[point]!) / width
  }

  // Motion model: q = (a-1, b; -b, a-1) p + t, linear in (a, b, tx, ty).
  const distance = (m: Model, i: number) => {
    const ex = m.a * px[i]! - m.b * py[i]! + m.tx - qx[i]!
    const ey = m.b * px[i]! + m.a * py[i]! + m.ty - qy[i]!
    return Math.sqrt(ex * ex + ey * ey)
  }
  const scaleOf = (i: number) => Math.max(tightest, 3 * noise[i]!)
  // Starts are compared loosely: a pair's own errors grow with the distance from it.
  const support = (m: Model) => {
    let sum = 0
    for (let i = 0; i < n; i++) {
      const r = distance(m, i) / (6 * scaleOf(i) + 0.1 * Math.hypot(qx[i]!, qy[i]!))
      if (r < 1) sum += 1 - r * r
    }
    return sum
  }

  const starts: Model[] = [
    { a: 0, b: 0, tx: 0, ty: 0 },
    { a: 0, b: 0, tx: median(qx), ty: median(qy) },
  ]
  const pairs = Math.min(24, n >> 1)
  for (let k = 0; k < pairs; k++) {
    // Golden-ratio steps visit points evenly and repeatably; partners lie about half the list, so half the picture, away.
    const i = Math.floor(((k * 0.618034) % 1) * n)
    const j = (i + (n >> 1) + Math.floor(((k * 0.381966) % 1) * (n >> 2))) % n
    const model = pairModel(px, py, qx, qy, i, j)
    if (model) starts.push(model)
  }
  let best = starts[0]!
  let bestSupport = -1
  for (const start of starts) {
    const value = support(start)
    if (value > bestSupport) {
      bestSupport = value
      best = start
    }
  }

  const distances = new Float64Array(n)
  // A point counts for as much as its place is known well.
  const weightOf = (i: number, loosen: number) => {
    const scale = scaleOf(i)
    const precision = tightest / scale
    return precision * precision * biweight(distances[i]! / (loosen * 2 * scale))
  }
  for (let round = 0; round < loosening.length; round++) {
    for (let i = 0; i < n; i++) distances[i] = distance(best, i)
    const loosen = loosening[round]!
    let sw = 0
    let sx = 0
    let sy = 0
    let sqx = 0
    let sqy = 0
    for (let i = 0; i < n; i++) {
      const w = weightOf(i, loosen)
      sw += w
      sx += w * px[i]!
      sy += w * py[i]!
      sqx += w * qx[i]!
      sqy += w * qy[i]!
    }
    if (sw < 1e-6) break
    const cx = sx / sw
    const cy = sy / sw
    const cqx = sqx / sw
    const cqy = sqy / sw
    let spp = 0
    let sa = 0
    let sb = 0
    for (let i = 0; i < n; i++) {
      const w = weightOf(i, loosen)
      const x = px[i]! - cx
      const y = py[i]! - cy
      const u = qx[i]! - cqx
      const v = qy[i]! - cqy
      spp += w * (x * x + y * y)
      sa += w * (x * u + y * v)
      sb += w * (x * v - y * u)
    }
    if (spp < 1e-4 * sw) break
    const a = sa / spp
    const b = sb / spp
    best = { a, b, tx: cqx - a * cx + b * cy, ty: cqy - b * cx - a * cy }
  }

  let agreeing = 0
  for (let i = 0; i < n; i++) {
    const d = distance(best, i)
    outliers[points[i]!] = d
    if (d < 2 * scaleOf(i)) agreeing++
  }
  return {
    x: best.tx,
    y: best.ty,
    zoom: Math.log(Math.hypot(1 + best.a, best.b)),
    roll: Math.atan2(best.b, 1 + best.a),
    agreement: agreeing / n,
    numPoints: n,
  }
}

interface Model {
  a: number
  b: number
  tx: number
  ty: number
}

function pairModel(
  px: Float64Array,
  py: Float64Array,
  qx: Float64Array,
  qy: Float64Array,
  i: number,
  j: number,
): Model | undefined {
  const x = px[j]! - px[i]!
  const y = py[j]! - py[i]!
  const length = x * x + y * y
  if (length < 0.02) return undefined
  const u = qx[j]! - qx[i]!
  const v = qy[j]! - qy[i]!
  const a = (x * u + y * v) / length
  const b = (x * v - y * u) / length
  return {
    a,
    b,
    tx: qx[i]! - a * px[i]! + b * py[i]!,
    ty: qy[i]! - b * px[i]! - a * py[i]!,
  }
}

function biweight(r: number): number {
  const s = 1 - r * r
  return s > 0 ? s * s : 0
}

function median(values: Float64Array): number {
  const sorted = values.slice().sort()
  return sorted[sorted.length >> 1] ?? 0
}
