import { dropoutHash, dropoutKey, type DropoutOptions } from '@kinora/kernel-api'
import type { FloatArray } from '../memory.ts'

const rootTwoOverPi = Math.sqrt(2 / Math.PI)
const cubic = 0.044715

export function gelu(x: FloatArray, y: FloatArray): void {
  for (let i = 0; i < x.length; i++) {
    const u = x[i]!
    y[i] = 0.5 * u * (1 + Math.tanh(rootTwoOverPi * (u + cubic * u * u * u)))
  }
}

/** With τ the tanh: dx = dy (½(1 + τ) + ½x(1 − τ²) √(2/π)(1 + 3 · 0.044715 x²)). */
export function geluGrad(dy: FloatArray, x: FloatArray, dx: FloatArray): void {
  for (let i = 0; i < x.length; i++) {
    const u = x[i]!
    const t = Math.tanh(rootTwoOverPi * (u + cubic * u * u * u))
    // Far out 1 − τ² is exactly zero while x² may overflow: their product must be zero, not NaN.
    const slope = t * t === 1 ? 0 : (1 - t * t) * rootTwoOverPi * (1 + 3 * cubic * u * u)
    dx[i] = dy[i]! * (0.5 * (1 + t) + (slope === 0 ? 0 : 0.5 * u * slope))
  }
}

export function silu(x: FloatArray, y: FloatArray): void {
  for (let i = 0; i < x.length; i++) y[i] = x[i]! / (1 + Math.exp(-x[i]!))
}

export function rsqrt(x: FloatArray, y: FloatArray): void {
  for (let i = 0; i < x.length; i++) y[i] = 1 / Math.sqrt(x[i]!)
}

export function dropout(
  x: FloatArray,
  y: FloatArray,
  { probability, seed, stream }: DropoutOptions,
): void {
  const key = dropoutKey(seed, stream)
  const threshold = probability * 2 ** 32
  const factor = 1 / (1 - probability)
  for (let i = 0; i < x.length; i++) y[i] = dropoutHash(key, i) < threshold ? 0 : x[i]! * factor
}

/** y = a + b, b repeated over the leading axes. */
export function add(a: FloatArray, b: FloatArray, y: FloatArray): void {
  const n = b.length
  for (let base = 0; base < a.length; base += n) {
    for (let i = 0; i < n; i++) y[base + i] = a[base + i]! + b[i]!
  }
}

/** y = a · b, b repeated over the leading axes. */
export function mul(a: FloatArray, b: FloatArray, y: FloatArray): void {
  const n = b.length
  for (let base = 0; base < a.length; base += n) {
    for (let i = 0; i < n; i++) y[base + i] = a[base + i]! * b[i]!
  }
}

export function affine(x: FloatArray, y: FloatArray, scale: number, offset: number): void {
  for (let i = 0; i < x.length; i++) y[i] = x[i]! * scale + offset
}

/** out = x + gate · y: gate [items, C] for x [items, rowsPerItem, C]; x + y without a gate; gate · y without x. */
export function gated(
  x: FloatArray | undefined,
  y: FloatArray,
  gate: FloatArray | undefined,
  out: FloatArray,
  rowsPerItem: number,
  C: number,
): void {
  for (let i = 0; i < y.length; i += C) {
    const g = gate ? Math.floor(i / (C * rowsPerItem)) * C : 0
    for (let c = 0; c < C; c++) {
      const scaled = gate ? gate[g + c]! * y[i + c]! : y[i + c]!
      out[i + c] = x ? x[i + c]! + scaled : scaled
    }
  }
}

/** Pairs (2j, 2j+1) of x [B, N, H, D] by the angles of cos, sin [N, D/2]; `sign` −1 turns the other way. */
export function rope(
  x: FloatArray,
  cos: FloatArray,
  sin: FloatArray,
  y: FloatArray,
  N: number,
  H: number,
  D: number,
  sign: number,
): void {
  const half = D / 2
  const heads = x.length / D
  for (let head = 0; head < heads; head++) {
    const n = Math.floor(head / H) % N
    for (let j = 0; j < half; j++) {
      const at = head * D + 2 * j
      const c = cos[n * half + j]!
      const s = sign * sin[n * half + j]!
      const a = x[at]!
      const b = x[at + 1]!
      y[at] = a * c - b * s
      y[at + 1] = a * s + b * c
    }
  }
}
