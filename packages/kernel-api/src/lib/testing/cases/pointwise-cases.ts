import {
  bounds,
  Inputs,
  rounded,
  rowName,
  runAndCompare,
  upload,
  type Bound,
  type ComputeDType,
  type ConformanceCase,
  type Expected,
} from '../conformance-case.ts'
import * as reference from '../reference.ts'
import { refArray, type RefArray } from '../reference.ts'
import type { Ops } from '../../ops.ts'
import type { DType, Tensor } from '../../tensor.ts'

type Put = (array: RefArray, dtype?: DType) => Tensor

/** A row with one result. */
function simpleCase(
  op: string,
  parameters: object,
  bound: Bound,
  dtype: DType,
  draw: (inputs: Inputs) => RefArray[],
  want: (...inputs: RefArray[]) => RefArray,
  run: (ops: Ops, put: Put, inputs: RefArray[]) => Tensor,
): ConformanceCase {
  const name = rowName(parameters)
  return {
    op,
    name,
    bound,
    async run(device) {
      const inputs = draw(new Inputs(`${op} ${name}`))
      const expected: Expected[] = [{ name: 'result', want: want(...inputs), dtype, bound }]
      await runAndCompare(device, expected, (ops, put) => [run(ops, put, inputs)])
    },
  }
}

export function pointwiseCases(dtypes: readonly ComputeDType[]): ConformanceCase[] {
  return dtypes.flatMap((dtype) => [
    ...activationCases(dtype),
    ...rsqrtCases(dtype),
    ...dropoutCases(dtype),
    ...binaryCases(dtype, dtypes),
    ...gatedCases(dtype, dtypes),
    ...ropeCases(dtype),
  ])
}

/** Far out tanh and exp overflow inside a careless formula; f16 ends at 65 504. */
const extremes = [-60000, -10000, -100, -20, -9, -5, -0, 0, 1e-4, 5, 9, 20, 100, 10000, 60000]

function activationCases(dtype: ComputeDType): ConformanceCase[] {
  const bound = dtype === 'f32' ? bounds.f32Transcendental : bounds.f16
  const sets: { x: string; draw: (inputs: Inputs) => RefArray }[] = [
    ...[1, 7, 257, 4099].map((n) => ({
      x: `[${n}]`,
      draw: (inputs: Inputs) => inputs.normal([n], dtype, 2),
    })),
    { x: '[2, 3, 5]', draw: (inputs) => inputs.normal([2, 3, 5], dtype, 2) },
  ]
  const rows = sets.flatMap(({ x, draw }) => [
    simpleCase(
      'gelu',
      { x, dtype },
      bound,
      dtype,
      (i) => [draw(i)],
      reference.gelu,
      (ops, put, [a]) => ops.gelu(put(a!, dtype)),
    ),
    simpleCase(
      'silu',
      { x, dtype },
      bound,
      dtype,
      (i) => [draw(i)],
      reference.silu,
      (ops, put, [a]) => ops.silu(put(a!, dtype)),
    ),
    simpleCase(
      'geluGrad',
      { x, dtype },
      dtype === 'f32'
        ? bound
        : { max: 1e-3, why: 'Its two terms cancel near the minimum of gelu.' },
      dtype,
      (i) => [draw(i), draw(i)],
      reference.geluGrad,
      (ops, put, [dy, a]) => ops.geluGrad(put(dy!, dtype), put(a!, dtype)),
    ),
  ])
  return [...rows, ...extremes.map((x) => tailCase(x, dtype))]
}

/** One number at a time, so that a small result is not measured against a large one beside it. */
function tailCase(value: number, dtype: ComputeDType): ConformanceCase {
  const bound: Bound = {
    max: dtype === 'f32' ? 2e-4 : 2e-3,
    why: 'In the tails a result is what cancellation leaves: 1 + tanh is known to 6e-8. Results below 1e-3 are measured against that.',
  }
  return {
    op: 'activations far out',
    name: rowName({ x: value, dtype }),
    bound,
    async run(device) {
      const x = refArray([1], rounded([value], dtype))
      const one = refArray([1], [1])
      const results = device.scope(() => {
        const [xT, oneT] = [upload(device, x, dtype), upload(device, one, dtype)]
        const { ops } = device
        return { gelu: ops.gelu(xT), silu: ops.silu(xT), geluGrad: ops.geluGrad(oneT, xT) }
      })
      const wanted = {
        gelu: reference.gelu(x),
        silu: reference.silu(x),
        geluGrad: reference.geluGrad(one, x),
      }
      for (const op of ['gelu', 'silu', 'geluGrad'] as const) {
        const got = (await device.read(results[op]))[0]!
        device.release(results[op])
        const want = wanted[op].data[0]!
        const error = Math.abs(got - want) / Math.max(Math.abs(want), 1e-3)
        if (!(error <= bound.max)) {
          throw new Error(`${op}(${value}) is ${got}, but should be ${want}. ${bound.why}`)
        }
      }
    },
  }
}

function rsqrtCases(dtype: ComputeDType): ConformanceCase[] {
  const bound: Bound =
    dtype === 'f16'
      ? bounds.f16
      : { max: 1e-6, why: 'WGSL allows inverseSqrt two units in the last place.' }
  return [1, 7, 257, 4099].map((n) =>
    simpleCase(
      'rsqrt',
      { x: `[${n}]`, dtype },
      bound,
      dtype,
      (inputs) => {
        // From 1e-4 to 1e4.
        const x = inputs.normal([n]).data.map((value) => 10 ** Math.max(-4, Math.min(4, value)))
        return [refArray([n], rounded(x, dtype))]
      },
      reference.rsqrt,
      (ops, put, [x]) => ops.rsqrt(put(x!, dtype)),
    ),
  )
}

function dropoutCases(dtype: ComputeDType): ConformanceCase[] {
  const rows = [
    { shape: [1], probability: 0.5, seed: 0, stream: 0 },
    { shape: [7, 13], probability: 0, seed: 42, stream: 1 },
    { shape: [3, 257], probability: 0.1, seed: 2 ** 53 - 1, stream: 2 ** 40 + 7 },
    { shape: [4099], probability: 0.9, seed: 42, stream: 2 ** 52 },
  ]
  return rows.map(({ shape, ...options }) =>
    simpleCase(
      'dropout',
      { shape, ...options, dtype },
      dtype === 'f32' ? bounds.f32 : bounds.f16,
      dtype,
      (inputs) => [inputs.normal(shape, dtype)],
      (x) => reference.dropout(x, options),
      (ops, put, [x]) => ops.dropout(put(x!, dtype), options),
    ),
  )
}

function binaryCases(dtype: ComputeDType, dtypes: readonly ComputeDType[]): ConformanceCase[] {
  const shapes: { a: number[]; b: number[] }[] = [
    { a: [1], b: [1] },
    { a: [7, 13], b: [7, 13] },
    { a: [7, 13], b: [13] },
    { a: [2, 3, 5], b: [3, 5] },
    { a: [2, 3, 5], b: [5] },
    { a: [3, 257], b: [257] },
    { a: [5, 4099], b: [5, 4099] },
  ]
  const bound = dtype === 'f32' ? bounds.f32 : bounds.f16
  const rows = shapes.flatMap(({ a, b }) =>
    dtypes.flatMap((other) =>
      (
        [
          ['add', reference.add],
          ['mul', reference.mul],
        ] as const
      ).map(([op, want]) =>
        simpleCase(
          op,
          { a, b, dtype, bDtype: other === dtype ? undefined : other },
          bound,
          dtype,
          (inputs) => [inputs.normal(a, dtype), inputs.normal(b, other)],
          (x, y) => want(x!, y!),
          (ops, put, [x, y]) => ops[op](put(x!, dtype), put(y!, other)),
        ),
      ),
    ),
  )
  const affine = [
    { shape: [1], scale: 2, offset: -1 },
    { shape: [7, 37], scale: -0.3, offset: undefined },
    { shape: [1027], scale: undefined, offset: 0.25 },
  ].map(({ shape, scale, offset }) =>
    simpleCase(
      'affine',
      { shape, scale, offset, dtype },
      bound,
      dtype,
      (inputs) => [inputs.normal(shape, dtype)],
      (x) => reference.affine(x!, scale, offset),
      (ops, put, [x]) =>
        ops.affine(put(x!, dtype), {
          ...(scale === undefined ? {} : { scale }),
          ...(offset === undefined ? {} : { offset }),
        }),
    ),
  )
  return [...rows, ...affine]
}

function gatedCases(dtype: ComputeDType, dtypes: readonly ComputeDType[]): ConformanceCase[] {
  const shapes = [
    [1, 1],
    [2, 13],
    [2, 3, 17],
    [3, 2, 5, 33],
    [1, 65, 320],
  ]
  return shapes.flatMap((shape) => {
    const B = shape[0]!
    const C = shape.at(-1)!
    const gate = (inputs: Inputs) => inputs.normal([B, C])
    return [
      // The residual stream is f32; the branch that is added may be f16.
      simpleCase(
        'gatedAdd',
        { shape, gate: true, y: dtype },
        bounds.f32,
        'f32',
        (i) => [i.normal(shape), i.normal(shape, dtype), gate(i)],
        (x, y, g) => reference.gatedAdd(x!, y!, g),
        (ops, put, [x, y, g]) => ops.gatedAdd(put(x!), put(y!, dtype), put(g!)),
      ),
      simpleCase(
        'gatedAdd',
        { shape, gate: false, y: dtype },
        bounds.f32,
        'f32',
        (i) => [i.normal(shape), i.normal(shape, dtype)],
        (x, y) => reference.gatedAdd(x!, y!),
        (ops, put, [x, y]) => ops.gatedAdd(put(x!), put(y!, dtype)),
      ),
      ...dtypes.map((to) =>
        simpleCase(
          'gatedAddGrad',
          { shape, gate: true, dx: dtype, to },
          to === 'f32' ? bounds.f32 : bounds.f16,
          to,
          (i) => [i.normal(shape, dtype), gate(i)],
          (dx, g) => reference.gatedAddGrad(dx!, g),
          (ops, put, [dx, g]) => ops.gatedAddGrad(put(dx!, dtype), put(g!), to),
        ),
      ),
      simpleCase(
        'gatedAddGrad',
        { shape, gate: false, dx: 'f32', to: dtype },
        dtype === 'f32' ? bounds.f32 : bounds.f16,
        dtype,
        (i) => [i.normal(shape)],
        (dx) => reference.gatedAddGrad(dx!),
        (ops, put, [dx]) => ops.gatedAddGrad(put(dx!), undefined, dtype),
      ),
    ]
  })
}

function ropeCases(dtype: ComputeDType): ConformanceCase[] {
  const shapes = [
    [1, 1, 1, 2],
    [1, 3, 1, 16],
    [2, 13, 3, 64],
    [1, 65, 2, 128],
  ]
  return shapes.flatMap((shape) =>
    [false, true].map((inverse) => {
      const [, N, , D] = shape as [number, number, number, number]
      return simpleCase(
        'rope',
        { shape, inverse, dtype },
        dtype === 'f32' ? bounds.f32 : bounds.f16,
        dtype,
        (inputs) => {
          const angles = inputs.normal([N, D / 2], 'f32', 3)
          const table = (f: (x: number) => number) =>
            refArray(angles.shape, rounded(angles.data.map(f), 'f32'))
          return [inputs.normal(shape, dtype), table(Math.cos), table(Math.sin)]
        },
        (x, cos, sin) => reference.rope(x!, cos!, sin!, inverse),
        (ops, put, [x, cos, sin]) => ops.rope(put(x!, dtype), put(cos!), put(sin!), { inverse }),
      )
    }),
  )
}
