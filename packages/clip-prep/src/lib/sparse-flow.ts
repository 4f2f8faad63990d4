import type { LumaLevel, LumaPyramid } from './luma-pyramid.ts'

/**
 * Where points of one picture lie in the next, by the pyramidal Lucas–Kanade method (Bouguet, "Pyramidal implementation of
 * the Lucas Kanade feature tracker", 2000) in its inverse form (Baker and Matthews, 2004: the gradients of the first picture
 * are used in every iteration, so they are computed once).
 *
 * One entry a point, in pixels of level 0.
 */
export interface SparseFlow {
  count: number
  /** Position in the first picture. */
  x: Float32Array
  y: Float32Array
  /** Displacement to the second picture. */
  dx: Float32Array
  dy: Float32Array
  /** Root mean square difference of the two windows after the fit, in gray levels. */
  residual: Float32Array
  /** Root mean square difference of the two windows at rest, in gray levels. */
  change: Float32Array
  /** Standard error of the displacement that a noise of one gray level would cause, in pixels. */
  sensitivity: Float32Array
  /** 1 where the window has texture in both directions and was found again in the second picture. */
  good: Uint8Array
  /** Noise of the pictures in gray levels: what differs between windows that match as well as they can. */
  noise: number
}

const windowRadius = 4
/** Side of a cell in pixels of level 0; each gives its most corner-like point. */
const cellSide = 16
/**
 * Least eigenvalue of the mean structure tensor, in (gray levels a pixel)². A window with less has an edge in one direction at
 * most, and the aperture problem hides motion along it. 2 is a ramp of 1.4 levels a pixel: just above what the noise and
 * blocking of a good encoder leave.
 */
const minEigenvalue = 2
const iterations = [3, 3, 3, 3] as const

/** Tracks about one point for every 16×16 pixels of level 0. */
export function trackPoints(from: LumaPyramid, to: LumaPyramid): SparseFlow {
  const base = from[0]!
  const columns = Math.floor(base.width / cellSide)
  const rows = Math.floor(base.height / cellSide)
  const flow = allocate(columns * rows)
  const picked = pickPoints(base, columns, rows)
  const patch = newPatch()
  for (let point = 0; point < picked.length / 2; point++) {
    const x = picked[2 * point]!
    const y = picked[2 * point + 1]!
    flow.x[point] = x
    flow.y[point] = y
    trackPoint(from, to, x, y, flow, point, patch)
  }
  flow.count = picked.length / 2
  dropLost(flow)
  return flow
}

/** A window whose best match is little better than no match, and worse than noise explains, was not found again. */
function dropLost(flow: SparseFlow): void {
  const least = new Float32Array(flow.count)
  for (let point = 0; point < flow.count; point++)
    least[point] = Math.min(flow.change[point]!, flow.residual[point]!)
  // The quarter that matches best: flat windows and well-tracked ones, whatever moves elsewhere.
  flow.noise = least.sort()[flow.count >> 2] ?? 0
  for (let point = 0; point < flow.count; point++) {
    const residual = flow.residual[point]!
    if (residual > 3 * flow.noise + 2 && residual > 0.7 * flow.change[point]!) flow.good[point] = 0
  }
}

function allocate(capacity: number): SparseFlow {
  const floats = () => new Float32Array(capacity)
  return {
    count: 0,
    x: floats(),
    y: floats(),
    dx: floats(),
    dy: floats(),
    residual: floats(),
    change: floats(),
    sensitivity: floats(),
    good: new Uint8Array(capacity),
    noise: 0,
  }
}

/** In each cell, the pixel whose gradients are strong in both directions. */
function pickPoints({ width, height, data }: LumaLevel, columns: number, rows: number): number[] {
  const picked: number[] = []
  const left = (width - columns * cellSide) >> 1
  const top = (height - rows * cellSide) >> 1
  const margin = windowRadius + 1
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const x0 = Math.max(margin, left + column * cellSide)
      const y0 = Math.max(margin, top + row * cellSide)
      const x1 = Math.min(width - margin - 1, left + (column + 1) * cellSide - 1)
      const y1 = Math.min(height - margin - 1, top + (row + 1) * cellSide - 1)
      let best = -1
      let bestX = (x0 + x1) >> 1
      let bestY = (y0 + y1) >> 1
      for (let y = y0; y <= y1; y += 2) {
        for (let x = x0; x <= x1; x += 2) {
          const at = y * width + x
          // Differences along both diagonals: their product is large at corners only.
          const a = Math.abs(data[at + width + 2]! - data[at - width - 2]!)
          const b = Math.abs(data[at + width - 2]! - data[at - width + 2]!)
          const c = Math.abs(data[at + 2]! - data[at - 2]!)
          const d = Math.abs(data[at + 2 * width]! - data[at - 2 * width]!)
          const score = Math.min(a, b) + Math.min(c, d)
          if (score > best) {
            best = score
            bestX = x
            bestY = y
          }
        }
      }
      picked.push(bestX, bestY)
    }
  }
  return picked
}

interface Patch {
  value: Float32Array
  gradientX: Float32Array
  gradientY: Float32Array
}

const side = 2 * windowRadius + 1

function newPatch(): Patch {
  return {
    value: new Float32Array(side * side),
    gradientX: new Float32Array(side * side),
    gradientY: new Float32Array(side * side),
  }
}

function trackPoint(
  from: LumaPyramid,
  to: LumaPyramid,
  x: number,
  y: number,
  flow: SparseFlow,
  point: number,
  patch: Patch,
): void {
  const { value, gradientX, gradientY } = patch
  let dx = 0
  let dy = 0
  for (let index = from.length - 1; index >= 0; index--) {
    const a = from[index]!
    const b = to[index]!
    const scale = 1 / (1 << index)
    // Pixel centres: level n+1's pixel 0 lies between pixels 0 and 1 of level n.
    const px = Math.round((x + 0.5) * scale - 0.5)
    const py = Math.round((y + 0.5) * scale - 0.5)
    const w = a.width
    const fits =
      px - windowRadius >= 1 &&
      py - windowRadius >= 1 &&
      px + windowRadius < w - 1 &&
      py + windowRadius < a.height - 1
    if (!fits) {
      if (index > 0) continue
      return
    }
    let xx = 0
    let xy = 0
    let yy = 0
    for (let row = -windowRadius, k = 0; row <= windowRadius; row++) {
      let at = (py + row) * w + px - windowRadius
      for (let column = 0; column < side; column++, k++, at++) {
        const gx = (a.data[at + 1]! - a.data[at - 1]!) * 0.5
        const gy = (a.data[at + w]! - a.data[at - w]!) * 0.5
        value[k] = a.data[at]!
        gradientX[k] = gx
        gradientY[k] = gy
        xx += gx * gx
        xy += gx * gy
        yy += gy * gy
      }
    }
    const n = side * side
    const smallest = (xx + yy - Math.sqrt((xx - yy) * (xx - yy) + 4 * xy * xy)) / (2 * n)
    const textured = smallest >= minEigenvalue
    if (!textured && index > 0) continue
    const determinant = xx * yy - xy * xy
    let u = dx * scale
    let v = dy * scale
    let inside = true
    let squares = windowSquares(b, px + u, py + v, value)
    if (index === 0) {
      flow.change[point] = Math.sqrt(windowSquares(b, px, py, value) / n)
      flow.sensitivity[point] = smallest > 0 ? 1 / Math.sqrt(smallest * n) : 1
    }
    let steps = textured && squares >= 0 ? iterations[index]! : 0
    while (steps-- > 0) {
      let bx = 0
      let by = 0
      const left = px + u - windowRadius
      const top = py + v - windowRadius
      const ix = Math.floor(left)
      const iy = Math.floor(top)
      if (ix < 0 || iy < 0 || ix + side >= b.width || iy + side >= b.height) {
        inside = false
        break
      }
      const fx = left - ix
      const fy = top - iy
      const w00 = (1 - fx) * (1 - fy)
      const w01 = fx * (1 - fy)
      const w10 = (1 - fx) * fy
      const w11 = fx * fy
      const data = b.data
      for (let row = 0, k = 0; row < side; row++) {
        let at = (iy + row) * b.width + ix
        for (let column = 0; column < side; column++, k++, at++) {
          const difference =
            w00 * data[at]! +
            w01 * data[at + 1]! +
            w10 * data[at + b.width]! +
            w11 * data[at + b.width + 1]! -
            value[k]!
          bx += difference * gradientX[k]!
          by += difference * gradientY[k]!
        }
      }
      const stepX = (yy * bx - xy * by) / determinant
      const stepY = (xx * by - xy * bx) / determinant
      u -= stepX
      v -= stepY
      if (stepX * stepX + stepY * stepY < 0.0004) break
    }
    const after = inside ? windowSquares(b, px + u, py + v, value) : -1
    // A step that made the match worse is a divergence: keep what the coarser level found.
    if (after >= 0 && (squares < 0 || after <= squares)) {
      squares = after
      dx = u / scale
      dy = v / scale
    }
    if (index === 0) {
      flow.dx[point] = dx
      flow.dy[point] = dy
      flow.residual[point] = squares >= 0 ? Math.sqrt(squares / n) : 255
      flow.good[point] = textured && squares >= 0 ? 1 : 0
    }
  }
}

/** Sum of squared differences of the window at (x, y), or -1 when it leaves the picture. */
function windowSquares(level: LumaLevel, x: number, y: number, value: Float32Array): number {
  const left = x - windowRadius
  const top = y - windowRadius
  const ix = Math.floor(left)
  const iy = Math.floor(top)
  if (!(ix >= 0 && iy >= 0 && ix + side < level.width && iy + side < level.height)) return -1
  const fx = left - ix
  const fy = top - iy
  const w00 = (1 - fx) * (1 - fy)
  const w01 = fx * (1 - fy)
  const w10 = (1 - fx) * fy
  const w11 = fx * fy
  const { data, width } = level
  let squares = 0
  for (let row = 0, k = 0; row < side; row++) {
    let at = (iy + row) * width + ix
    for (let column = 0; column < side; column++, k++, at++) {
      const difference =
        w00 * data[at]! +
        w01 * data[at + 1]! +
        w10 * data[at + width]! +
        w11 * data[at + width + 1]! -
        value[k]!
      squares += difference * difference
    }
  }
  return squares
}
