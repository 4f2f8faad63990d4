import { bytesPerElement, type Tensor } from '@kinora/kernel-api'

import { computable, scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { expectFloat } from '../../program/expect.ts'
import { withSchedules } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { partialSchedule, partialSchedules } from '../../tuning/partial-schedule.ts'
import { rowSum } from '../row-sum/row-sum.ts'
import { sumSquaresBindings, sumSquaresText, type SumSquaresVariant } from './sum-squares.wgsl.ts'

/**
 * First pass of a sum of squares: one partial sum an invocation. Inf and NaN come through.
 *
 * - `x` […] dtype, read · `partial` f32, written
 */
export const sumSquaresKernel = defineKernel<SumSquaresVariant>({
  name: 'sum-squares',
  bindings: sumSquaresBindings,
  // n counts vectors.
  uniforms: { n: 'u32', elements: 'u32', invocations: 'u32', partial_first: 'u32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: sumSquaresText,
  variants: () =>
    withSchedules(
      partialSchedules,
      (['f32', 'f16'] as const).map((x) => ({ x })),
    ),
})

/** `Ops.sumSquares`. */
export function sumSquares(run: Runner, tensors: readonly Tensor[]): WgpuTensor {
  const schedule = partialSchedule(run.profile)
  const parts = tensors
    .map((tensor) => {
      expectFloat('sumSquares', 'tensor', tensor)
      return computable(run, 'sumSquares', tensor)
    })
    .filter((tensor) => tensor.numElements > 0)
    .flatMap((tensor) => {
      const bytes = 4 * bytesPerElement[tensor.dtype]
      return run
        .windows('sumSquares', Math.ceil(tensor.numElements / 4), { tensor: bytes })
        .map(({ start, end }) => ({
          x: run.rows(tensor, { start, end }, bytes),
          scalar: scalarOf(tensor) as 'f32',
          n: end - start,
          elements: Math.min(4 * (end - start), tensor.numElements - 4 * start),
          invocations: Math.ceil((end - start) / schedule.perInvocation),
        }))
    })
  const total = parts.reduce((sum, { invocations }) => sum + invocations, 0)
  if (total === 0) {
    const zero = run.alloc([1], 'f32')
    run.clear(zero)
    return zero
  }
  const partial = run.alloc([1, total], 'f32')
  let first = 0
  for (const { x, scalar, n, elements, invocations } of parts) {
    run.run(
      sumSquaresKernel,
      { x: scalar, ...schedule },
      { x, partial },
      { n, elements, invocations, partial_first: first },
      Math.ceil(invocations / schedule.workgroupSize),
    )
    first += invocations
  }
  return rowSum(run, partial, 1)
}
