import { normals, type Device, type PackedWeight, type Tensor } from '@kinora/kernel-api'

// The best correction of rank r to a packed weight, by the randomised range finder of Halko, Martinsson and Tropp (2011,
// algorithms 4.4 and 5.1). With E = W − Ŵ the error [N, K] and D = diag(d) the size of each input channel, it minimises
// ‖(E − B A) D‖: what the error does to outputs, not to weights. The products with E, all that costs anything, run on the device,
// as a difference of two linears: E itself is never made. What is left are tall matrices of a few dozen columns, on the host.
//
// Axes: N out features, K in features, l rows of the sketch, r rank. Sketches are row-major with a row a vector.

/** Vectors beyond the rank: they make the range found that of the largest singular values. */
const oversample = 8
/** Products with E and its transpose before the range is taken: the error's spectrum falls slowly. */
const powerIterations = 2

/** A correction: y += (x Aᵀ) Bᵀ. */
export interface LowRankCorrection {
  rank: number
  /** [r, K] */
  a: Float32Array
  /** [N, r] */
  b: Float32Array
  /** Share of ‖E D‖² that it takes away, 0 to 1, estimated from the sketch. */
  recovered: number
}

/**
 * @param dense W [N, K], f32
 * @param channelSize d [K], positive: root mean square of each input channel; 1 each unless given
 * @param stream random stream under `seed`
 */
export async function correctError(
  device: Device,
  dense: Tensor,
  packed: PackedWeight,
  { rank, seed, stream, channelSize }: CorrectionOptions,
): Promise<LowRankCorrection> {
  const [n, k] = packed.shape
  const r = Math.min(rank, n, k)
  const l = Math.min(r + oversample, n, k)
  const d = channelSize && positive(channelSize)
  const { ops } = device
  const difference = async (
    run: (weight: Tensor | PackedWeight) => Tensor,
  ): Promise<Float32Array> => {
    const result = device.scope(() => ops.add(run(dense), ops.affine(run(packed), { scale: -1 })))
    try {
      return (await device.read(result)) as Float32Array
    } finally {
      device.release(result)
    }
  }
  /** Rows of x [l, K] to x D Eᵀ [l, N]. */
  const apply = (x: Float32Array): Promise<Float32Array> =>
    difference((weight) => ops.linear(device.upload(scaled(x, d), [l, k], 'f32'), weight))
  /** Rows of y [l, N] to y E D [l, K]. */
  const applyTransposed = async (y: Float32Array): Promise<Float32Array> =>
    scaled(
      await difference((weight) => {
        const [dy, x] = [device.upload(y, [l, n], 'f32'), device.zeros([l, k], 'f32')]
        return ops.linearGrad(dy, x, weight, { needsX: true }).dx!
      }),
      d,
    )

  let sketch = await apply(normals(seed, stream, l * k))
  // E‖E D ω‖² = ‖E D‖² for a normal ω.
  const energy = squares(sketch) / l
  for (let i = 0; i < powerIterations; i++) {
    const back = await applyTransposed(orthonormalRows(sketch, l, n))
    sketch = await apply(orthonormalRows(back, l, k))
  }
  const range = orthonormalRows(sketch, l, n)
  const small = await applyTransposed(range)
  const { values, vectors } = symmetricEigen(gram(small, l, k), l)

  const a = new Float32Array(r * k)
  const b = new Float32Array(n * r)
  let taken = 0
  for (let i = 0; i < r; i++) {
    const variance = Math.max(values[i]!, 0)
    taken += variance
    // σ is shared out evenly, so that both factors have numbers of one size.
    const root = Math.sqrt(Math.sqrt(variance))
    if (root === 0) continue
    for (let j = 0; j < l; j++) {
      const u = vectors[i * l + j]!
      for (let c = 0; c < k; c++) a[i * k + c]! += (u / root) * small[j * k + c]!
      for (let o = 0; o < n; o++) b[o * r + i]! += u * root * range[j * n + o]!
    }
  }
  if (d) for (let i = 0; i < a.length; i++) a[i] = a[i]! / d[i % k]!
  return { rank: r, a, b, recovered: energy > 0 ? Math.min(1, taken / energy) : 0 }
}

export interface CorrectionOptions {
  rank: number
  seed: number
  stream: number
  channelSize?: Float32Array | undefined
}

/** A channel that calibration never saw counts a little: a correction may not be unbounded there. */
function positive(sizes: Float32Array): Float32Array {
  const mean = Math.sqrt(squares(sizes) / sizes.length) || 1
  return sizes.map((size) => Math.max(size, 1e-3 * mean))
}

function scaled(rows: Float32Array, d: Float32Array | undefined): Float32Array {
  return d ? rows.map((value, i) => value * d[i % d.length]!) : rows
}

function squares(values: Float32Array): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]! * values[i]!
  return sum
}

function dot(x: Float32Array, i: number, y: Float32Array, j: number, length: number): number {
  let sum = 0
  for (let c = 0; c < length; c++) sum += x[i * length + c]! * y[j * length + c]!
  return sum
}

/** Rows · rowsᵀ, [l, l]. */
function gram(rows: Float32Array, l: number, length: number): Float64Array {
  const out = new Float64Array(l * l)
  for (let i = 0; i < l; i++) {
    for (let j = 0; j <= i; j++) out[i * l + j] = out[j * l + i] = dot(rows, i, rows, j, length)
  }
  return out
}

/**
 * Makes rows orthonormal by Gram and Schmidt, twice over, which is as good as Householder's way here. A row that the others
 * span becomes zero.
 */
export function orthonormalRows(rows: Float32Array, l: number, length: number): Float32Array {
  const q = rows.slice()
  for (let i = 0; i < l; i++) {
    const before = Math.sqrt(dot(q, i, q, i, length))
    for (let pass = 0; pass < 2; pass++) {
      for (let j = 0; j < i; j++) {
        const along = dot(q, i, q, j, length)
        for (let c = 0; c < length; c++) q[i * length + c]! -= along * q[j * length + c]!
      }
    }
    const norm = Math.sqrt(dot(q, i, q, i, length))
    const factor = norm > 1e-6 * before ? 1 / norm : 0
    for (let c = 0; c < length; c++) q[i * length + c]! *= factor
  }
  return q
}

/**
 * Eigenvalues, largest first, and eigenvectors, a row each, of a symmetric matrix [l, l], by Jacobi's rotations.
 */
export function symmetricEigen(
  matrix: Float64Array,
  l: number,
): { values: Float64Array; vectors: Float64Array } {
  const m = matrix.slice()
  const v = new Float64Array(l * l)
  for (let i = 0; i < l; i++) v[i * l + i] = 1
  for (let sweep = 0; sweep < 30; sweep++) {
    let off = 0
    let all = 0
    for (let i = 0; i < l; i++) {
      for (let j = 0; j < l; j++) {
        all += m[i * l + j]! ** 2
        if (i !== j) off += m[i * l + j]! ** 2
      }
    }
    if (off <= 1e-24 * all) break
    for (let p = 0; p < l - 1; p++) for (let q = p + 1; q < l; q++) rotate(m, v, l, p, q)
  }
  const order = Array.from({ length: l }, (_, i) => i).sort((i, j) => m[j * l + j]! - m[i * l + i]!)
  const vectors = new Float64Array(l * l)
  order.forEach((from, to) => vectors.set(v.subarray(from * l, (from + 1) * l), to * l))
  return { values: Float64Array.from(order, (i) => m[i * l + i]!), vectors }
}

/** Makes m[p, q] zero; the rows of `v` turn along. */
function rotate(m: Float64Array, v: Float64Array, l: number, p: number, q: number): void {
  const mpq = m[p * l + q]!
  if (mpq === 0) return
  const theta = (m[q * l + q]! - m[p * l + p]!) / (2 * mpq)
  const t = (theta >= 0 ? 1 : -1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1))
  const c = 1 / Math.sqrt(t * t + 1)
  const s = t * c
  for (let i = 0; i < l; i++) {
    const [a, b] = [m[i * l + p]!, m[i * l + q]!]
    m[i * l + p] = c * a - s * b
    m[i * l + q] = s * a + c * b
  }
  for (let i = 0; i < l; i++) {
    const [a, b] = [m[p * l + i]!, m[q * l + i]!]
    m[p * l + i] = c * a - s * b
    m[q * l + i] = s * a + c * b
    const [x, y] = [v[p * l + i]!, v[q * l + i]!]
    v[p * l + i] = c * x - s * y
    v[q * l + i] = s * x + c * y
  }
}
