import type { LayerNormOptions } from '../../ops.ts'
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

interface NormRow {
  /** [B, …, C]. */
  shape: number[]
  /** Axes of weight and bias: `C`, or `BC` for one set per batch item (modulation). */
  weight?: 'C' | 'BC'
  bias?: 'C' | 'BC'
  eps?: number
  /** Factor on x, and what is added to it. */
  size?: number
  offset?: number
}

const rows: NormRow[] = [
  { shape: [1, 1] },
  { shape: [3, 3], weight: 'C' },
  { shape: [7, 13], weight: 'C', bias: 'C' },
  { shape: [2, 5, 65], weight: 'BC', bias: 'BC' },
  { shape: [3, 2, 3, 33], weight: 'BC' },
  { shape: [2, 3, 257], weight: 'C', bias: 'BC' },
  { shape: [1, 1, 1025], bias: 'C' },
  { shape: [1, 4, 5120], weight: 'BC', bias: 'BC' },
  { shape: [70, 320], weight: 'C', bias: 'C' },
  { shape: [4, 96], size: 1e4 },
  { shape: [4, 96], size: 1e-3, eps: 1e-12 },
  { shape: [5, 64], offset: 100 },
]

const f32: Bound = {
  max: 3e-6,
  why: 'Two sums over the channels, an inverse square root of 2 units in the last place, and a few products.',
}
const f32Offset: Bound = {
  max: 3e-5,
  why: 'With a mean 100 times the deviation, x − mean loses two digits: 100 · 6e-8, some units of it.',
}
const f32Grad: Bound = {
  max: 1e-5,
  why: 'Three sums over the channels and a difference of terms of one size.',
}
const f16Grad: Bound = {
  max: 1e-3,
  why: 'The result is rounded to f16 once; where C is small its terms cancel.',
}

const boundOf = (row: NormRow, to: ComputeDType) =>
  to === 'f16' ? bounds.f16 : row.offset ? f32Offset : f32
const gradBoundOf = (row: NormRow, to: ComputeDType) =>
  to === 'f16' ? f16Grad : row.offset ? f32Offset : f32Grad

/** x dtype → result dtype: f32 only, or all four where there is f16. */
function pairs(dtypes: readonly ComputeDType[]): [ComputeDType, ComputeDType][] {
  return dtypes.flatMap((from) => dtypes.map((to): [ComputeDType, ComputeDType] => [from, to]))
}

export function normCases(dtypes: readonly ComputeDType[]): ConformanceCase[] {
  return pairs(dtypes).flatMap(([from, to]) =>
    rows.flatMap((row) => {
      const isRms = row.weight === 'C' && !row.bias?.includes('B')
      return [layerNormCase(row, from, to), ...(isRms ? [rmsNormCase(row, from, to)] : [])]
    }),
  )
}

function draw(name: string, row: NormRow, from: ComputeDType) {
  const inputs = new Inputs(name)
  const C = row.shape.at(-1)!
  const B = row.shape[0]!
  const channels = (axes: 'C' | 'BC' | undefined, offset: number) =>
    axes && inputs.normal(axes === 'C' ? [C] : [B, C], 'f32', 0.5, offset)
  return {
    x: inputs.normal(row.shape, from, row.size, row.offset),
    dy: inputs.normal(row.shape, from),
    weight: channels(row.weight, 1),
    bias: channels(row.bias, 0),
    eps: row.eps ?? 1e-6,
  }
}

function layerNormCase(row: NormRow, from: ComputeDType, to: ComputeDType): ConformanceCase {
  const name = rowName({ ...row, dtype: from, to: to === from ? undefined : to })
  return {
    op: 'layerNorm and its gradient',
    name,
    bound: boundOf(row, to),
    async run(device) {
      const { x, dy, weight, bias, eps } = draw(`layerNorm ${name}`, row, from)
      const y = reference.layerNorm(x, eps, weight, bias)
      const dx = reference.layerNormGrad(dy, x, eps, weight)
      const expected = [
        { name: 'y', want: y, dtype: to, bound: boundOf(row, to) },
        { name: 'dx', want: dx, dtype: to, bound: gradBoundOf(row, to) },
      ]
      await runAndCompare(device, expected, (ops, put) => {
        const options: LayerNormOptions = {
          eps,
          weight: weight && put(weight),
          bias: bias && put(bias),
          ...(to === from ? {} : { dtype: to }),
        }
        const xT = put(x, from)
        return [ops.layerNorm(xT, options), ops.layerNormGrad(put(dy, from), xT, options)]
      })
    },
  }
}

function rmsNormCase(row: NormRow, from: ComputeDType, to: ComputeDType): ConformanceCase {
  const name = rowName({ ...row, bias: undefined, dtype: from, to: to === from ? undefined : to })
  return {
    op: 'rmsNorm and its gradient',
    name,
    bound: boundOf(row, to),
    async run(device) {
      const { x, dy, weight, eps } = draw(`rmsNorm ${name}`, row, from)
      const y = reference.rmsNorm(x, weight!, eps)
      const dx = reference.rmsNormGrad(dy, x, weight!, eps)
      const expected = [
        { name: 'y', want: y, dtype: to, bound: boundOf(row, to) },
        { name: 'dx', want: dx, dtype: to, bound: gradBoundOf(row, to) },
      ]
      await runAndCompare(device, expected, (ops, put) => {
        const options = { eps, ...(to === from ? {} : { dtype: to }) }
        const [xT, w] = [put(x, from), put(weight!)]
        return [ops.rmsNorm(xT, w, options), ops.rmsNormGrad(put(dy, from), xT, w, options)]
      })
    },
  }
}
