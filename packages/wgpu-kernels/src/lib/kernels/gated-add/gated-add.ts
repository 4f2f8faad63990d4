// Axes: B batch, C channels.
import { numElements, type DType, type Tensor } from '@kinora/kernel-api'

import { computable, produce, scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import {
  expectF32,
  expectFloat,
  expectRank,
  expectSameShape,
  expectShape,
  lastDim,
} from '../../program/expect.ts'
import { runFlat, withSchedules } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { elementwiseSchedules } from '../../tuning/elementwise-schedule.ts'
import { widthOf } from '../../wgsl/float-vector.ts'
import { applyBinary } from '../binary/binary.ts'
import { castTo } from '../cast/cast.ts'
import { gatedAddBindings, gatedAddText, type GatedAddVariant } from './gated-add.wgsl.ts'

const floats = ['f32', 'f16'] as const
const widths = [1, 4] as const

/**
 * The residual stream: out = x + gate · y, and its gradient out = gate · dx.
 *
 * - `x` [B, …, C] f32 (backward: dtype), read · `y` [B, …, C] dtype, read · `gate` [B, C] f32, read
 * - `out` [B, …, C] f32 (backward: dtype), written
 */
export const gatedAddKernel = defineKernel<GatedAddVariant>({
  name: 'gated-add',
  bindings: gatedAddBindings,
  uniforms: { n: 'u32', start: 'u32', per_batch: 'u32', C: 'u32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: gatedAddText,
  variants: () =>
    withSchedules(
      elementwiseSchedules,
      widths.flatMap((width) => [
        ...floats.map((y) => ({ fn: 'forward' as const, x: 'f32' as const, y, width })),
        ...floats.flatMap((x) => floats.map((y) => ({ fn: 'backward' as const, x, y, width }))),
      ]),
    ),
})

function gateUniforms(x: Tensor, width: number): { per_batch: number; C: number } {
  return {
    per_batch: Math.max(1, numElements(x.shape.slice(1)) / width),
    C: lastDim(x) / width,
  }
}

function expectGate(op: string, gate: Tensor, x: Tensor): void {
  expectRank(op, 'x', x, 2, true)
  expectF32(op, 'gate', gate)
  expectShape(op, 'gate', gate, [x.shape[0]!, lastDim(x)])
}

/** `Ops.gatedAdd`. */
export function gatedAdd(run: Runner, x: Tensor, y: Tensor, gate?: Tensor): WgpuTensor {
  expectF32('gatedAdd', 'x', x)
  expectFloat('gatedAdd', 'y', y)
  expectSameShape('gatedAdd', 'y', y, x)
  if (!gate) return applyBinary(run, 'add', x, y)
  expectGate('gatedAdd', gate, x)
  const wide = computable(run, 'gatedAdd', y)
  const out = run.alloc(x.shape, 'f32')
  const width = widthOf(lastDim(x))
  runFlat(
    run,
    gatedAddKernel,
    { fn: 'forward', x: 'f32', y: scalarOf(wide) as 'f32', width },
    {
      tensors: { x: run.own('gatedAdd', x), y: wide, out },
      whole: { gate: run.own('gatedAdd', gate) },
      uniforms: gateUniforms(x, width),
      width,
    },
  )
  return out
}

/** `Ops.gatedAddGrad`. */
export function gatedAddGrad(
  run: Runner,
  gradient: Tensor,
  gate: Tensor | undefined,
  dtype: DType,
): WgpuTensor {
  expectFloat('gatedAddGrad', 'dx', gradient)
  if (!gate) return castTo(run, run.own('gatedAddGrad', gradient), dtype)
  expectGate('gatedAddGrad', gate, gradient)
  const dx = computable(run, 'gatedAddGrad', gradient)
  const width = widthOf(lastDim(gradient))
  return produce(run, gradient.shape, dtype, (out) =>
    runFlat(
      run,
      gatedAddKernel,
      { fn: 'backward', x: scalarOf(dx) as 'f32', y: scalarOf(out) as 'f32', width },
      {
        tensors: { x: dx, out },
        whole: { gate: run.own('gatedAddGrad', gate) },
        uniforms: gateUniforms(gradient, width),
        width,
      },
    ),
  )
}
