// Small problems with a known answer for each unit on subgroup matrices. Products are of small integers, whose sums f16 and f32
// hold exactly, so there any difference is an error; attention is compared with f64.
import { f16FromF32, normals, type Device, type Tensor } from '@kinora/kernel-api'

import type { AdapterProfile, Findings } from '../device/adapter-profile.ts'
import type { MatrixUnitName } from '../tuning/matrix-unit.ts'

/** Integers from −limit to limit, the same each time. */
function integers(seed: number, count: number, limit: number): Float32Array {
  let state = seed
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * (2 * limit + 1)) - limit
  })
}

/** a [M, K] · b [K, N] by strides, in f64. */
function product(
  [M, N, K]: readonly [number, number, number],
  a: (m: number, k: number) => number,
  b: (k: number, n: number) => number,
): Float64Array {
  const y = new Float64Array(M * N)
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < N; n++) {
      let sum = 0
      for (let k = 0; k < K; k++) sum += a(m, k) * b(k, n)
      y[m * N + n] = sum
    }
  }
  return y
}

/** Largest of |got − want|; NaN where anything is. */
function largestError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let largest = 0
  for (let i = 0; i < want.length; i++) {
    const error = Math.abs(got[i]! - want[i]!)
    if (!(error <= largest)) largest = error
  }
  return largest
}

/** ‖got − want‖ / ‖want‖. */
function relativeError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let difference = 0
  let norm = 0
  for (let i = 0; i < want.length; i++) {
    difference += (got[i]! - want[i]!) ** 2
    norm += want[i]! ** 2
  }
  return Math.sqrt(difference / norm)
}

/** Reads tensors and frees them. */
async function take(device: Device, tensors: readonly Tensor[]): Promise<ArrayLike<number>[]> {
  const values: ArrayLike<number>[] = []
  try {
    for (const tensor of tensors) values.push(await device.read(tensor))
  } finally {
    for (const tensor of tensors) device.release(tensor)
  }
  return values
}

const exactly = (
  name: string,
  got: ArrayLike<number>,
  want: ArrayLike<number>,
): string | undefined => {
  const error = largestError(got, want)
  return error === 0 ? undefined : `${name} is off by ${error}`
}
const nearly = (
  name: string,
  got: ArrayLike<number>,
  want: ArrayLike<number>,
): string | undefined => {
  const error = relativeError(got, want)
  return error <= 1e-2 ? undefined : `${name} is off by ${(100 * error).toPrecision(2)} %`
}

/** Product with a bias and an adapter, and all its gradients: dense and thin units, with blocks moved back. */
async function linear(device: Device, M: number, N = 192, K = 128): Promise<string | undefined> {
  const R = 16
  const x = integers(1, M * K, 2)
  const w = integers(2, N * K, 1)
  const bias = integers(3, N, 4)
  const a = integers(4, R * K, 1)
  const b = integers(5, N * R, 1)
  const dy = integers(6, M * N, 2)
  const inputs = {
    x: device.upload(f16FromF32(x), [M, K], 'f16'),
    w: device.upload(f16FromF32(w), [N, K], 'f16'),
    bias: device.upload(bias, [N], 'f32'),
    a: device.upload(a, [R, K], 'f32'),
    b: device.upload(b, [N, R], 'f32'),
    dy: device.upload(f16FromF32(dy), [M, N], 'f16'),
  }
  try {
    const adapters = [{ a: inputs.a, b: inputs.b, scale: 1 }]
    const { y, grads } = device.scope(() => ({
      y: device.ops.linear(inputs.x, inputs.w, { bias: inputs.bias, adapters, dtype: 'f32' }),
      grads: device.ops.linearGrad(inputs.dy, inputs.x, inputs.w, {
        adapters,
        needsX: true,
        dtype: 'f32',
      }),
    }))
    const { da, db } = grads.adapters[0]!
    const [gotY, gotDx, gotDa, gotDb] = await take(device, [y, grads.dx!, da, db])
    const u = product(
      [M, R, K],
      (m, k) => x[m * K + k]!,
      (k, r) => a[r * K + k]!,
    )
    const du = product(
      [M, R, N],
      (m, n) => dy[m * N + n]!,
      (n, r) => b[n * R + r]!,
    )
    const wantY = product(
      [M, N, K + R],
      (m, k) => (k < K ? x[m * K + k]! : u[m * R + k - K]!),
      (k, n) => (k < K ? w[n * K + k]! : b[n * R + k - K]!),
    ).map((value, i) => value + bias[i % N]!)
    const wantDx = product(
      [M, K, N + R],
      (m, n) => (n < N ? dy[m * N + n]! : du[m * R + n - N]!),
      (n, k) => (n < N ? w[n * K + k]! : a[(n - N) * K + k]!),
    )
    const wantDa = product(
      [R, K, M],
      (r, m) => du[m * R + r]!,
      (m, k) => x[m * K + k]!,
    )
    const wantDb = product(
      [N, R, M],
      (n, m) => dy[m * N + n]!,
      (m, r) => u[m * R + r]!,
    )
    return (
      exactly('a product', gotY!, wantY) ??
      exactly('a gradient', gotDx!, wantDx) ??
      exactly("an adapter's gradient", gotDa!, wantDa) ??
      exactly("an adapter's gradient", gotDb!, wantDb)
    )
  } finally {
    for (const tensor of Object.values(inputs)) device.release(tensor)
  }
}

/**
 * The same in one and a half waves of two multiprocessors, so that the second is computed in parts of the contraction: of the
 * product, then of the gradient. An adapter of unknown size does not do that.
 */
async function linearInWaves(device: Device, profile: Findings): Promise<string | undefined> {
  const { multiprocessors } = profile
  if (multiprocessors === undefined) return undefined
  profile.multiprocessors = 2
  try {
    return (await linear(device, 256, 384, 128)) ?? (await linear(device, 256, 128, 384))
  } finally {
    profile.multiprocessors = multiprocessors
  }
}

/** Queries and keys: rows that fill whole vectors, and rows that do not and have a kernel of their own. */
const lengths = [160, 133] as const
const HEAD = 128

/** Attention of one head and its gradients, in f64. */
function attentionAnswer(q: Float64Array, k: Float64Array, v: Float64Array, dout: Float64Array) {
  const tokens = q.length / HEAD
  const rows = (values: Float64Array) => (row: number, c: number) => values[row * HEAD + c]!
  const columns = (values: Float64Array) => (c: number, row: number) => values[row * HEAD + c]!
  const square = [tokens, tokens, HEAD] as const
  const scale = 1 / Math.sqrt(HEAD)
  const weights = product(square, rows(q), columns(k))
  const lse = new Float64Array(tokens)
  for (let n = 0; n < tokens; n++) {
    const row = weights.subarray(n * tokens, (n + 1) * tokens)
    const largest = scale * row.reduce((most, score) => Math.max(most, score))
    const sum = row.reduce((total, score) => total + Math.exp(scale * score - largest), 0)
    lse[n] = largest + Math.log(sum)
    for (let m = 0; m < tokens; m++) row[m] = Math.exp(scale * row[m]! - lse[n]!)
  }
  const byWeight = (values: Float64Array) => (n: number, m: number) => values[n * tokens + m]!
  const byKey = (values: Float64Array) => (m: number, n: number) => values[n * tokens + m]!
  const tall = [tokens, HEAD, tokens] as const
  const out = product(tall, byWeight(weights), rows(v))
  const ds = product(square, rows(dout), columns(v))
  for (let n = 0; n < tokens; n++) {
    let delta = 0
    for (let c = 0; c < HEAD; c++) delta += out[n * HEAD + c]! * dout[n * HEAD + c]!
    for (let m = 0; m < tokens; m++) {
      const i = n * tokens + m
      ds[i] = scale * weights[i]! * (ds[i]! - delta)
    }
  }
  return {
    out,
    lse,
    dq: product(tall, byWeight(ds), rows(k)),
    dk: product(tall, byKey(ds), rows(q)),
    dv: product(tall, byKey(weights), rows(dout)),
  }
}

async function attention(
  device: Device,
  tokens: number,
  gradient: boolean,
): Promise<string | undefined> {
  const shape = [1, tokens, 1, HEAD]
  const host = [0, 1, 2, 3].map((stream) => normals(11, stream, tokens * HEAD))
  const [q, k, v, dout] = host.map((values) => device.upload(f16FromF32(values), shape, 'f16')) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ]
  try {
    const { out, lse } = device.ops.attention(q, k, v)
    const grads = gradient ? device.ops.attentionGrad(dout, { q, k, v, out, lse }) : undefined
    const [gotOut, gotLse, ...gotGrads] = await take(device, [
      out,
      lse,
      ...(grads ? [grads.dq, grads.dk, grads.dv] : []),
    ])
    const [hostQ, hostK, hostV, hostDout] = host.map((values) => Float64Array.from(values)) as [
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
    ]
    const want = attentionAnswer(hostQ, hostK, hostV, hostDout)
    if (!grads)
      return nearly('attention', gotOut!, want.out) ?? nearly('its log-sum-exp', gotLse!, want.lse)
    const [dq, dk, dv] = gotGrads
    return (
      nearly('the gradient of queries', dq!, want.dq) ??
      nearly('the gradient of keys', dk!, want.dk) ??
      nearly('the gradient of values', dv!, want.dv)
    )
  } finally {
    for (const tensor of [q, k, v, dout]) device.release(tensor)
  }
}

/** Pixels a side, channels in and out, of a convolution of 3 × 3 with a border of zeros. */
const [SIDE, IN, OUT] = [24, 32, 32] as const

/** f32 gets numbers of twelve bits, which one f16 cannot hold: a driver must not lose the second. */
const convLimits = { f16: 2, f32: 3000 } as const

async function conv3d(device: Device): Promise<string | undefined> {
  const w = integers(22, OUT * 9 * IN, 1)
  const padding = [
    [0, 0],
    [1, 1],
    [1, 1],
  ] as const
  // Corners, edges and the middle are enough.
  const places = [0, 1, 11, 22, 23].flatMap((y) =>
    [0, 17, 23].map((column) => [y, column] as const),
  )
  for (const dtype of ['f16', 'f32'] as const) {
    const x = integers(21, SIDE * SIDE * IN, convLimits[dtype])
    const at = (y: number, column: number, c: number): number =>
      y < 0 || y >= SIDE || column < 0 || column >= SIDE ? 0 : x[(y * SIDE + column) * IN + c]!
    const want = places.flatMap(([y, column]) =>
      Array.from({ length: OUT }, (_, o) => {
        let sum = 0
        for (let tap = 0; tap < 9; tap++) {
          for (let c = 0; c < IN; c++) {
            const value = at(y + Math.floor(tap / 3) - 1, column + (tap % 3) - 1, c)
            sum += value * w[(o * 9 + tap) * IN + c]!
          }
        }
        return sum
      }),
    )
    const bits = (values: Float32Array) => (dtype === 'f16' ? f16FromF32(values) : values)
    const input = device.upload(bits(x), [1, 1, SIDE, SIDE, IN], dtype)
    const weight = device.upload(bits(w), [OUT, 1, 3, 3, IN], dtype)
    try {
      const [all] = await take(device, [device.ops.conv3d(input, weight, { padding })])
      const got = places.flatMap(([y, column]) =>
        Array.from({ length: OUT }, (_, o) => all![(y * SIDE + column) * OUT + o]!),
      )
      const wrong = exactly(`a convolution in ${dtype}`, got, want)
      if (wrong !== undefined) return wrong
    } finally {
      device.release(input)
      device.release(weight)
    }
  }
  return undefined
}

/** What each unit is asked: undefined where the answer is right, else what is wrong, in words. */
export const knownAnswers: Readonly<
  Record<
    MatrixUnitName,
    (device: Device, profile: AdapterProfile & Findings) => Promise<string | undefined>
  >
> = {
  // Rows for the low blocks and for the high ones.
  linear: async (device, profile) =>
    (await linear(device, 200)) ??
    (await linear(device, 264)) ??
    (await linearInWaves(device, profile)),
  attention: (device) => attention(device, lengths[0], false),
  'attention-gradient': async (device) =>
    (await attention(device, lengths[0], true)) ?? (await attention(device, lengths[1], true)),
  conv3d,
}
