import type { LinearGradOptions, LinearOptions } from '../../ops.ts'
import type { PackedWeight, Tensor, Weight } from '../../tensor.ts'
import {
  bounds,
  Inputs,
  rowName,
  runAndCompare,
  type Bound,
  type ComputeDType,
  type ConformanceCase,
} from '../conformance-case.ts'
import * as reference from '../reference.ts'
import { e4m3, refArray, type RefAdapter } from '../reference.ts'

interface LinearRow {
  /** Leading axes of x. */
  rows: number[]
  K: number
  O: number
  bias?: true
  /** Ranks of the side branches. */
  adapters?: number[]
  /** Factor on x. */
  size?: number
  /** Dtype of the result, when it is not that of x. */
  to?: 'f32' | 'f16'
}

// A workgroup's tile is 16 to 128 in the backends there are: one past each. The last two have the proportions of the real
// model's linears (5120 → 5120, 5120 → 13824) at a sixteenth.
const rows: LinearRow[] = [
  { rows: [1], K: 1, O: 1 },
  { rows: [1], K: 16, O: 5, bias: true },
  { rows: [7], K: 13, O: 11, bias: true },
  { rows: [2, 3, 5], K: 17, O: 19, bias: true, adapters: [3] },
  { rows: [17], K: 33, O: 65, adapters: [1, 4] },
  { rows: [65], K: 64, O: 64 },
  { rows: [129], K: 65, O: 129, bias: true, adapters: [16] },
  { rows: [3], K: 4099, O: 5, bias: true },
  { rows: [5], K: 3, O: 4099 },
  { rows: [64], K: 128, O: 96, size: 1000, bias: true },
  { rows: [1, 70], K: 320, O: 320, bias: true, adapters: [16] },
  { rows: [1, 70], K: 320, O: 864, bias: true, adapters: [32] },
]

const f32Sum: Bound = {
  max: 3e-6,
  why: 'Sums of up to 4 099 products in f32, in any fixed order: rounding of 6e-8 a step adds up as √steps.',
}
const f16Branch: Bound = {
  max: 1e-3,
  why: 'The result is rounded to f16 once (2.8e-4); a backend may also round x aᵀ, dy b and the f32 factors of a side branch to f16.',
}

function linearBound(dtype: ComputeDType, to: ComputeDType, adapters: unknown): Bound {
  if (dtype === 'f32' && to === 'f32') return f32Sum
  return adapters ? f16Branch : bounds.f16
}

function drawAdapters(inputs: Inputs, ranks: readonly number[] = [], K: number, O: number) {
  return ranks.map((r, i): RefAdapter => {
    const a = inputs.normal([r, K], 'f32', 1 / Math.sqrt(K))
    return { a, b: inputs.normal([O, r], 'f32', 0.5), scale: i % 2 ? -0.5 : 1.25 }
  })
}

export function linearCases(dtypes: readonly ComputeDType[]): ConformanceCase[] {
  const cases: ConformanceCase[] = []
  for (const dtype of dtypes) {
    for (const row of rows) {
      if (dtype === 'f16' && row.size) continue // past the range of f16 sums' results
      for (const to of row.bias ? dtypes : [dtype]) {
        cases.push(linearCase(row, dtype, to), linearGradCase(row, dtype, to))
      }
    }
    for (const row of packedRows) cases.push(packedCase(row, dtype))
  }
  return cases
}

function linearCase(row: LinearRow, dtype: ComputeDType, to: ComputeDType): ConformanceCase {
  const name = rowName({ ...row, dtype, to: to === dtype ? undefined : to })
  const bound = linearBound(dtype, to, row.adapters)
  return {
    op: 'linear',
    name,
    bound,
    async run(device) {
      const inputs = new Inputs(`linear ${name}`)
      const x = inputs.normal([...row.rows, row.K], dtype, row.size)
      const w = inputs.normal([row.O, row.K], dtype, 1 / Math.sqrt(row.K))
      const bias = row.bias && inputs.normal([row.O], dtype)
      const adapters = drawAdapters(inputs, row.adapters, row.K, row.O)
      const want = reference.linear(x, w, bias, adapters)
      await runAndCompare(device, [{ name: 'y', want, dtype: to, bound }], (ops, put) => {
        const options: LinearOptions = {
          bias: bias && put(bias, dtype),
          adapters: adapters.map(({ a, b, scale }) => ({ a: put(a), b: put(b), scale })),
          ...(to === dtype ? {} : { dtype: to }),
        }
        return [ops.linear(put(x, dtype), put(w, dtype), options)]
      })
    },
  }
}

function linearGradCase(row: LinearRow, dtype: ComputeDType, to: ComputeDType): ConformanceCase {
  const name = rowName({ ...row, dtype, to: to === dtype ? undefined : to })
  const bound = linearBound(dtype, to, row.adapters)
  return {
    op: 'linearGrad',
    name,
    bound,
    async run(device) {
      const inputs = new Inputs(`linearGrad ${name}`)
      const x = inputs.normal([...row.rows, row.K], dtype, row.size)
      const dy = inputs.normal([...row.rows, row.O], dtype)
      const w = inputs.normal([row.O, row.K], dtype, 1 / Math.sqrt(row.O))
      const adapters = drawAdapters(inputs, row.adapters, row.K, row.O)
      const want = reference.linearGrad(dy, x, w, adapters)
      const factors = want.adapters.flatMap(({ da, db }, i) => [
        { name: `da${i}`, want: da, dtype: 'f32' as const, bound },
        { name: `db${i}`, want: db, dtype: 'f32' as const, bound },
      ])
      const expected = [{ name: 'dx', want: want.dx, dtype: to, bound }, ...factors, ...factors]
      await runAndCompare(device, expected, (ops, put) => {
        const options: LinearGradOptions = {
          adapters: adapters.map(({ a, b, scale }) => ({ a: put(a), b: put(b), scale })),
          needsX: true,
          ...(to === dtype ? {} : { dtype: to }),
        }
        const [dyT, xT, wT] = [put(dy, dtype), put(x, dtype), put(w, dtype)]
        const full = ops.linearGrad(dyT, xT, wT, options)
        const skipped = ops.linearGrad(dyT, xT, wT, { ...options, needsX: false })
        if (skipped.dx) throw new Error('dx was computed although needsX is false.')
        const tensors = [full, skipped].flatMap((g) => g.adapters.flatMap(({ da, db }) => [da, db]))
        return [full.dx!, ...tensors]
      })
    },
  }
}

interface PackedRow {
  format: 'uint4' | 'float8_e4m3'
  R: number
  K: number
  O: number
  groupSize?: number
  zeros?: true
  scales: 'f32' | 'f16'
}

const packedRows: PackedRow[] = [
  { format: 'uint4', R: 1, K: 32, O: 1, groupSize: 32, zeros: true, scales: 'f32' },
  { format: 'uint4', R: 5, K: 192, O: 67, groupSize: 64, zeros: true, scales: 'f32' },
  { format: 'uint4', R: 33, K: 128, O: 31, groupSize: 32, zeros: true, scales: 'f32' },
  { format: 'uint4', R: 70, K: 320, O: 96, groupSize: 64, zeros: true, scales: 'f16' },
  { format: 'float8_e4m3', R: 1, K: 4, O: 3, scales: 'f32' },
  { format: 'float8_e4m3', R: 33, K: 132, O: 67, scales: 'f32' },
  { format: 'float8_e4m3', R: 70, K: 320, O: 96, scales: 'f16' },
]

/** Codes drawn at random, and the matrix that they stand for, by the definition in `PackedFormat`. */
function drawPacked(inputs: Inputs, { format, K, O, groupSize = K, scales: dtype }: PackedRow) {
  const codes = inputs.integers(O * K, format === 'uint4' ? 16 : 256)
  if (format === 'float8_e4m3') {
    // The two NaN codes do not occur in a weight.
    for (let i = 0; i < codes.length; i++) if ((codes[i]! & 127) === 127) codes[i] = 0x3c
  }
  const groups = K / groupSize
  const isRowScaled = format === 'float8_e4m3'
  const scaleShape = isRowScaled ? [O] : [O, groups]
  const size = isRowScaled ? 0.005 / Math.sqrt(K) : 0.2 / Math.sqrt(K)
  const scales = inputs.normal(scaleShape, dtype, size / 4, size)
  const zeros = inputs.normal(scaleShape, dtype, 1, 7.5)
  const weight = refArray([O, K])
  for (let o = 0; o < O; o++) {
    for (let k = 0; k < K; k++) {
      const code = codes[o * K + k]!
      const group = o * groups + Math.floor(k / groupSize)
      weight.data[o * K + k] = isRowScaled
        ? e4m3(code) * scales.data[o]!
        : (code - zeros.data[group]!) * scales.data[group]!
    }
  }
  const perWord = isRowScaled ? 4 : 8
  const bits = 32 / perWord
  const words = new Uint32Array(codes.length / perWord)
  codes.forEach((code, i) => (words[Math.floor(i / perWord)]! |= code << (bits * (i % perWord))))
  return { words: refArray([O, K / perWord], words), scales, zeros, weight }
}

function packedCase(row: PackedRow, dtype: ComputeDType): ConformanceCase {
  const name = rowName({ ...row, dtype })
  const bound: Bound =
    dtype === 'f32'
      ? f32Sum
      : {
          max: 1e-3,
          why: 'Weights are expanded to f16 (2.8e-4 each), and the result is rounded to f16.',
        }
  return {
    op: 'linear, packed weight',
    name,
    bound,
    async run(device) {
      const inputs = new Inputs(`packed ${name}`)
      const { words, scales, zeros, weight } = drawPacked(inputs, row)
      const x = inputs.normal([row.R, row.K], dtype)
      const dy = inputs.normal([row.R, row.O], dtype)
      const expected = [
        { name: 'y', want: reference.linear(x, weight), dtype, bound },
        { name: 'dx', want: reference.linearGrad(dy, x, weight).dx, dtype, bound },
      ]
      await runAndCompare(device, expected, (ops, put) => {
        const packed = putPacked(row, put(words, 'u32'), put(scales, row.scales), () =>
          put(zeros, row.scales),
        )
        const xT = put(x, dtype)
        const { dx } = ops.linearGrad(put(dy, dtype), xT, packed, { needsX: true })
        return [ops.linear(xT, packed), dx!]
      })
    },
  }
}

function putPacked(
  { format, K, O, groupSize, zeros }: PackedRow,
  codes: Tensor,
  scales: Tensor,
  putZeros: () => Tensor,
): Weight {
  const packed: PackedWeight = {
    format,
    shape: [O, K],
    codes,
    scales,
    ...(zeros ? { zeros: putZeros() } : {}),
    ...(groupSize ? { groupSize } : {}),
  }
  return packed
}
