import type { FloatArray } from '../memory.ts'

// Axes: R rows (all leading axes), C channels. Statistics in f64.

/** Per-channel numbers, or per batch item and channel: row r uses `data` from ⌊r / rowsPerItem⌋ · C on (or from 0). */
export interface ChannelArray {
  data: FloatArray
  /** Rows that share a set of channels; Infinity when all do. */
  rowsPerItem: number
}

function start(array: ChannelArray, row: number, C: number): number {
  return array.rowsPerItem === Infinity ? 0 : Math.floor(row / array.rowsPerItem) * C
}

/** Mean and 1/√(variance + eps) of a row. */
function statistics(x: FloatArray, at: number, C: number, eps: number): [number, number] {
  let sum = 0
  for (let c = 0; c < C; c++) sum += x[at + c]!
  const mean = sum / C
  let squares = 0
  for (let c = 0; c < C; c++) squares += (x[at + c]! - mean) ** 2
  return [mean, 1 / Math.sqrt(squares / C + eps)]
}

export function layerNorm(
  x: FloatArray,
  y: FloatArray,
  R: number,
  C: number,
  eps: number,
  weight: ChannelArray | undefined,
  bias: ChannelArray | undefined,
): void {
  for (let r = 0; r < R; r++) {
    const at = r * C
    const [mean, rstd] = statistics(x, at, C, eps)
    const w = weight && start(weight, r, C)
    const b = bias && start(bias, r, C)
    for (let c = 0; c < C; c++) {
      let value = (x[at + c]! - mean) * rstd
      if (w !== undefined) value *= weight!.data[w + c]!
      if (b !== undefined) value += bias!.data[b + c]!
      y[at + c] = value
    }
  }
}

/** With x̂ the normalised x and g = dy · weight: dx = rstd (g − mean(g) − x̂ mean(g x̂)). */
export function layerNormGrad(
  dy: FloatArray,
  x: FloatArray,
  dx: FloatArray,
  R: number,
  C: number,
  eps: number,
  weight: ChannelArray | undefined,
): void {
  const g = new Float64Array(C)
  for (let r = 0; r < R; r++) {
    const at = r * C
    const [mean, rstd] = statistics(x, at, C, eps)
    const w = weight && start(weight, r, C)
    let sumG = 0
    let sumGx = 0
    for (let c = 0; c < C; c++) {
      g[c] = w === undefined ? dy[at + c]! : dy[at + c]! * weight!.data[w + c]!
      sumG += g[c]!
      sumGx += g[c]! * (x[at + c]! - mean) * rstd
    }
    for (let c = 0; c < C; c++) {
      const normalised = (x[at + c]! - mean) * rstd
      dx[at + c] = rstd * (g[c]! - sumG / C - (normalised * sumGx) / C)
    }
  }
}

function inverseRms(x: FloatArray, at: number, C: number, eps: number): number {
  let squares = 0
  for (let c = 0; c < C; c++) squares += x[at + c]! * x[at + c]!
  return 1 / Math.sqrt(squares / C + eps)
}

export function rmsNorm(
  x: FloatArray,
  weight: FloatArray,
  y: FloatArray,
  R: number,
  C: number,
  eps: number,
): void {
  for (let r = 0; r < R; r++) {
    const at = r * C
    const rrms = inverseRms(x, at, C, eps)
    for (let c = 0; c < C; c++) y[at + c] = x[at + c]! * rrms * weight[c]!
  }
}

/** With ρ = 1/√(mean(x²) + eps): dx = ρ w dy − x ρ³ mean(w dy x). */
export function rmsNormGrad(
  dy: FloatArray,
  x: FloatArray,
  weight: FloatArray,
  dx: FloatArray,
  R: number,
  C: number,
  eps: number,
): void {
  for (let r = 0; r < R; r++) {
    const at = r * C
    const rrms = inverseRms(x, at, C, eps)
    let dot = 0
    for (let c = 0; c < C; c++) dot += weight[c]! * dy[at + c]! * x[at + c]!
    const factor = (rrms ** 3 * dot) / C
    for (let c = 0; c < C; c++) {
      dx[at + c] = rrms * weight[c]! * dy[at + c]! - x[at + c]! * factor
    }
  }
}
