import type { AdamWOptions, AdamWSlot } from '@kinora/kernel-api'

import { defineKernel } from '../../program/define-kernel.ts'
import { expectF32, expectSameShape } from '../../program/expect.ts'
import { runFlat } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import {
  elementwiseSchedules,
  type ElementwiseSchedule,
} from '../../tuning/elementwise-schedule.ts'
import { adamwBindings, adamwText } from './adamw.wgsl.ts'

/** What an update is made with, as kernels take it. */
export const adamwUniforms = {
  grad_scale: 'f32',
  beta1: 'f32',
  beta2: 'f32',
  // 1 − β1 and 1 − β2.
  rest1: 'f32',
  rest2: 'f32',
  // 1 − learning rate · weight decay.
  decay: 'f32',
  // learning rate / (1 − β1^t), and 1 / √(1 − β2^t).
  step_size: 'f32',
  root_correction: 'f32',
  eps: 'f32',
} as const

/**
 * Values of `adamwUniforms`. What depends on the step alone is computed on the host in f64: 1 − β^t would lose half its digits in
 * f32 at the first steps.
 */
export function adamwUniformValues({
  learningRate,
  beta1,
  beta2,
  eps,
  weightDecay,
  step,
  gradScale,
}: AdamWOptions): Record<keyof typeof adamwUniforms, number> {
  return {
    grad_scale: gradScale,
    beta1,
    beta2,
    rest1: 1 - beta1,
    rest2: 1 - beta2,
    decay: 1 - learningRate * weightDecay,
    step_size: learningRate / (1 - beta1 ** step),
    root_correction: 1 / Math.sqrt(1 - beta2 ** step),
    eps,
  }
}

/**
 * One AdamW update in place (Loshchilov and Hutter 2019).
 *
 * - `grad` f32, read · `param`, `m`, `v` f32, read and written
 */
export const adamwKernel = defineKernel<ElementwiseSchedule>({
  name: 'adamw',
  bindings: adamwBindings,
  uniforms: { n: 'u32', ...adamwUniforms },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: adamwText,
  variants: () => Object.values(elementwiseSchedules),
})

/** `Ops.adamw`. */
export function adamw(run: Runner, slots: readonly AdamWSlot[], options: AdamWOptions): void {
  const uniforms = adamwUniformValues(options)
  for (const slot of slots) {
    const { param, grad, m, v } = slot
    for (const [name, tensor] of Object.entries({ param, grad, m, v })) {
      expectF32('adamw', name, tensor)
      expectSameShape('adamw', name, tensor, param)
    }
    runFlat(
      run,
      adamwKernel,
      {},
      {
        tensors: {
          grad: run.own('adamw', grad),
          param: run.own('adamw', param),
          m: run.own('adamw', m),
          v: run.own('adamw', v),
        },
        uniforms,
      },
    )
  }
}
