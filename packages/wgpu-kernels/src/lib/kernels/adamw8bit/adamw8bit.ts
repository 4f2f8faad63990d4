import {
  stateBlockSize,
  type AdamW8bitSlot,
  type AdamWOptions,
  type BlockState,
} from '@kinora/kernel-api'

import { wgpuErrors } from '../../errors.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { expectF32, expectSameShape, expectShape } from '../../program/expect.ts'
import type { Runner } from '../../program/runner.ts'
import { describeTensor, type WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { rowSchedule, rowSchedules, type RowSchedule } from '../../tuning/row-schedule.ts'
import { adamwUniforms, adamwUniformValues } from '../adamw/adamw.ts'
import { adamw8bitBindings, adamw8bitText } from './adamw8bit.wgsl.ts'

/**
 * One AdamW update in place with states of 8 bits (Dettmers et al. 2021): the lanes of a block move its states on, find the largest
 * of each, and store them as codes.
 *
 * - `grad` f32, read · `param` f32, `m_codes`, `v_codes` u32, `m_scales`, `v_scales` f32, read and written
 */
export const adamw8bitKernel = defineKernel<RowSchedule>({
  name: 'adamw8bit',
  bindings: adamw8bitBindings,
  uniforms: { elements: 'u32', ...adamwUniforms },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: adamw8bitText,
  variants: () => Object.values(rowSchedules),
})

/** `Ops.adamw8bit`. */
export function adamw8bit(
  run: Runner,
  slots: readonly AdamW8bitSlot[],
  options: AdamWOptions,
): void {
  const op = 'adamw8bit'
  const values = adamwUniformValues(options)
  const schedule = rowSchedule(run.profile, stateBlockSize / 4)
  for (const slot of slots) {
    expectF32(op, 'param', slot.param)
    expectF32(op, 'grad', slot.grad)
    expectSameShape(op, 'grad', slot.grad, slot.param)
    const param = run.own(op, slot.param)
    const grad = run.own(op, slot.grad)
    const m = ownState(run, 'm', slot.m, param)
    const v = ownState(run, 'v', slot.v, param)
    const blocks = Math.ceil(param.numElements / stateBlockSize)
    const bytes = { floats: 4 * stateBlockSize, codes: stateBlockSize, scales: 4 }
    for (const rows of run.windows(adamw8bitKernel.name, blocks, bytes)) {
      run.run(
        adamw8bitKernel,
        schedule,
        {
          grad: run.rows(grad, rows, bytes.floats),
          param: run.rows(param, rows, bytes.floats),
          m_codes: run.rows(m.codes, rows, bytes.codes),
          v_codes: run.rows(v.codes, rows, bytes.codes),
          m_scales: run.rows(m.scales, rows, bytes.scales),
          v_scales: run.rows(v.scales, rows, bytes.scales),
        },
        {
          ...values,
          elements:
            Math.min(rows.end * stateBlockSize, param.numElements) - rows.start * stateBlockSize,
        },
        Math.ceil((rows.end - rows.start) / (schedule.workgroupSize / schedule.lanes)),
      )
    }
  }
}

function ownState(
  run: Runner,
  name: string,
  { codes, scales }: BlockState,
  { numElements }: WgpuTensor,
): { codes: WgpuTensor; scales: WgpuTensor } {
  const op = 'adamw8bit'
  if (codes.dtype !== 'u32') {
    throw wgpuErrors.BAD_DTYPE(op, `${name} codes ${describeTensor(codes)} must be u32.`)
  }
  expectShape(op, `${name} codes`, codes, [Math.ceil(numElements / 4)])
  expectF32(op, `${name} scales`, scales)
  expectShape(op, `${name} scales`, scales, [Math.ceil(numElements / stateBlockSize)])
  return { codes: run.own(op, codes), scales: run.own(op, scales) }
}
