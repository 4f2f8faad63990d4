import { defineKernel } from '../../program/define-kernel.ts'
import { computable, produce, scalarOf } from '../../program/compute-dtype.ts'
import { runFlat, withSchedules } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import { expectFloat, expectSameShape } from '../../program/expect.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { elementwiseSchedules } from '../../tuning/elementwise-schedule.ts'
import { dropoutKey, type DropoutOptions, type Tensor } from '@kinora/kernel-api'
import {
  pointwiseBindings,
  pointwiseText,
  type PointwiseFunction,
  type PointwiseVariant,
} from './pointwise.wgsl.ts'

const floats = ['f32', 'f16'] as const

/**
 * y = f(x), element by element, in f32 whatever the dtype: gelu (tanh form), its gradient, silu, rsqrt,
 * dropout, affine.
 *
 * - `x` dtype, read · `dy` dtype, read (gradients) · `y` dtype, written
 */
export const pointwise = defineKernel<PointwiseVariant>({
  name: 'pointwise',
  bindings: pointwiseBindings,
  uniforms: {
    n: 'u32',
    start: 'u32',
    scale: 'f32',
    offset: 'f32',
    // Of dropout: elements whose hash is below the threshold go.
    key: 'u32',
    threshold: 'u32',
  },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: pointwiseText,
  variants: () =>
    withSchedules(elementwiseSchedules, [
      ...(['gelu', 'silu', 'rsqrt', 'dropout', 'affine'] as const).flatMap((fn) =>
        floats.map((x) => ({ fn, x, dy: 'none' as const })),
      ),
      ...floats.flatMap((x) => floats.map((dy) => ({ fn: 'gelu-grad' as const, x, dy }))),
    ]),
})

/** `Ops.gelu`, `Ops.silu`, `Ops.rsqrt`, `Ops.affine`, and what `dropout` comes to. */
export function applyPointwise(
  run: Runner,
  fn: Exclude<PointwiseFunction, 'gelu-grad'>,
  input: Tensor,
  {
    scale = 1,
    offset = 0,
    key = 0,
    threshold = 0,
  }: { scale?: number; offset?: number; key?: number; threshold?: number } = {},
): WgpuTensor {
  expectFloat(fn, 'x', input)
  const x = computable(run, fn, input)
  return produce(run, input.shape, input.dtype, (y) =>
    runFlat(
      run,
      pointwise,
      { fn, x: scalarOf(x) as 'f32', dy: 'none' },
      {
        tensors: { x, y },
        uniforms: { scale, offset, key, threshold },
      },
    ),
  )
}

/** `Ops.dropout`. */
export function dropout(
  run: Runner,
  x: Tensor,
  { probability, seed, stream }: DropoutOptions,
): WgpuTensor {
  return applyPointwise(run, 'dropout', x, {
    scale: 1 / (1 - probability),
    key: dropoutKey(seed, stream),
    threshold: Math.ceil(probability * 2 ** 32),
  })
}

/** `Ops.geluGrad`. */
export function geluGrad(run: Runner, gradient: Tensor, input: Tensor): WgpuTensor {
  expectFloat('geluGrad', 'x', input)
  expectFloat('geluGrad', 'dy', gradient)
  expectSameShape('geluGrad', 'dy', gradient, input)
  const x = computable(run, 'geluGrad', input)
  const dy = computable(run, 'geluGrad', gradient)
  return produce(run, input.shape, gradient.dtype, (y) =>
    runFlat(
      run,
      pointwise,
      { fn: 'gelu-grad', x: scalarOf(x) as 'f32', dy: scalarOf(dy) as 'f32' },
      { tensors: { x, dy, y }, uniforms: { scale: 0, offset: 0, key: 0, threshold: 0 } },
    ),
  )
}
