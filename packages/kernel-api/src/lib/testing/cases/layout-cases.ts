import {
  bounds,
  Inputs,
  rounded,
  rowName,
  runAndCompare,
  type Bound,
  type ComputeDType,
  type ConformanceCase,
} from '../conformance-case.ts'
import * as reference from '../reference.ts'
import { refArray, type RefArray } from '../reference.ts'
import { numElements, type DType, type Tensor } from '../../tensor.ts'
import type { Ops } from '../../ops.ts'

type Put = (array: RefArray, dtype?: DType) => Tensor

/** Ops that move elements: exact in every dtype. */
export function layoutCases(dtypes: readonly ComputeDType[]): ConformanceCase[] {
  const moved = [...dtypes, 'i32' as const]
  return [
    ...moved.flatMap((dtype) => [
      ...permuteCases(dtype),
      ...sliceCases(dtype),
      ...concatCases(dtype),
    ]),
    ...dtypes.flatMap((dtype) => embeddingCases(dtype, dtypes)),
    ...castCases(dtypes),
  ]
}

function exactCase(
  op: string,
  parameters: object,
  dtype: DType,
  shapes: readonly (readonly number[])[],
  want: (inputs: RefArray[]) => RefArray,
  run: (ops: Ops, tensors: Tensor[]) => Tensor,
): ConformanceCase {
  const name = rowName({ ...parameters, dtype })
  return {
    op,
    name,
    bound: bounds.exact,
    async run(device) {
      const draw = new Inputs(`${op} ${name}`)
      const inputs = shapes.map((shape) =>
        dtype === 'i32'
          ? refArray(
              shape,
              draw.integers(numElements(shape), 2 ** 20).map((n) => n - 2 ** 19),
            )
          : draw.normal(shape, dtype),
      )
      const expected = [{ name: 'result', want: want(inputs), dtype, bound: bounds.exact }]
      await runAndCompare(device, expected, (ops, put: Put) => [
        run(
          ops,
          inputs.map((input) => put(input, dtype)),
        ),
      ])
    },
  }
}

function permuteCases(dtype: DType): ConformanceCase[] {
  const rows: { shape: number[]; axes: number[] }[] = [
    { shape: [5], axes: [0] },
    { shape: [7, 13], axes: [1, 0] },
    { shape: [65, 33], axes: [1, 0] },
    { shape: [2, 3, 5], axes: [2, 0, 1] },
    { shape: [2, 3, 4, 5], axes: [0, 2, 1, 3] },
    { shape: [2, 5, 3, 4, 6], axes: [0, 4, 1, 2, 3] },
    // Patches of the transformer: [B, C, F, H, 2, W, 2] to [B, F, H, W, C, 2, 2], and back with channels last.
    { shape: [2, 4, 3, 2, 2, 3, 2], axes: [0, 2, 3, 5, 1, 4, 6] },
    { shape: [1, 3, 2, 3, 2, 2, 5], axes: [0, 6, 1, 2, 4, 3, 5] },
  ]
  return rows.map(({ shape, axes }) =>
    exactCase(
      'permute',
      { shape, axes },
      dtype,
      [shape],
      ([x]) => reference.permute(x!, axes),
      (ops, [x]) => ops.permute(x!, axes),
    ),
  )
}

function sliceCases(dtype: DType): ConformanceCase[] {
  const rows: { shape: number[]; axis: number; start: number; end: number }[] = [
    { shape: [5], axis: 0, start: 0, end: 5 },
    { shape: [5], axis: 0, start: 2, end: 3 },
    { shape: [7, 13], axis: 1, start: 3, end: 10 },
    { shape: [7, 13], axis: 0, start: 6, end: 7 },
    { shape: [2, 5, 3, 7], axis: 1, start: 1, end: 4 },
    { shape: [3, 2, 129], axis: 2, start: 1, end: 128 },
  ]
  return rows.map(({ shape, axis, start, end }) =>
    exactCase(
      'slice',
      { shape, axis, start, end },
      dtype,
      [shape],
      ([x]) => reference.slice(x!, axis, start, end),
      (ops, [x]) => ops.slice(x!, axis, start, end),
    ),
  )
}

function concatCases(dtype: DType): ConformanceCase[] {
  const rows: { shapes: number[][]; axis: number }[] = [
    { shapes: [[3]], axis: 0 },
    { shapes: [[1], [2], [5]], axis: 0 },
    {
      shapes: [
        [2, 3, 5],
        [2, 1, 5],
        [2, 7, 5],
      ],
      axis: 1,
    },
    {
      shapes: [
        [1, 16, 3, 2, 2],
        [1, 4, 3, 2, 2],
        [1, 16, 3, 2, 2],
      ],
      axis: 1,
    },
    {
      shapes: [
        [3, 2, 65],
        [3, 2, 66],
      ],
      axis: 2,
    },
  ]
  return rows.map(({ shapes, axis }) =>
    exactCase(
      'concat',
      { shapes, axis },
      dtype,
      shapes,
      (parts) => reference.concat(parts, axis),
      (ops, parts) => ops.concat(parts, axis),
    ),
  )
}

function embeddingCases(dtype: ComputeDType, dtypes: readonly ComputeDType[]): ConformanceCase[] {
  const rows = [
    { V: 1, C: 1, ids: [1], as: 'i32' as const },
    { V: 11, C: 7, ids: [2, 5], as: 'u32' as const },
    { V: 257, C: 65, ids: [33], as: 'i32' as const },
  ]
  return rows.flatMap(({ V, C, ids: shape, as }) =>
    dtypes.map((to): ConformanceCase => {
      const name = rowName({ V, C, ids: shape, as, dtype, to: to === dtype ? undefined : to })
      const bound = to === 'f16' ? bounds.f16 : bounds.exact
      return {
        op: 'embedding',
        name,
        bound,
        async run(device) {
          const inputs = new Inputs(`embedding ${name}`)
          const table = inputs.normal([V, C], dtype)
          const ids = inputs.integers(numElements(shape), V)
          ids[0] = V - 1
          const want = reference.embedding(table, ids, shape)
          await runAndCompare(device, [{ name: 'rows', want, dtype: to, bound }], (ops, put) => [
            ops.embedding(
              put(table, dtype),
              put(refArray(shape, ids), as),
              to === dtype ? {} : { dtype: to },
            ),
          ])
        },
      }
    }),
  )
}

/** Ties, the ends of the normal range, and a subnormal: rounding is to nearest even. */
const awkwardNumbers = [
  0,
  1,
  1 + 2 ** -11,
  1 + 3 * 2 ** -11,
  -(1 + 2 ** -11),
  2049,
  2051,
  65504,
  2 ** -14,
  0.1,
]

function castCases(dtypes: readonly ComputeDType[]): ConformanceCase[] {
  const pairs = [
    ...dtypes.flatMap((from) => dtypes.map((to) => [from, to] as const)),
    ['f32', 'bf16'] as const,
    ['bf16', 'f32'] as const,
  ]
  return pairs.flatMap(([from, to]) =>
    [1, 10, 4099].map((n): ConformanceCase => {
      const bound: Bound = {
        max: 0,
        why: 'Rounding to nearest even has one answer.',
      }
      const name = rowName({ n, from, to })
      return {
        op: 'cast',
        name,
        bound,
        async run(device) {
          const values =
            n === 10 ? awkwardNumbers : new Inputs(`cast ${name}`).normal([n], from, 3).data
          const x = refArray([n], rounded(values, from))
          const want = refArray([n], rounded(x.data, to))
          await runAndCompare(device, [{ name: 'y', want, dtype: to, bound }], (ops, put) => [
            ops.cast(put(x, from), to),
          ])
        },
      }
    }),
  )
}
