import type { AttentionOptions } from '../../ops.ts'
import {
  Inputs,
  rowName,
  runAndCompare,
  type Bound,
  type ComputeDType,
  type ConformanceCase,
} from '../conformance-case.ts'
import * as reference from '../reference.ts'

interface AttentionRow {
  B: number
  N: number
  M: number
  H: number
  D: number
  scale?: number
  bias?: true
  /** Adds to keys; masks all after the first two thirds with −Infinity. */
  keyBias?: true
  /** Factor on q and k: scores grow with its square. */
  size?: number
}

// Head sizes: 16 (tiny models), 64 (UMT5), 128 (the transformer), 384 (the VAE's single head).
const rows: AttentionRow[] = [
  { B: 1, N: 1, M: 1, H: 1, D: 16 },
  { B: 1, N: 1, M: 7, H: 3, D: 16, scale: 1 },
  { B: 2, N: 13, M: 17, H: 3, D: 16, bias: true, keyBias: true },
  { B: 1, N: 65, M: 65, H: 2, D: 64 },
  { B: 2, N: 33, M: 129, H: 1, D: 64, scale: 1, bias: true, keyBias: true },
  { B: 1, N: 129, M: 67, H: 2, D: 128 },
  { B: 1, N: 31, M: 513, H: 1, D: 128, keyBias: true },
  { B: 1, N: 17, M: 35, H: 1, D: 384 },
  { B: 1, N: 20, M: 24, H: 2, D: 32, bias: true },
  { B: 1, N: 33, M: 47, H: 2, D: 64, size: 5 },
]

const f32: Bound = {
  max: 2e-5,
  why: 'exp may be off by 3 + 2|x| units in the last place, x up to about 30 below the maximum: 4e-6 in a weight, more where scores are large.',
}
const f16: Bound = {
  max: 2e-3,
  why: 'Weights of the softmax may be rounded to f16 before they meet v, and the result is: 2.8e-4 each; rows of cancelling values double it.',
}
const f16Grad: Bound = {
  max: 6e-3,
  why: 'P and dS may be rounded to f16 (2.8e-4 each); dP − δ cancels, where out was rounded to f16 before δ was formed.',
}

export function attentionCases(dtypes: readonly ComputeDType[]): ConformanceCase[] {
  return dtypes.flatMap((dtype) =>
    rows.flatMap((row) => [attentionCase(row, dtype), attentionGradCase(row, dtype)]),
  )
}

function draw(name: string, row: AttentionRow, dtype: ComputeDType) {
  const { B, N, M, H, D, size = 1 } = row
  const inputs = new Inputs(name)
  const scale = row.scale === undefined ? size : size / D ** 0.25
  const keyBias = row.keyBias && inputs.normal([B, M])
  for (let i = 0; keyBias && i < B * M; i++) {
    if (i % M >= Math.ceil((M * 2) / 3)) keyBias.data[i] = -Infinity
  }
  return {
    q: inputs.normal([B, N, H, D], dtype, scale),
    k: inputs.normal([B, M, H, D], dtype, scale),
    v: inputs.normal([B, M, H, D], dtype),
    dout: inputs.normal([B, N, H, D], dtype),
    options: { scale: row.scale, bias: row.bias && inputs.normal([H, N, M]), keyBias },
  }
}

function attentionCase(row: AttentionRow, dtype: ComputeDType): ConformanceCase {
  const name = rowName({ ...row, dtype })
  const bound = dtype === 'f32' ? f32 : f16
  return {
    op: 'attention',
    name,
    bound,
    async run(device) {
      const { q, k, v, options } = draw(`attention ${name}`, row, dtype)
      const want = reference.attention(q, k, v, options)
      const expected = [
        { name: 'out', want: want.out, dtype, bound },
        { name: 'lse', want: want.lse, dtype: 'f32' as const, bound: f32 },
      ]
      await runAndCompare(device, expected, (ops, put) => {
        const given: AttentionOptions = {
          scale: options.scale,
          bias: options.bias && put(options.bias),
          keyBias: options.keyBias && put(options.keyBias),
        }
        const { out, lse } = ops.attention(put(q, dtype), put(k, dtype), put(v, dtype), given)
        return [out, lse]
      })
    },
  }
}

function attentionGradCase(row: AttentionRow, dtype: ComputeDType): ConformanceCase {
  const name = rowName({ ...row, dtype })
  const bound =
    dtype === 'f32'
      ? { max: 5e-5, why: `${f32.why} The gradient multiplies it by dP − δ, which cancels.` }
      : f16Grad
  return {
    op: 'attentionGrad',
    name,
    bound,
    async run(device) {
      const { q, k, v, dout, options } = draw(`attentionGrad ${name}`, row, dtype)
      const want = reference.attentionGrad(dout, q, k, v, options)
      const expected = (['dq', 'dk', 'dv'] as const).map((gradient) => ({
        name: gradient,
        want: want[gradient],
        dtype,
        bound,
      }))
      await runAndCompare(device, expected, (ops, put) => {
        const given: AttentionOptions = {
          scale: options.scale,
          bias: options.bias && put(options.bias),
          keyBias: options.keyBias && put(options.keyBias),
        }
        const inputs = { q: put(q, dtype), k: put(k, dtype), v: put(v, dtype) }
        const result = ops.attention(inputs.q, inputs.k, inputs.v, given)
        const grads = ops.attentionGrad(put(dout, dtype), { ...inputs, ...result }, given)
        return [grads.dq, grads.dk, grads.dv]
      })
    },
  }
}
