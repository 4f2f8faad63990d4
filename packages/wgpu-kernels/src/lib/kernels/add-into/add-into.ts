import type { Tensor } from '@kinora/kernel-api'

import { defineKernel } from '../../program/define-kernel.ts'
import { expectF32, expectSameShape } from '../../program/expect.ts'
import { runFlat } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import {
  elementwiseSchedules,
  type ElementwiseSchedule,
} from '../../tuning/elementwise-schedule.ts'
import { addIntoBindings, addIntoText } from './add-into.wgsl.ts'

/**
 * In place: sum += scale · source.
 *
 * - `source` f32, read · `sum` f32, read and written
 */
export const addIntoKernel = defineKernel<ElementwiseSchedule>({
  name: 'add-into',
  bindings: addIntoBindings,
  uniforms: { n: 'u32', scale: 'f32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: addIntoText,
  variants: () => Object.values(elementwiseSchedules),
})

/** `Ops.addInto`. */
export function addInto(run: Runner, target: Tensor, source: Tensor, scale = 1): void {
  expectF32('addInto', 'target', target)
  expectF32('addInto', 'source', source)
  expectSameShape('addInto', 'source', source, target)
  runFlat(
    run,
    addIntoKernel,
    {},
    {
      tensors: { source: run.own('addInto', source), sum: run.own('addInto', target) },
      uniforms: { scale },
    },
  )
}
