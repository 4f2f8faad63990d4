// Axes: R rows (all leading axes), B batch, C channels.
import {
  bytesPerElement,
  numElements,
  type DType,
  type LayerNormOptions,
  type NormOptions,
  type Tensor,
} from '@kinora/kernel-api'

import { wgpuErrors } from '../../errors.ts'
import { computable, produce, scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { expectFloat, expectSameShape, expectShape, lastDim } from '../../program/expect.ts'
import { withSchedules } from '../../program/flat-run.ts'
import type { Bound, Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { rowSchedule, rowSchedules } from '../../tuning/row-schedule.ts'
import { widthOf } from '../../wgsl/float-vector.ts'
import { castInto } from '../cast/cast.ts'
import { normBindings, normText, type Affine, type NormVariant } from './norm.wgsl.ts'

const floats = ['f32', 'f16'] as const

/**
 * Layer norm and root-mean-square norm over the last axis, and their gradients by x:
 * y = (x − mean) / √(var + eps) · weight + bias; for rms the mean is 0 and the variance the mean square.
 *
 * - `x` [R, C] dtype, read · `dy` [R, C] dtype, read (backward) · `weight`, `bias` [C] or [B, C] f32, read
 * - `y` [R, C] dtype, written: the norm, or dx
 *
 * Sums in f32 whatever the dtype, in an order that depends on C and the schedule only.
 */
export const norm = defineKernel<NormVariant>({
  name: 'norm',
  bindings: normBindings,
  // C counts vectors.
  uniforms: { R: 'u32', C: 'u32', first_row: 'u32', rows_per_batch: 'u32', eps: 'f32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: normText,
  variants: () =>
    withSchedules(
      rowSchedules,
      floats.flatMap((x) =>
        floats.flatMap((y) =>
          ([1, 4] as const).flatMap((width) => {
            const base = { x, y, dy: x, width }
            const forward = { ...base, pass: 'forward' as const }
            const backward = { ...base, pass: 'backward' as const, bias: 'none' as const }
            return [
              {
                ...forward,
                kind: 'rms' as const,
                weight: 'shared' as const,
                bias: 'none' as const,
              },
              {
                ...forward,
                kind: 'layer' as const,
                weight: 'none' as const,
                bias: 'none' as const,
              },
              {
                ...forward,
                kind: 'layer' as const,
                weight: 'shared' as const,
                bias: 'shared' as const,
              },
              {
                ...forward,
                kind: 'layer' as const,
                weight: 'batch' as const,
                bias: 'batch' as const,
              },
              { ...backward, kind: 'rms' as const, weight: 'shared' as const },
              { ...backward, kind: 'layer' as const, weight: 'none' as const },
              { ...backward, kind: 'layer' as const, weight: 'batch' as const },
              { ...backward, kind: 'layer' as const, weight: 'batch' as const, dy: 'f16' as const },
            ]
          }),
        ),
      ),
    ),
})

interface NormCall {
  readonly op: string
  readonly kind: 'layer' | 'rms'
  readonly x: Tensor
  /** Given: computes dx. */
  readonly dy?: Tensor
  readonly weight: Tensor | undefined
  readonly bias: Tensor | undefined
  readonly eps: number
  readonly dtype: DType
}

/** How a weight or bias repeats, from its shape. */
function affineOf(op: string, name: string, tensor: Tensor | undefined, x: Tensor): Affine {
  if (!tensor) return 'none'
  expectFloat(op, name, tensor)
  const C = lastDim(x)
  if (tensor.shape.length === 1) {
    expectShape(op, name, tensor, [C])
    return 'shared'
  }
  expectShape(op, name, tensor, [x.shape[0]!, C])
  return 'batch'
}

/** Weights are small: one f32 copy saves a variant for each dtype. */
function asF32(run: Runner, op: string, tensor: Tensor): WgpuTensor {
  const own = run.own(op, tensor)
  if (own.dtype === 'f32') return own
  const wide = run.alloc(own.shape, 'f32')
  castInto(run, own, wide)
  return wide
}

function runNorm(run: Runner, call: NormCall): WgpuTensor {
  const { op, kind } = call
  expectFloat(op, 'x', call.x)
  if (call.x.shape.length === 0) throw wgpuErrors.BAD_SHAPE(op, 'x has no axis to normalise over.')
  const C = lastDim(call.x)
  const R = numElements(call.x.shape) / C
  const affine = {
    weight: affineOf(op, 'weight', call.weight, call.x),
    bias: affineOf(op, 'bias', call.bias, call.x),
  }
  const width = widthOf(C)
  const x = computable(run, op, call.x)
  const dy = call.dy && computable(run, op, call.dy)
  const parameters: Record<string, Bound> = {}
  if (call.weight) parameters['weight'] = asF32(run, op, call.weight)
  if (call.bias) parameters['bias'] = asF32(run, op, call.bias)
  return produce(run, call.x.shape, call.dtype, (y) => {
    const schedule = rowSchedule(run.profile, C / width)
    const walked = { x, y, ...(dy ? { dy } : {}) }
    const bytes = Object.fromEntries(
      Object.entries(walked).map(([name, { dtype }]) => [name, C * bytesPerElement[dtype]]),
    )
    for (const window of run.windows(op, R, bytes)) {
      const bindings: Record<string, Bound> = { ...parameters }
      for (const [name, tensor] of Object.entries(walked)) {
        bindings[name] = run.rows(tensor, window, bytes[name]!)
      }
      const rows = window.end - window.start
      run.run(
        norm,
        {
          kind,
          pass: dy ? 'backward' : 'forward',
          x: scalarOf(x) as 'f32',
          dy: scalarOf(dy ?? x) as 'f32',
          y: scalarOf(y) as 'f32',
          ...affine,
          width,
          ...schedule,
        },
        bindings,
        {
          R: rows,
          C: C / width,
          first_row: window.start,
          rows_per_batch: Math.max(1, R / call.x.shape[0]!),
          eps: call.eps,
        },
        Math.ceil(rows / (schedule.workgroupSize / schedule.lanes)),
      )
    }
  })
}

/** `Ops.layerNorm`. */
export function layerNorm(run: Runner, x: Tensor, options: LayerNormOptions): WgpuTensor {
  const { weight, bias, eps, dtype = x.dtype } = options
  return runNorm(run, { op: 'layerNorm', kind: 'layer', x, weight, bias, eps, dtype })
}

/** `Ops.layerNormGrad`. */
export function layerNormGrad(
  run: Runner,
  dy: Tensor,
  x: Tensor,
  { weight, eps, dtype = x.dtype }: LayerNormOptions,
): WgpuTensor {
  expectFloat('layerNormGrad', 'dy', dy)
  expectSameShape('layerNormGrad', 'dy', dy, x)
  return runNorm(run, {
    op: 'layerNormGrad',
    kind: 'layer',
    x,
    dy,
    weight,
    bias: undefined,
    eps,
    dtype,
  })
}

/** `Ops.rmsNorm`. */
export function rmsNorm(run: Runner, x: Tensor, weight: Tensor, options: NormOptions): WgpuTensor {
  expectShape('rmsNorm', 'weight', weight, [lastDim(x)])
  const { eps, dtype = x.dtype } = options
  return runNorm(run, { op: 'rmsNorm', kind: 'rms', x, weight, bias: undefined, eps, dtype })
}

/** `Ops.rmsNormGrad`. */
export function rmsNormGrad(
  run: Runner,
  dy: Tensor,
  x: Tensor,
  weight: Tensor,
  { eps, dtype = x.dtype }: NormOptions,
): WgpuTensor {
  expectShape('rmsNormGrad', 'weight', weight, [lastDim(x)])
  expectSameShape('rmsNormGrad', 'dy', dy, x)
  return runNorm(run, {
    op: 'rmsNormGrad',
    kind: 'rms',
    x,
    dy,
    weight,
    bias: undefined,
    eps,
    dtype,
  })
}
