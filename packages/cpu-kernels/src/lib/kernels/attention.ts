import type { FloatArray } from '../memory.ts'
import { gemm, type Matrix } from './gemm.ts'

// Axes: B batch, N queries, M keys, H heads, D head channels. q, out [B, N, H, D]; k, v [B, M, H, D]; lse [B, H, N].

/** Most scores held at a time, as f64: 2 MiB. */
const maxScores = 2 ** 18

export interface AttentionSizes {
  B: number
  N: number
  M: number
  H: number
  D: number
  scale: number
}

export interface AttentionArrays {
  q: FloatArray
  k: FloatArray
  v: FloatArray
  out: FloatArray
  lse: FloatArray
  /** [H, N, M]. */
  bias: FloatArray | undefined
  /** [B, M]. */
  keyBias: FloatArray | undefined
}

/** One head of a [B, rows, H, D] tensor, from `row` on. */
function head(
  data: FloatArray,
  b: number,
  h: number,
  rows: number,
  row: number,
  s: AttentionSizes,
): Matrix {
  return {
    data,
    offset: ((b * rows + row) * s.H + h) * s.D,
    rowStride: s.H * s.D,
    columnStride: 1,
  }
}

function flip(m: Matrix): Matrix {
  return { ...m, rowStride: m.columnStride, columnStride: m.rowStride }
}

function queriesAtATime({ N, M }: AttentionSizes): number {
  return Math.min(N, Math.max(16, Math.floor(maxScores / Math.max(M, 1))))
}

/** scores[n, m] = scale · q k + biases, for queries n0 to n0 + count. */
function fillScores(
  scores: Float64Array,
  a: AttentionArrays,
  s: AttentionSizes,
  b: number,
  h: number,
  n0: number,
  count: number,
): void {
  const { N, M, D } = s
  const target = { data: scores, offset: 0, rowStride: M, columnStride: 1 }
  gemm(count, M, D, head(a.q, b, h, N, n0, s), head(a.k, b, h, M, 0, s), target, { alpha: s.scale })
  if (a.bias) {
    const from = (h * N + n0) * M
    for (let i = 0; i < count * M; i++) scores[i] = scores[i]! + a.bias[from + i]!
  }
  if (a.keyBias) {
    for (let n = 0; n < count; n++) {
      for (let m = 0; m < M; m++) scores[n * M + m] = scores[n * M + m]! + a.keyBias[b * M + m]!
    }
  }
}

/** Softmax attention; a query whose keys are all masked gives zeros. */
export function attention(a: AttentionArrays, s: AttentionSizes): void {
  const { B, N, M, H, D } = s
  const chunk = queriesAtATime(s)
  const scores = new Float64Array(chunk * M)
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      for (let n0 = 0; n0 < N; n0 += chunk) {
        const count = Math.min(chunk, N - n0)
        fillScores(scores, a, s, b, h, n0, count)
        for (let n = 0; n < count; n++) {
          a.lse[(b * H + h) * N + n0 + n] = softmaxInPlace(scores, n * M, M)
        }
        const weights = { data: scores, offset: 0, rowStride: M, columnStride: 1 }
        gemm(count, D, M, weights, flip(head(a.v, b, h, M, 0, s)), head(a.out, b, h, N, n0, s))
      }
    }
  }
}

/** Returns the natural log of the sum of exponentials. */
function softmaxInPlace(x: Float64Array, at: number, length: number): number {
  let max = -Infinity
  for (let i = at; i < at + length; i++) if (x[i]! > max) max = x[i]!
  if (max === -Infinity) {
    // All masked, or NaN, which must not be hidden.
    for (let i = at; i < at + length; i++) x[i] = Number.isNaN(x[i]) ? Number.NaN : 0
    return x.subarray(at, at + length).some(Number.isNaN) ? Number.NaN : -Infinity
  }
  let sum = 0
  for (let i = at; i < at + length; i++) sum += x[i] = Math.exp(x[i]! - max)
  for (let i = at; i < at + length; i++) x[i] = x[i]! / sum
  return max + Math.log(sum)
}

/**
 * With P = exp(S − lse) and δ[n] = Σ_d dout·out: dv = Pᵀ dout, dS = P (dout vᵀ − δ), dq = scale · dS k, dk = scale · dSᵀ q.
 */
export function attentionGrad(
  dout: FloatArray,
  a: AttentionArrays,
  s: AttentionSizes,
  grads: { dq: FloatArray; dk: FloatArray; dv: FloatArray },
): void {
  const { B, N, M, H, D, scale } = s
  const chunk = queriesAtATime(s)
  const p = new Float64Array(chunk * M)
  const ds = new Float64Array(chunk * M)
  // Sums over chunks of queries, in f64 until they are complete.
  const dkSum = new Float64Array(M * D)
  const dvSum = new Float64Array(M * D)
  const pMatrix = { data: p, offset: 0, rowStride: M, columnStride: 1 }
  const dsMatrix = { data: ds, offset: 0, rowStride: M, columnStride: 1 }
  const own = (data: FloatArray) => ({ data, offset: 0, rowStride: D, columnStride: 1 })
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      dkSum.fill(0)
      dvSum.fill(0)
      for (let n0 = 0; n0 < N; n0 += chunk) {
        const count = Math.min(chunk, N - n0)
        const doutHead = head(dout, b, h, N, n0, s)
        fillScores(p, a, s, b, h, n0, count)
        gemm(count, M, D, doutHead, head(a.v, b, h, M, 0, s), dsMatrix)
        for (let n = 0; n < count; n++) {
          const lse = a.lse[(b * H + h) * N + n0 + n]!
          const at = ((b * N + n0 + n) * H + h) * D
          let delta = 0
          for (let d = 0; d < D; d++) delta += dout[at + d]! * a.out[at + d]!
          for (let i = n * M; i < (n + 1) * M; i++) {
            const weight = p[i] === -Infinity ? 0 : Math.exp(p[i]! - lse)
            p[i] = weight
            ds[i] = weight * (ds[i]! - delta)
          }
        }
        const more = { accumulate: true }
        gemm(M, D, count, flip(pMatrix), flip(doutHead), own(dvSum), more)
        gemm(M, D, count, flip(dsMatrix), flip(head(a.q, b, h, N, n0, s)), own(dkSum), {
          alpha: scale,
          ...more,
        })
        gemm(
          count,
          D,
          M,
          dsMatrix,
          flip(head(a.k, b, h, M, 0, s)),
          head(grads.dq, b, h, N, n0, s),
          { alpha: scale },
        )
      }
      for (let m = 0; m < M; m++) {
        const at = ((b * M + m) * H + h) * D
        for (let d = 0; d < D; d++) {
          grads.dk[at + d] = dkSum[m * D + d]!
          grads.dv[at + d] = dvSum[m * D + d]!
        }
      }
    }
  }
}
