// Axes: B batch.
import { numElements, type LossKind, type LossOptions, type Tensor } from '@kinora/kernel-api'

import { wgpuErrors } from '../../errors.ts'
import { computable, scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { expectF32, expectFloat, expectRank, expectSameShape } from '../../program/expect.ts'
import { withSchedules } from '../../program/flat-run.ts'
import type { Bound, Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { elementwiseSchedule, elementwiseSchedules } from '../../tuning/elementwise-schedule.ts'
import { partialSchedule, partialSchedules } from '../../tuning/partial-schedule.ts'
import { widthOf } from '../../wgsl/float-vector.ts'
import { rowSum } from '../row-sum/row-sum.ts'
import {
  lossBindings,
  lossGradBindings,
  lossGradText,
  lossText,
  type LossGradVariant,
  type LossVariant,
} from './loss.wgsl.ts'

const floats = ['f32', 'f16'] as const
const operandVariants = (['mse', 'mae', 'pseudo-huber'] as const satisfies LossKind[]).flatMap(
  (kind) =>
    floats.flatMap((prediction) =>
      floats.flatMap((goal) =>
        [false, true].flatMap((mask) =>
          ([1, 4] as const).map((width) => ({ kind, prediction, goal, mask, width })),
        ),
      ),
    ),
)

/**
 * First pass of a loss: partial sums of a part of one batch item.
 *
 * - `prediction`, `goal` dtype, `mask` f32, read · `partial` f32, written
 */
export const lossKernel = defineKernel<LossVariant>({
  name: 'loss',
  bindings: lossBindings,
  // Counts and firsts are in vectors.
  uniforms: {
    n: 'u32',
    prediction_first: 'u32',
    goal_first: 'u32',
    mask_first: 'u32',
    invocations: 'u32',
    partial_first: 'u32',
  },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: lossText,
  variants: () => withSchedules(partialSchedules, operandVariants),
})

/**
 * Gradient of a loss by the prediction, for a part of one batch item: y = scale · loss'(d) · mask.
 *
 * - `prediction`, `goal` dtype, `mask` f32, read · `y` f32, written
 */
export const lossGradKernel = defineKernel<LossGradVariant>({
  name: 'loss-grad',
  bindings: lossGradBindings,
  uniforms: {
    n: 'u32',
    prediction_first: 'u32',
    goal_first: 'u32',
    mask_first: 'u32',
    y_first: 'u32',
    scale: 'f32',
  },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: lossGradText,
  variants: () => withSchedules(elementwiseSchedules, operandVariants),
})

/** The operands of a loss, checked. */
interface LossCall {
  readonly tensors: Readonly<Record<string, WgpuTensor>>
  readonly variant: {
    readonly kind: LossKind
    readonly prediction: 'f32' | 'f16'
    readonly goal: 'f32' | 'f16'
    readonly mask: boolean
    readonly width: 1 | 4
  }
  readonly items: number
  readonly perItem: number
}

function prepare(
  run: Runner,
  op: string,
  prediction: Tensor,
  target: Tensor,
  { kind, mask }: LossOptions,
): LossCall {
  expectRank(op, 'prediction', prediction, 1, true)
  expectFloat(op, 'prediction', prediction)
  expectFloat(op, 'target', target)
  expectSameShape(op, 'target', target, prediction)
  if (mask) {
    expectF32(op, 'mask', mask)
    expectSameShape(op, 'mask', mask, prediction)
  }
  const items = prediction.shape[0]!
  const perItem = numElements(prediction.shape.slice(1))
  const p = computable(run, op, prediction)
  const t = computable(run, op, target)
  return {
    tensors: { prediction: p, goal: t, ...(mask ? { mask: run.own(op, mask) } : {}) },
    variant: {
      kind,
      prediction: scalarOf(p) as 'f32',
      goal: scalarOf(t) as 'f32',
      mask: mask !== undefined,
      width: widthOf(perItem),
    },
    items,
    perItem,
  }
}

/** The parts of one item, each bindable: bindings, and uniforms that say where in them the part starts. */
function* itemParts(
  run: Runner,
  op: string,
  tensors: Readonly<Record<string, WgpuTensor>>,
  item: number,
  perItem: number,
  width: number,
): Generator<{ bindings: Record<string, Bound>; firsts: Record<string, number>; n: number }> {
  const { maxBindingBytes, storageAlignment } = run.profile.limits
  const longest = Math.floor((maxBindingBytes - storageAlignment) / 4 / 64) * 64
  if (longest <= 0) throw wgpuErrors.BINDING_TOO_LARGE(op, 'prediction', 256, maxBindingBytes)
  for (let at = 0; at < perItem; at += longest) {
    const count = Math.min(longest, perItem - at)
    const bindings: Record<string, Bound> = {}
    const firsts: Record<string, number> = {}
    for (const [name, tensor] of Object.entries(tensors)) {
      const span = run.span(op, tensor, item * perItem + at, count)
      bindings[name] = span.bound
      firsts[`${name}_first`] = span.first / width
    }
    yield { bindings, firsts: { mask_first: 0, ...firsts }, n: count / width }
  }
}

/** `Ops.loss`. */
export function loss(
  run: Runner,
  prediction: Tensor,
  target: Tensor,
  options: LossOptions,
): WgpuTensor {
  const { tensors, variant, items, perItem } = prepare(run, 'loss', prediction, target, options)
  const schedule = partialSchedule(run.profile)
  const parts = Array.from({ length: items }, (_, item) =>
    [...itemParts(run, 'loss', tensors, item, perItem, variant.width)].map((part) => ({
      ...part,
      invocations: Math.ceil(part.n / schedule.perInvocation),
    })),
  )
  const perRow = (parts[0] ?? []).reduce((sum, { invocations }) => sum + invocations, 0)
  const partial = run.alloc([items, perRow], 'f32')
  let first = 0
  for (const { bindings, firsts, n, invocations } of parts.flat()) {
    run.run(
      lossKernel,
      { ...variant, ...schedule },
      { ...bindings, partial },
      { n, ...firsts, invocations, partial_first: first },
      Math.ceil(invocations / schedule.workgroupSize),
    )
    first += invocations
  }
  return rowSum(run, partial, 1 / perItem)
}

/** `Ops.lossGrad`. */
export function lossGrad(
  run: Runner,
  prediction: Tensor,
  target: Tensor,
  options: LossOptions & { itemScale: readonly number[] },
): WgpuTensor {
  const call = prepare(run, 'lossGrad', prediction, target, options)
  const { tensors, variant, items, perItem } = call
  if (options.itemScale.length !== items) {
    throw wgpuErrors.BAD_SHAPE(
      'lossGrad',
      `${options.itemScale.length} item scales do not fit ${items} items.`,
    )
  }
  const y = run.alloc(prediction.shape, 'f32')
  const schedule = elementwiseSchedule(run.profile)
  for (let item = 0; item < items; item++) {
    for (const { bindings, firsts, n } of itemParts(
      run,
      'lossGrad',
      { ...tensors, y },
      item,
      perItem,
      variant.width,
    )) {
      run.run(
        lossGradKernel,
        { ...variant, ...schedule },
        bindings,
        { n, ...firsts, scale: options.itemScale[item]! / perItem },
        Math.ceil(n / (schedule.workgroupSize * schedule.perInvocation)),
      )
    }
  }
  return y
}
