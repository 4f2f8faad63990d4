// What each op means, in f64 and plain loops: slow, obvious, and what every backend is measured against. Gradients are the
// analytic ones; reference.test.ts checks them against finite differences of the forward functions here.
//
// Axes as in ops.ts. Optional inputs are undefined when absent.

import { blockStateNumbers, stateBlockSize } from '../block-state.ts'
import { bf16FromF32, f16FromF32, f32FromBf16, f32FromF16 } from '../half-floats.ts'
import { dropoutHash, dropoutKey } from '../dropout-hash.ts'
import type { AdamWOptions, DropoutOptions, LossKind } from '../ops.ts'
import { numElements } from '../tensor.ts'

/** A row-major array of f64. */
export interface RefArray {
  readonly shape: readonly number[]
  readonly data: Float64Array
}

/** An array of zeros, or of the given numbers. */
export function refArray(shape: readonly number[], data?: ArrayLike<number>): RefArray {
  return { shape, data: data ? Float64Array.from(data) : new Float64Array(numElements(shape)) }
}

const channels = (x: RefArray) => x.shape.at(-1) ?? 1
const rowsOf = (x: RefArray) => x.data.length / channels(x)

/** A low-rank side branch: y += scale · (x aᵀ) bᵀ. */
export interface RefAdapter {
  a: RefArray
  b: RefArray
  scale: number
}

/** y = x wᵀ + bias + Σ s (x aᵀ) bᵀ. */
export function linear(
  x: RefArray,
  w: RefArray,
  bias?: RefArray,
  adapters: readonly RefAdapter[] = [],
): RefArray {
  const [O, K] = w.shape as [number, number]
  const R = rowsOf(x)
  const y = refArray([...x.shape.slice(0, -1), O])
  for (let r = 0; r < R; r++) {
    for (let o = 0; o < O; o++) {
      let sum = bias ? bias.data[o]! : 0
      for (let k = 0; k < K; k++) sum += x.data[r * K + k]! * w.data[o * K + k]!
      y.data[r * O + o] = sum
    }
  }
  for (const { a, b, scale } of adapters) {
    const branch = linear(linear(x, a), b)
    for (let i = 0; i < y.data.length; i++) y.data[i] = y.data[i]! + scale * branch.data[i]!
  }
  return y
}

/** Σ over rows of left[row, i] · right[row, j]: what a weight's gradient is. */
function outerSum(left: RefArray, right: RefArray): RefArray {
  const I = channels(left)
  const J = channels(right)
  const out = refArray([I, J])
  for (let row = 0; row < rowsOf(left); row++) {
    for (let i = 0; i < I; i++) {
      for (let j = 0; j < J; j++) {
        out.data[i * J + j]! += left.data[row * I + i]! * right.data[row * J + j]!
      }
    }
  }
  return out
}

function transpose(m: RefArray): RefArray {
  return permute(m, [1, 0])
}

function scaled(x: RefArray, factor: number): RefArray {
  return refArray(
    x.shape,
    x.data.map((value) => value * factor),
  )
}

/** dx = dy w + Σ s (dy b) a; da = s (dy b)ᵀ x; db = s dyᵀ (x aᵀ). */
export function linearGrad(
  dy: RefArray,
  x: RefArray,
  w: RefArray,
  adapters: readonly RefAdapter[] = [],
): { dx: RefArray; adapters: { da: RefArray; db: RefArray }[] } {
  const dx = linear(dy, transpose(w))
  const grads = adapters.map(({ a, b, scale }) => {
    const du = scaled(linear(dy, transpose(b)), scale)
    const through = linear(du, transpose(a))
    for (let i = 0; i < dx.data.length; i++) dx.data[i]! += through.data[i]!
    return { da: outerSum(du, x), db: scaled(outerSum(dy, linear(x, a)), scale) }
  })
  return { dx: { ...dx, shape: x.shape }, adapters: grads }
}

/** A packed weight with its codes as plain numbers [N, K]: 0 to 15, or the 8 bits of e4m3. */
export interface RefPackedWeight {
  codes: RefArray
  /** [N, groups], or [N] for float8. */
  scales: RefArray
  zeros?: RefArray
}

const roundF16 = (value: number) => f32FromF16(f16FromF32([value]))[0]!
const roundBf16 = (value: number) => f32FromBf16(bf16FromF32([value]))[0]!

/** Nearest integer, ties to even. */
function rint(value: number): number {
  const below = Math.floor(value)
  const above = value - below
  return above < 0.5 || (above === 0.5 && below % 2 === 0) ? below : below + 1
}

const clamp = (value: number, low: number, high: number) => Math.min(Math.max(value, low), high)

/** The arithmetic of `Ops.quantize` for uint4; every step rounded to f32, and to bf16 where R says so. */
export function quantizeUint4(w: RefArray, groupSize: number, isBf16: boolean): RefPackedWeight {
  const [N, K] = w.shape as [number, number]
  const R = (value: number) => (isBf16 ? roundBf16(Math.fround(value)) : Math.fround(value))
  const groups = K / groupSize
  const codes = refArray(w.shape)
  const scales = refArray([N, groups])
  const zeros = refArray([N, groups])
  for (let g = 0; g < N * groups; g++) {
    const group = w.data.subarray(g * groupSize, (g + 1) * groupSize)
    const low = group.reduce((a, b) => Math.min(a, b), 0)
    const high = group.reduce((a, b) => Math.max(a, b), 0)
    const scale = roundF16(Math.max(R(R(high - low) / 15), 2 ** -23))
    const zero = clamp(-rint(R(low / scale)), 0, 15)
    const inverse = R(1 / scale)
    group.forEach((value, k) => {
      codes.data[g * groupSize + k] = clamp(rint(R(value * inverse)) + zero, 0, 15)
    })
    scales.data[g] = scale
    zeros.data[g] = zero
  }
  return { codes, scales, zeros }
}

/** The arithmetic of `Ops.quantize` for float8_e4m3. */
export function quantizeFloat8(w: RefArray, isBf16: boolean): RefPackedWeight {
  const [N, K] = w.shape as [number, number]
  const R = (value: number) => (isBf16 ? roundBf16(Math.fround(value)) : Math.fround(value))
  const codes = refArray(w.shape)
  const scales = refArray([N])
  for (let n = 0; n < N; n++) {
    const row = w.data.subarray(n * K, (n + 1) * K)
    const largest = row.reduce((a, b) => Math.max(a, Math.abs(b)), 0)
    const scale = R(largest / 448) || 1
    row.forEach((value, k) => (codes.data[n * K + k] = nearestE4m3(R(value / scale))))
    scales.data[n] = scale
  }
  return { codes, scales }
}

/** What a packed weight stands for. */
export function dequantize({ codes, scales, zeros }: RefPackedWeight): RefArray {
  const perScale = codes.data.length / scales.data.length
  return refArray(
    codes.shape,
    codes.data.map((code, i) => {
      const group = Math.floor(i / perScale)
      return (zeros ? code - zeros.data[group]! : e4m3(code)) * scales.data[group]!
    }),
  )
}

/** Value of a float8 E4M3 code that is not NaN. */
export function e4m3(code: number): number {
  const exponent = (code >> 3) & 15
  const fraction = (code & 7) / 8
  const magnitude = exponent ? (1 + fraction) * 2 ** (exponent - 7) : fraction * 2 ** -6
  return code & 0x80 ? -magnitude : magnitude
}

const e4m3Values = Float64Array.from({ length: 0x7f }, (_, code) => e4m3(code))

/** The code nearest to a number, the even one on a tie, the largest past the end. */
function nearestE4m3(value: number): number {
  const magnitude = Math.min(Math.abs(value), 448)
  const above = e4m3Values.findIndex((candidate) => candidate >= magnitude)
  const below = Math.max(above - 1, 0)
  const [up, down] = [e4m3Values[above]! - magnitude, magnitude - e4m3Values[below]!]
  const nearest = up < down || (up === down && above % 2 === 0) ? above : below
  return value < 0 ? nearest | 0x80 : nearest
}

export interface RefAttentionOptions {
  scale?: number | undefined
  bias?: RefArray | undefined
  keyBias?: RefArray | undefined
}

/** out = softmax(scale · q kᵀ + bias + keyBias) v; lse is the log of the softmax's denominator. */
export function attention(
  q: RefArray,
  k: RefArray,
  v: RefArray,
  options: RefAttentionOptions = {},
): { out: RefArray; lse: RefArray } {
  const [B, N, H, D] = q.shape as [number, number, number, number]
  const M = k.shape[1]!
  const out = refArray(q.shape)
  const lse = refArray([B, H, N])
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      for (let n = 0; n < N; n++) {
        const s = scores(q, k, options, b, h, n)
        const max = s.reduce((a, c) => Math.max(a, c), -Infinity)
        const sum = s.reduce((total, score) => total + Math.exp(score - max), 0)
        lse.data[(b * H + h) * N + n] = max + Math.log(sum)
        for (let m = 0; m < M; m++) {
          const p = Math.exp(s[m]! - max) / sum
          for (let d = 0; d < D; d++) {
            out.data[((b * N + n) * H + h) * D + d]! += p * v.data[((b * M + m) * H + h) * D + d]!
          }
        }
      }
    }
  }
  return { out, lse }
}

function scores(
  q: RefArray,
  k: RefArray,
  { scale, bias, keyBias }: RefAttentionOptions,
  b: number,
  h: number,
  n: number,
): Float64Array {
  const [, N, H, D] = q.shape as [number, number, number, number]
  const M = k.shape[1]!
  const s = new Float64Array(M)
  for (let m = 0; m < M; m++) {
    let dot = 0
    for (let d = 0; d < D; d++) {
      dot += q.data[((b * N + n) * H + h) * D + d]! * k.data[((b * M + m) * H + h) * D + d]!
    }
    s[m] = dot * (scale ?? 1 / Math.sqrt(D))
    if (bias) s[m]! += bias.data[(h * N + n) * M + m]!
    if (keyBias) s[m]! += keyBias.data[b * M + m]!
  }
  return s
}

/** With P the softmax, δ[n] = Σ_m P (dout·v): dv = Pᵀ dout; dS = P (dout vᵀ − δ); dq = scale dS k; dk = scale dSᵀ q. */
export function attentionGrad(
  dout: RefArray,
  q: RefArray,
  k: RefArray,
  v: RefArray,
  options: RefAttentionOptions = {},
): { dq: RefArray; dk: RefArray; dv: RefArray } {
  const [B, N, H, D] = q.shape as [number, number, number, number]
  const M = k.shape[1]!
  const scale = options.scale ?? 1 / Math.sqrt(D)
  const { lse } = attention(q, k, v, options)
  const dq = refArray(q.shape)
  const dk = refArray(k.shape)
  const dv = refArray(v.shape)
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      for (let n = 0; n < N; n++) {
        const s = scores(q, k, options, b, h, n)
        const p = s.map((score) => Math.exp(score - lse.data[(b * H + h) * N + n]!))
        const atQ = ((b * N + n) * H + h) * D
        const dp = new Float64Array(M)
        let delta = 0
        for (let m = 0; m < M; m++) {
          const atK = ((b * M + m) * H + h) * D
          for (let d = 0; d < D; d++) {
            dp[m]! += dout.data[atQ + d]! * v.data[atK + d]!
            dv.data[atK + d]! += p[m]! * dout.data[atQ + d]!
          }
          delta += p[m]! * dp[m]!
        }
        for (let m = 0; m < M; m++) {
          const atK = ((b * M + m) * H + h) * D
          const ds = scale * p[m]! * (dp[m]! - delta)
          for (let d = 0; d < D; d++) {
            dq.data[atQ + d]! += ds * k.data[atK + d]!
            dk.data[atK + d]! += ds * q.data[atQ + d]!
          }
        }
      }
    }
  }
  return { dq, dk, dv }
}

/** Number c of row r of x [B, …, C], from an array [C] or [B, C]. */
function channelOf(array: RefArray, x: RefArray, r: number, c: number): number {
  const C = channels(x)
  if (array.shape.length === 1) return array.data[c]!
  const rowsPerItem = rowsOf(x) / x.shape[0]!
  return array.data[Math.floor(r / rowsPerItem) * C + c]!
}

function statistics(x: RefArray, r: number, eps: number): { mean: number; rstd: number } {
  const C = channels(x)
  let mean = 0
  for (let c = 0; c < C; c++) mean += x.data[r * C + c]! / C
  let variance = 0
  for (let c = 0; c < C; c++) variance += (x.data[r * C + c]! - mean) ** 2 / C
  return { mean, rstd: 1 / Math.sqrt(variance + eps) }
}

/** y = (x − mean) / √(var + eps) · weight + bias. */
export function layerNorm(x: RefArray, eps: number, weight?: RefArray, bias?: RefArray): RefArray {
  const C = channels(x)
  const y = refArray(x.shape)
  for (let r = 0; r < rowsOf(x); r++) {
    const { mean, rstd } = statistics(x, r, eps)
    for (let c = 0; c < C; c++) {
      const normalised = (x.data[r * C + c]! - mean) * rstd
      y.data[r * C + c] =
        normalised * (weight ? channelOf(weight, x, r, c) : 1) +
        (bias ? channelOf(bias, x, r, c) : 0)
    }
  }
  return y
}

/** With g = dy · weight, x̂ the normalised x: dx = rstd (g − mean(g) − x̂ mean(g x̂)). */
export function layerNormGrad(dy: RefArray, x: RefArray, eps: number, weight?: RefArray): RefArray {
  const C = channels(x)
  const dx = refArray(x.shape)
  for (let r = 0; r < rowsOf(x); r++) {
    const { mean, rstd } = statistics(x, r, eps)
    const g = Array.from(
      { length: C },
      (_, c) => dy.data[r * C + c]! * (weight ? channelOf(weight, x, r, c) : 1),
    )
    const normalised = Array.from({ length: C }, (_, c) => (x.data[r * C + c]! - mean) * rstd)
    const meanG = g.reduce((a, b) => a + b, 0) / C
    const meanGx = g.reduce((sum, value, c) => sum + value * normalised[c]!, 0) / C
    for (let c = 0; c < C; c++) {
      dx.data[r * C + c] = rstd * (g[c]! - meanG - normalised[c]! * meanGx)
    }
  }
  return dx
}

/** y = x / √(mean(x²) + eps) · weight. */
export function rmsNorm(x: RefArray, weight: RefArray, eps: number): RefArray {
  const C = channels(x)
  const y = refArray(x.shape)
  for (let r = 0; r < rowsOf(x); r++) {
    let square = 0
    for (let c = 0; c < C; c++) square += x.data[r * C + c]! ** 2 / C
    const rrms = 1 / Math.sqrt(square + eps)
    for (let c = 0; c < C; c++) y.data[r * C + c] = x.data[r * C + c]! * rrms * weight.data[c]!
  }
  return y
}

/** With ρ = 1/√(mean(x²) + eps): dx = ρ w dy − x ρ³ mean(w dy x). */
export function rmsNormGrad(dy: RefArray, x: RefArray, weight: RefArray, eps: number): RefArray {
  const C = channels(x)
  const dx = refArray(x.shape)
  for (let r = 0; r < rowsOf(x); r++) {
    let square = 0
    let dot = 0
    for (let c = 0; c < C; c++) {
      square += x.data[r * C + c]! ** 2 / C
      dot += (weight.data[c]! * dy.data[r * C + c]! * x.data[r * C + c]!) / C
    }
    const rrms = 1 / Math.sqrt(square + eps)
    for (let c = 0; c < C; c++) {
      dx.data[r * C + c] =
        rrms * weight.data[c]! * dy.data[r * C + c]! - x.data[r * C + c]! * rrms ** 3 * dot
    }
  }
  return dx
}

/** (a, b) → (a cos − b sin, a sin + b cos) for the pairs (2j, 2j+1). Its gradient is the inverse turn. */
export function rope(x: RefArray, cos: RefArray, sin: RefArray, inverse = false): RefArray {
  const [B, N, H, D] = x.shape as [number, number, number, number]
  const y = refArray(x.shape)
  for (let b = 0; b < B; b++) {
    for (let n = 0; n < N; n++) {
      for (let h = 0; h < H; h++) {
        for (let j = 0; j < D / 2; j++) {
          const at = ((b * N + n) * H + h) * D + 2 * j
          const c = cos.data[(n * D) / 2 + j]!
          const s = (inverse ? -1 : 1) * sin.data[(n * D) / 2 + j]!
          y.data[at] = x.data[at]! * c - x.data[at + 1]! * s
          y.data[at + 1] = x.data[at]! * s + x.data[at + 1]! * c
        }
      }
    }
  }
  return y
}

const rootTwoOverPi = Math.sqrt(2 / Math.PI)

/** ½x(1 + tanh(√(2/π)(x + 0.044715x³))). */
export function gelu(x: RefArray): RefArray {
  return refArray(
    x.shape,
    x.data.map((u) => 0.5 * u * (1 + Math.tanh(rootTwoOverPi * (u + 0.044715 * u ** 3)))),
  )
}

/** dy (½(1 + τ) + ½x(1 − τ²) √(2/π)(1 + 3 · 0.044715x²)), τ the tanh. */
export function geluGrad(dy: RefArray, x: RefArray): RefArray {
  return refArray(
    x.shape,
    x.data.map((u, i) => {
      const tau = Math.tanh(rootTwoOverPi * (u + 0.044715 * u ** 3))
      const slope = (1 - tau ** 2) * rootTwoOverPi * (1 + 3 * 0.044715 * u ** 2)
      return dy.data[i]! * (0.5 * (1 + tau) + 0.5 * u * slope)
    }),
  )
}

/** x · sigmoid(x). */
export function silu(x: RefArray): RefArray {
  return refArray(
    x.shape,
    x.data.map((u) => u / (1 + Math.exp(-u))),
  )
}

/** 1 / √x. */
export function rsqrt(x: RefArray): RefArray {
  return refArray(
    x.shape,
    x.data.map((u) => 1 / Math.sqrt(u)),
  )
}

/** x / (1 − p), or 0 where the hash says so. */
export function dropout(x: RefArray, { probability, seed, stream }: DropoutOptions): RefArray {
  const key = dropoutKey(seed, stream)
  return refArray(
    x.shape,
    x.data.map((u, i) => (dropoutHash(key, i) < probability * 2 ** 32 ? 0 : u / (1 - probability))),
  )
}

/** a + b, b repeated over the leading axes of a. */
export function add(a: RefArray, b: RefArray): RefArray {
  return refArray(
    a.shape,
    a.data.map((value, i) => value + b.data[i % b.data.length]!),
  )
}

/** a · b, b repeated over the leading axes of a. */
export function mul(a: RefArray, b: RefArray): RefArray {
  return refArray(
    a.shape,
    a.data.map((value, i) => value * b.data[i % b.data.length]!),
  )
}

/** x · scale + offset. */
export function affine(x: RefArray, scale = 1, offset = 0): RefArray {
  return refArray(
    x.shape,
    x.data.map((value) => value * scale + offset),
  )
}

/** x + gate · y, gate [B, C]. */
export function gatedAdd(x: RefArray, y: RefArray, gate?: RefArray): RefArray {
  const change = gatedAddGrad(y, gate)
  return refArray(
    x.shape,
    x.data.map((value, i) => value + change.data[i]!),
  )
}

/** gate · dx. */
export function gatedAddGrad(dx: RefArray, gate?: RefArray): RefArray {
  const C = channels(dx)
  return refArray(
    dx.shape,
    dx.data.map((value, i) =>
      gate ? value * channelOf(gate, dx, Math.floor(i / C), i % C) : value,
    ),
  )
}

export interface RefConvOptions {
  bias?: RefArray | undefined
  stride?: readonly [number, number, number] | undefined
  padding?: readonly (readonly [number, number])[] | undefined
  upsample?: number | undefined
}

/** Channels-last convolution over [B, T, Y, X, K] with nearest upsampling of Y and X first. */
export function conv3d(x: RefArray, weight: RefArray, options: RefConvOptions = {}): RefArray {
  const [B, T, Y, X, K] = x.shape as [number, number, number, number, number]
  const [O, kT, kY, kX] = weight.shape as [number, number, number, number, number]
  const { bias, stride = [1, 1, 1], upsample = 1 } = options
  const padding = options.padding ?? [
    [0, 0],
    [0, 0],
    [0, 0],
  ]
  const extent = (axis: 0 | 1 | 2, size: number, kernel: number) =>
    Math.floor((size + padding[axis]![0] + padding[axis]![1] - kernel) / stride[axis]) + 1
  const outT = extent(0, T, kT)
  const outY = extent(1, Y * upsample, kY)
  const outX = extent(2, X * upsample, kX)
  const y = refArray([B, outT, outY, outX, O])
  let at = 0
  for (let b = 0; b < B; b++) {
    for (let t = 0; t < outT; t++) {
      for (let v = 0; v < outY; v++) {
        for (let u = 0; u < outX; u++) {
          for (let o = 0; o < O; o++) {
            let sum = bias ? bias.data[o]! : 0
            for (let i = 0; i < kT; i++) {
              const inT = t * stride[0] + i - padding[0]![0]
              if (inT < 0 || inT >= T) continue
              for (let j = 0; j < kY; j++) {
                const inY = v * stride[1] + j - padding[1]![0]
                if (inY < 0 || inY >= Y * upsample) continue
                for (let l = 0; l < kX; l++) {
                  const inX = u * stride[2] + l - padding[2]![0]
                  if (inX < 0 || inX >= X * upsample) continue
                  const pixel =
                    ((b * T + inT) * Y + Math.floor(inY / upsample)) * X +
                    Math.floor(inX / upsample)
                  const tap = ((o * kT + i) * kY + j) * kX + l
                  for (let k = 0; k < K; k++) {
                    sum += x.data[pixel * K + k]! * weight.data[tap * K + k]!
                  }
                }
              }
            }
            y.data[at++] = sum
          }
        }
      }
    }
  }
  return y
}

/** Rows of the table. */
export function embedding(
  table: RefArray,
  ids: readonly number[],
  shape: readonly number[],
): RefArray {
  const C = channels(table)
  return refArray(
    [...shape, C],
    ids.flatMap((id) => Array.from(table.data.subarray(id * C, (id + 1) * C))),
  )
}

/** Element [i₀, i₁, …] of the result is the element of x whose index along axes[j] is i_j. */
export function permute(x: RefArray, axes: readonly number[]): RefArray {
  const shape = axes.map((axis) => x.shape[axis]!)
  const y = refArray(shape)
  const strides = x.shape.map((_, axis) => numElements(x.shape.slice(axis + 1)))
  for (let i = 0; i < y.data.length; i++) {
    let rest = i
    let from = 0
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += (rest % shape[axis]!) * strides[axes[axis]!]!
      rest = Math.floor(rest / shape[axis]!)
    }
    y.data[i] = x.data[from]!
  }
  return y
}

/** Elements start to end (exclusive) of an axis. */
export function slice(x: RefArray, axis: number, start: number, end: number): RefArray {
  const extent = x.shape[axis]!
  const inner = numElements(x.shape.slice(axis + 1))
  const values = x.data.filter((_, i) => {
    const index = Math.floor(i / inner) % extent
    return index >= start && index < end
  })
  return refArray(x.shape.with(axis, end - start), values)
}

/** Parts one after another along an axis. */
export function concat(parts: readonly RefArray[], axis: number): RefArray {
  const first = parts[0]!
  const total = parts.reduce((sum, part) => sum + part.shape[axis]!, 0)
  const outer = numElements(first.shape.slice(0, axis))
  const values: number[] = []
  for (let row = 0; row < outer; row++) {
    for (const part of parts) {
      const length = part.data.length / outer
      values.push(...part.data.subarray(row * length, (row + 1) * length))
    }
  }
  return refArray(first.shape.with(axis, total), values)
}

const lossTerms: Record<LossKind, { value(d: number): number; slope(d: number): number }> = {
  mse: { value: (d) => d ** 2, slope: (d) => 2 * d },
  mae: { value: (d) => Math.abs(d), slope: (d) => Math.sign(d) },
  'pseudo-huber': {
    value: (d) => Math.sqrt(d ** 2 + 0.01 ** 2) - 0.01,
    slope: (d) => d / Math.sqrt(d ** 2 + 0.01 ** 2),
  },
}

/** Mean over each batch item of the (masked) loss of its elements. */
export function loss(
  prediction: RefArray,
  target: RefArray,
  kind: LossKind,
  mask?: RefArray,
): RefArray {
  const B = prediction.shape[0]!
  const count = prediction.data.length / B
  const out = refArray([B])
  for (let i = 0; i < prediction.data.length; i++) {
    const term = lossTerms[kind].value(prediction.data[i]! - target.data[i]!)
    out.data[Math.floor(i / count)]! += (term * (mask ? mask.data[i]! : 1)) / count
  }
  return out
}

/** d(Σ_b itemScale[b] loss_b) / d prediction. */
export function lossGrad(
  prediction: RefArray,
  target: RefArray,
  kind: LossKind,
  itemScale: readonly number[],
  mask?: RefArray,
): RefArray {
  const count = prediction.data.length / itemScale.length
  return refArray(
    prediction.shape,
    prediction.data.map(
      (value, i) =>
        (itemScale[Math.floor(i / count)]! *
          lossTerms[kind].slope(value - target.data[i]!) *
          (mask ? mask.data[i]! : 1)) /
        count,
    ),
  )
}

/** Sum of the squares of all elements. */
export function sumSquares(arrays: readonly RefArray[]): number {
  return arrays.reduce((sum, { data }) => data.reduce((s, value) => s + value ** 2, sum), 0)
}

/** One AdamW update; returns the new param, m and v. */
export function adamw(
  { param, grad, m, v }: Record<'param' | 'grad' | 'm' | 'v', RefArray>,
  o: AdamWOptions,
): Record<'param' | 'm' | 'v', RefArray> {
  const next = { param: refArray(param.shape), m: refArray(m.shape), v: refArray(v.shape) }
  for (let i = 0; i < param.data.length; i++) {
    const g = grad.data[i]! * o.gradScale
    next.m.data[i] = o.beta1 * m.data[i]! + (1 - o.beta1) * g
    next.v.data[i] = o.beta2 * v.data[i]! + (1 - o.beta2) * g ** 2
    const mHat = next.m.data[i]! / (1 - o.beta1 ** o.step)
    const vHat = next.v.data[i]! / (1 - o.beta2 ** o.step)
    const p = param.data[i]!
    next.param.data[i] =
      p - o.learningRate * o.weightDecay * p - (o.learningRate * mHat) / (Math.sqrt(vHat) + o.eps)
  }
  return next
}

/** A state of 8-bit numbers: codes, one an element, and a scale for each block of 256. */
export interface RefBlockState {
  codes: readonly number[]
  scales: readonly number[]
}

/** What a state in 8 bits holds. */
export function dequantizeState(
  { codes, scales }: RefBlockState,
  kind: 'signed' | 'unsigned',
): number[] {
  return codes.map(
    (code, i) => blockStateNumbers[kind][code]! * scales[Math.floor(i / stateBlockSize)]!,
  )
}

/** The nearest number of each element's block: of two, the smaller magnitude; unsigned, 0 for 0 alone. */
export function quantizeState(
  values: readonly number[],
  kind: 'signed' | 'unsigned',
): RefBlockState {
  const numbers = blockStateNumbers[kind]
  const scales = Array.from({ length: Math.ceil(values.length / stateBlockSize) }, (_, block) =>
    Math.fround(
      values
        .slice(block * stateBlockSize, (block + 1) * stateBlockSize)
        .reduce((most, value) => Math.max(most, Math.abs(value)), 0),
    ),
  )
  const codes = values.map((value, i) => {
    const scale = scales[Math.floor(i / stateBlockSize)]!
    const x = scale === 0 ? 0 : value / scale
    const nearest = numbers
      .map((number, code) => ({ code, number, distance: Math.abs(number - x) }))
      .filter(({ number }) => kind === 'signed' || value === 0 || number > 0)
      .reduce((p, q) =>
        q.distance < p.distance ||
        (q.distance === p.distance && Math.abs(q.number) < Math.abs(p.number))
          ? q
          : p,
      )
    return nearest.code
  })
  return { codes, scales }
}

/** One AdamW update with states in 8 bits; returns the new param, m and v. */
export function adamw8bit(
  { param, grad, m, v }: { param: RefArray; grad: RefArray; m: RefBlockState; v: RefBlockState },
  options: AdamWOptions,
): { param: RefArray; m: RefBlockState; v: RefBlockState } {
  const state = (from: RefBlockState, kind: 'signed' | 'unsigned'): RefArray =>
    refArray(param.shape, Float64Array.from(dequantizeState(from, kind)))
  const next = adamw({ param, grad, m: state(m, 'signed'), v: state(v, 'unsigned') }, options)
  return {
    param: next.param,
    m: quantizeState([...next.m.data], 'signed'),
    v: quantizeState([...next.v.data], 'unsigned'),
  }
}
