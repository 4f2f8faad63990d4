// Axes: B batch, N tokens, H heads, D head channels.
import type { Tensor } from '@kinora/kernel-api'

import { wgpuErrors } from '../../errors.ts'
import { computable, produce, scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { expectF32, expectFloat, expectRank, expectShape } from '../../program/expect.ts'
import { runFlat, withSchedules } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { elementwiseSchedules } from '../../tuning/elementwise-schedule.ts'
import { ropeBindings, ropeText, type RopeVariant } from './rope.wgsl.ts'

/**
 * Rotates the pairs (2j, 2j+1) of each head by the token's angle; `direction` −1 turns back.
 *
 * - `x` [B, N, H, D] dtype, read · `cosine`, `sine` [N, D/2] f32, read · `y` as x, written
 */
export const ropeKernel = defineKernel<RopeVariant>({
  name: 'rope',
  bindings: ropeBindings,
  // H·D and D count vectors of `width` elements, which are also pairs of the tables.
  uniforms: { n: 'u32', start: 'u32', N: 'u32', H: 'u32', D: 'u32', direction: 'f32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: ropeText,
  variants: () =>
    withSchedules(
      elementwiseSchedules,
      (['f32', 'f16'] as const).flatMap((x) => ([2, 4] as const).map((width) => ({ x, width }))),
    ),
})

/** `Ops.rope`. */
export function rope(
  run: Runner,
  input: Tensor,
  cos: Tensor,
  sin: Tensor,
  { inverse = false }: { inverse?: boolean } = {},
): WgpuTensor {
  expectFloat('rope', 'x', input)
  expectRank('rope', 'x', input, 4)
  const [, N, H, D] = input.shape as [number, number, number, number]
  if (D % 2 !== 0) throw wgpuErrors.BAD_SHAPE('rope', `the head size ${D} is odd.`)
  for (const [name, table] of Object.entries({ cos, sin })) {
    expectF32('rope', name, table)
    expectShape('rope', name, table, [N, D / 2])
  }
  const x = computable(run, 'rope', input)
  const width = D % 4 === 0 ? 4 : 2
  return produce(run, input.shape, input.dtype, (y) =>
    runFlat(
      run,
      ropeKernel,
      { x: scalarOf(x) as 'f32', width },
      {
        tensors: { x, y },
        whole: { cosine: run.own('rope', cos), sine: run.own('rope', sin) },
        uniforms: { N, H, D: D / width, direction: inverse ? -1 : 1 },
        width,
      },
    ),
  )
}
