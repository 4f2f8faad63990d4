import type { SparseFlow } from './sparse-flow.ts'

/** How content turns, by the affine motion that fits most points: ∂(horizontal)/∂(vertical) and the reverse, in radians. */
export interface Turning {
  /** Content moves to the right by this much more for each step downwards. A turn by `a` clockwise has −a. */
  x: number
  /** Content moves down by this much more for each step to the right. A turn by `a` clockwise has a. */
  y: number
}

const rounds = 5
/** Distance from the fit at which a point counts half, in pixels of level 0. */
const halfWeight = 0.5

/**
 * Fits an affine motion by reweighted least squares (Cauchy weights). The camera turning about its axis turns the picture in
 * circles: `y = −x`. A camera that goes around a scene it looks down on turns it in ellipses, flattened by the view.
 */
export function fitTurning(flow: SparseFlow): Turning {
  const points: number[] = []
  for (let point = 0; point < flow.count; point++) if (flow.good[point]) points.push(point)
  if (points.length < 12) return { x: 0, y: 0 }
  const weights = new Float64Array(points.length).fill(1)
  let u: Plane = { slopeX: 0, slopeY: 0, offset: 0 }
  let v: Plane = u
  for (let round = 0; round < rounds; round++) {
    const fitted = fitPlanes(flow, points, weights)
    if (!fitted) return { x: 0, y: 0 }
    ;[u, v] = fitted
    for (let k = 0; k < points.length; k++) {
      const point = points[k]!
      const x = flow.x[point]!
      const y = flow.y[point]!
      const ex = u.slopeX * x + u.slopeY * y + u.offset - flow.dx[point]!
      const ey = v.slopeX * x + v.slopeY * y + v.offset - flow.dy[point]!
      weights[k] = 1 / (1 + (ex * ex + ey * ey) / (halfWeight * halfWeight))
    }
  }
  return { x: u.slopeY, y: v.slopeX }
}

interface Plane {
  slopeX: number
  slopeY: number
  offset: number
}

/** Weighted least squares of both displacements over (x, y), about the weighted centre. */
function fitPlanes(
  flow: SparseFlow,
  points: readonly number[],
  weights: Float64Array,
): [Plane, Plane] | undefined {
  let w = 0
  let cx = 0
  let cy = 0
  let cu = 0
  let cv = 0
  for (let k = 0; k < points.length; k++) {
    const point = points[k]!
    const weight = weights[k]!
    w += weight
    cx += weight * flow.x[point]!
    cy += weight * flow.y[point]!
    cu += weight * flow.dx[point]!
    cv += weight * flow.dy[point]!
  }
  cx /= w
  cy /= w
  cu /= w
  cv /= w
  let xx = 0
  let xy = 0
  let yy = 0
  let xu = 0
  let yu = 0
  let xv = 0
  let yv = 0
  for (let k = 0; k < points.length; k++) {
    const point = points[k]!
    const weight = weights[k]!
    const x = flow.x[point]! - cx
    const y = flow.y[point]! - cy
    const du = flow.dx[point]! - cu
    const dv = flow.dy[point]! - cv
    xx += weight * x * x
    xy += weight * x * y
    yy += weight * y * y
    xu += weight * x * du
    yu += weight * y * du
    xv += weight * x * dv
    yv += weight * y * dv
  }
  const determinant = xx * yy - xy * xy
  // Points on a line leave one slope open.
  if (!(determinant > 1e-3 * (xx + yy) * (xx + yy))) return undefined
  const plane = (px: number, py: number, mean: number): Plane => {
    const slopeX = (yy * px - xy * py) / determinant
    const slopeY = (xx * py - xy * px) / determinant
    return { slopeX, slopeY, offset: mean - slopeX * cx - slopeY * cy }
  }
  return [plane(xu, yu, cu), plane(xv, yv, cv)]
}
