import type { FloatArray } from '../memory.ts'
import { gemm, rowMajor } from './gemm.ts'

// Axes: x [B, T, Y, X, K], weight [O, kT, kY, kX, K], y [B, T', Y', X', O].

/** Most elements of gathered input held at a time, as f64: 8 MiB. */
const maxGathered = 2 ** 20

export interface ConvSizes {
  B: number
  T: number
  Y: number
  X: number
  K: number
  O: number
  kernel: readonly [number, number, number]
  stride: readonly [number, number, number]
  /** Zeros before the first element of each axis. */
  before: readonly [number, number, number]
  upsample: number
  /** T', Y', X'. */
  out: readonly [number, number, number]
}

/** Gathers the window of each output position into a row, some rows at a time, and multiplies by the weight's rows. */
export function conv3d(
  x: FloatArray,
  weight: FloatArray,
  bias: FloatArray | undefined,
  y: FloatArray,
  s: ConvSizes,
): void {
  const [kT, kY, kX] = s.kernel
  const window = kT * kY * kX * s.K
  const [outT, outY, outX] = s.out
  const rows = s.B * outT * outY * outX
  const b = rowMajor(weight, window)
  const isPlain =
    kT * kY * kX === 1 &&
    s.upsample === 1 &&
    s.stride.every((n) => n === 1) &&
    outT === s.T &&
    outY === s.Y &&
    outX === s.X
  if (isPlain) {
    gemm(rows, s.O, s.K, rowMajor(x, s.K), b, rowMajor(y, s.O), { bias })
    return
  }
  const chunk = Math.max(64, Math.floor(maxGathered / window))
  const gathered = new Float64Array(Math.min(rows, chunk) * window)
  for (let r0 = 0; r0 < rows; r0 += chunk) {
    const count = Math.min(chunk, rows - r0)
    for (let r = 0; r < count; r++) gatherWindow(x, gathered, r * window, r0 + r, s)
    const to = rowMajor(y, s.O, r0 * s.O)
    gemm(count, s.O, window, rowMajor(gathered, window), b, to, { bias })
  }
}

function gatherWindow(
  x: FloatArray,
  target: Float64Array,
  at: number,
  row: number,
  s: ConvSizes,
): void {
  const { K, upsample } = s
  const [kT, kY, kX] = s.kernel
  const [outT, outY, outX] = s.out
  const x0 = (row % outX) * s.stride[2] - s.before[2]
  const y0 = (Math.floor(row / outX) % outY) * s.stride[1] - s.before[1]
  const t0 = (Math.floor(row / (outX * outY)) % outT) * s.stride[0] - s.before[0]
  const item = Math.floor(row / (outX * outY * outT))
  const limitX = s.X * upsample
  const limitY = s.Y * upsample
  for (let kt = 0; kt < kT; kt++) {
    const t = t0 + kt
    for (let ky = 0; ky < kY; ky++) {
      const v = y0 + ky
      const isRowInside = t >= 0 && t < s.T && v >= 0 && v < limitY
      const line = ((item * s.T + t) * s.Y + Math.floor(v / upsample)) * s.X
      for (let kx = 0; kx < kX; kx++) {
        const u = x0 + kx
        if (isRowInside && u >= 0 && u < limitX) {
          const from = (line + Math.floor(u / upsample)) * K
          for (let k = 0; k < K; k++) target[at + k] = x[from + k]!
        } else target.fill(0, at, at + K)
        at += K
      }
    }
  }
}
