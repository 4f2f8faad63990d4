import type { Conv3dOptions } from '../../ops.ts'
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

interface ConvRow extends Omit<Conv3dOptions, 'bias'> {
  /** B, T, Y, X, K. */
  x: number[]
  O: number
  kernel: [number, number, number]
  bias?: true
}

const causal = [
  [2, 0],
  [1, 1],
  [1, 1],
] as const
const flat = [
  [0, 0],
  [1, 1],
  [1, 1],
] as const

// The VAE's convolutions (causal 3³, spatial down and up, temporal, pointwise), at small and odd sizes.
const rows: ConvRow[] = [
  { x: [1, 1, 1, 1, 1], O: 1, kernel: [1, 1, 1] },
  { x: [2, 3, 5, 7, 3], O: 5, kernel: [1, 1, 1], bias: true },
  { x: [1, 5, 7, 9, 3], O: 17, kernel: [3, 3, 3], padding: causal, bias: true },
  { x: [2, 3, 6, 5, 7], O: 3, kernel: [3, 3, 3], padding: causal, bias: true },
  { x: [1, 4, 9, 11, 33], O: 33, kernel: [3, 3, 3], padding: causal, bias: true },
  { x: [1, 1, 17, 19, 24], O: 3, kernel: [3, 3, 3], padding: causal },
  { x: [1, 5, 6, 5, 8], O: 13, kernel: [3, 1, 1], stride: [2, 1, 1], bias: true },
  {
    x: [1, 4, 3, 5, 8],
    O: 16,
    kernel: [3, 1, 1],
    padding: [
      [2, 0],
      [0, 0],
      [0, 0],
    ],
    bias: true,
  },
  {
    x: [2, 2, 10, 14, 9],
    O: 9,
    kernel: [1, 3, 3],
    stride: [1, 2, 2],
    padding: [
      [0, 0],
      [0, 1],
      [0, 1],
    ],
    bias: true,
  },
  { x: [1, 2, 5, 7, 12], O: 6, kernel: [1, 3, 3], padding: flat, upsample: 2, bias: true },
  { x: [1, 1, 3, 4, 40], O: 20, kernel: [1, 3, 3], padding: flat, upsample: 2 },
  { x: [1, 3, 8, 6, 36], O: 65, kernel: [1, 2, 2], stride: [1, 2, 2], bias: true },
]

const f32: Bound = {
  max: 3e-6,
  why: 'Sums of up to 900 products in f32, in any fixed order.',
}

export function conv3dCases(dtypes: readonly ComputeDType[]): ConformanceCase[] {
  return dtypes.flatMap((dtype) =>
    rows.map((row): ConformanceCase => {
      const name = rowName({ ...row, dtype })
      const bound = dtype === 'f32' ? f32 : bounds.f16
      return {
        op: 'conv3d',
        name,
        bound,
        async run(device) {
          const { x: shape, O, kernel, bias: hasBias, ...options } = row
          const K = shape[4]!
          const taps = kernel[0] * kernel[1] * kernel[2] * K
          const inputs = new Inputs(`conv3d ${name}`)
          const x = inputs.normal(shape, dtype)
          const w = inputs.normal([O, ...kernel, K], dtype, 1 / Math.sqrt(taps))
          const bias = hasBias && inputs.normal([O], dtype)
          const want = reference.conv3d(x, w, { ...options, bias })
          await runAndCompare(device, [{ name: 'y', want, dtype, bound }], (ops, put) => [
            ops.conv3d(put(x, dtype), put(w, dtype), {
              ...options,
              bias: bias && put(bias, dtype),
            }),
          ])
        },
      }
    }),
  )
}
