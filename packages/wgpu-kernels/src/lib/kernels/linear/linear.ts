// Axes: R rows (all leading axes), K in features, O out features, r rank.
import {
  isPackedWeight,
  numElements,
  type Adapter,
  type LinearGradOptions,
  type LinearGrads,
  type LinearOptions,
  type Tensor,
  type Weight,
} from '@kinora/kernel-api'

import { wgpuErrors } from '../../errors.ts'
import { computable, produce } from '../../program/compute-dtype.ts'
import { expectF32, expectFloat, expectRank, expectShape, lastDim } from '../../program/expect.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { dequantize } from '../dequantize/dequantize.ts'
import type { LazyWeight } from '../matmul/blocked-weight.ts'
import { matmul, type SideBranch } from '../matmul/matmul.ts'
import { applyPointwise } from '../pointwise/pointwise.ts'
import { FEWEST_MATRIX_ROWS } from '../../tuning/matmul-schedule.ts'
import { concat } from '../strided-copy/strided-copy.ts'

/** The dense matrix of a weight, as kernels can read it beside an operand `like`. */
function denseWeight(
  run: Runner,
  op: string,
  weight: Weight,
  like: WgpuTensor,
): WgpuTensor | LazyWeight {
  if (isPackedWeight(weight)) {
    // A processor computes in f32 anyway, and a few rows do so on any adapter; narrowing first would only cost digits.
    const isFew = like.numElements / like.shape.at(-1)! < FEWEST_MATRIX_ROWS
    const isWide = run.profile.adapterClass === 'software' || like.dtype === 'f32' || isFew
    const dtype = isWide ? 'f32' : 'f16'
    return { dtype, make: (blocked) => dequantize(run, op, weight, dtype, blocked) }
  }
  expectFloat(op, 'weight', weight)
  expectRank(op, 'weight', weight, 2)
  return computable(run, op, weight)
}

function expectAdapter(op: string, { a, b }: Adapter, K: number, O: number): void {
  expectF32(op, 'adapter a', a)
  expectF32(op, 'adapter b', b)
  expectRank(op, 'adapter a', a, 2)
  expectShape(op, 'adapter a', a, [a.shape[0]!, K])
  expectShape(op, 'adapter b', b, [O, a.shape[0]!])
}

/** Several adapters as one of the summed rank, their scales folded into b; one adapter as itself. */
function joinAdapters(run: Runner, op: string, adapters: readonly Adapter[]): Adapter | undefined {
  if (adapters.length < 2) return adapters[0]
  return {
    a: concat(
      run,
      adapters.map(({ a }) => run.own(op, a)),
      0,
    ),
    b: concat(
      run,
      adapters.map(({ b, scale }) => applyPointwise(run, 'affine', b, { scale })),
      1,
    ),
    scale: 1,
  }
}

/** `Ops.linear`: the adapter's down projection is a product of its own, its up projection rides in the main one. */
export function linear(
  run: Runner,
  input: Tensor,
  weight: Weight,
  { bias, adapters = [], dtype = input.dtype }: LinearOptions = {},
): WgpuTensor {
  expectFloat('linear', 'x', input)
  const [O, K] = weight.shape as readonly [number, number]
  if (lastDim(input) !== K) {
    throw wgpuErrors.BAD_SHAPE(
      'linear',
      `x [${input.shape.join(', ')}] does not end in the weight's ${K} in features.`,
    )
  }
  const R = numElements(input.shape) / K
  if (bias) expectShape('linear', 'bias', bias, [O])
  for (const adapter of adapters) expectAdapter('linear', adapter, K, O)
  const x = computable(run, 'linear', input)
  const w = denseWeight(run, 'linear', weight, x)
  const joined = joinAdapters(run, 'linear', adapters)
  const side = joined && sideOf(run, x, joined, R, K)
  return produce(run, [...input.shape.slice(0, -1), O], dtype, (y) =>
    matmul(run, {
      op: 'linear',
      layout: 'nt',
      M: R,
      N: O,
      K,
      a: x,
      b: w,
      y,
      bias: bias && computable(run, 'linear', bias),
      side,
    }),
  )
}

/** u = x aᵀ, and the branch that adds scale · u bᵀ. */
function sideOf(run: Runner, x: WgpuTensor, adapter: Adapter, R: number, K: number): SideBranch {
  const rank = adapter.a.shape[0]!
  const u = run.alloc([R, rank], 'f32')
  const a = run.own('linear', adapter.a)
  matmul(run, { op: 'linear', layout: 'nt', M: R, N: rank, K, a: x, b: a, y: u })
  return { u, v: run.own('linear', adapter.b), scale: adapter.scale }
}

/** `Ops.linearGrad`. */
export function linearGrad(
  run: Runner,
  gradient: Tensor,
  input: Tensor,
  weight: Weight,
  { adapters = [], dtype = gradient.dtype, needsX }: LinearGradOptions,
): LinearGrads {
  const op = 'linearGrad'
  expectFloat(op, 'dy', gradient)
  expectFloat(op, 'x', input)
  const [O, K] = weight.shape as readonly [number, number]
  expectShape(op, 'dy', gradient, [...input.shape.slice(0, -1), O])
  expectShape(op, 'x', input, [...gradient.shape.slice(0, -1), K])
  const R = numElements(input.shape) / K
  for (const adapter of adapters) expectAdapter(op, adapter, K, O)
  const dy = computable(run, op, gradient)
  const x = computable(run, op, input)

  const sides: SideBranch[] = []
  const adapterGrads = adapters.map(({ a, b, scale }) => {
    const rank = a.shape[0]!
    const ownA = run.own(op, a)
    const ownB = run.own(op, b)
    // du = dy b, which both dx and da need.
    const du = run.alloc([R, rank], 'f32')
    matmul(run, { op, layout: 'nn', M: R, N: rank, K: O, a: dy, b: ownB, y: du })
    sides.push({ u: du, v: ownA, scale })
    const da = run.alloc([rank, K], 'f32')
    matmul(run, { op, layout: 'tn', M: rank, N: K, K: R, a: du, b: x, y: da, scale })
    const ux = run.alloc([R, rank], 'f32')
    matmul(run, { op, layout: 'nt', M: R, N: rank, K, a: x, b: ownA, y: ux })
    const db = run.alloc([O, rank], 'f32')
    matmul(run, { op, layout: 'tn', M: O, N: rank, K: R, a: dy, b: ux, y: db, scale })
    return { da, db }
  })
  if (!needsX) return { adapters: adapterGrads }
  const w = denseWeight(run, op, weight, dy)
  const dx = produce(run, input.shape, dtype, (y) =>
    matmul(run, {
      op,
      layout: 'nn',
      M: R,
      N: K,
      K: O,
      a: dy,
      b: w,
      y,
      side: joinSides(run, sides),
    }),
  )
  return { dx, adapters: adapterGrads }
}

/** The side branches of several adapters as one: columns of u beside each other, rows of v below each other. */
function joinSides(run: Runner, sides: readonly SideBranch[]): SideBranch | undefined {
  if (sides.length < 2) return sides[0]
  return {
    u: concat(
      run,
      sides.map(({ u, scale }) => applyPointwise(run, 'affine', u, { scale })),
      1,
    ),
    v: concat(
      run,
      sides.map(({ v }) => v),
      0,
    ),
    scale: 1,
  }
}
