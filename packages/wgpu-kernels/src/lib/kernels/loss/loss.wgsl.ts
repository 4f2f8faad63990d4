import type { LossKind } from '@kinora/kernel-api'

import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import type { PartialSchedule } from '../../tuning/partial-schedule.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'
import { floatVector } from '../../wgsl/float-vector.ts'
import { partialSums } from '../../wgsl/partial-sums.ts'

interface LossOperands {
  readonly kind: LossKind
  readonly prediction: 'f32' | 'f16'
  readonly goal: 'f32' | 'f16'
  readonly mask: boolean
  readonly width: 1 | 4
}

export type LossVariant = LossOperands & PartialSchedule
export type LossGradVariant = LossOperands & ElementwiseSchedule

function operands({ prediction, goal, mask, width }: LossOperands): Record<string, BindingDecl> {
  return {
    prediction: reads(prediction, width),
    goal: reads(goal, width),
    ...(mask ? { mask: reads('f32', width) } : {}),
  }
}

export function lossBindings(variant: LossVariant): Record<string, BindingDecl> {
  return { ...operands(variant), partial: writes('f32') }
}

export function lossGradBindings(variant: LossGradVariant): Record<string, BindingDecl> {
  return { ...operands(variant), y: writes('f32', variant.width) }
}

/** Softening of the pseudo-Huber loss, squared. */
const HUBER = '0.0001'

const values: Record<LossKind, string> = {
  mse: 'd * d',
  mae: 'abs(d)',
  // √(d² + c²) − c without the cancellation of small d.
  'pseudo-huber': `d * d / (sqrt(d * d + ${HUBER}) + 0.01)`,
}

const slopes: Record<LossKind, string> = {
  mse: '2.0 * d',
  mae: 'sign(d)',
  'pseudo-huber': `d / sqrt(d * d + ${HUBER})`,
}

function difference(
  { width, mask }: LossOperands,
  of: Record<LossKind, string>,
  kind: LossKind,
): string {
  const V = floatVector(width)
  return `let d = ${V}(prediction[u.prediction_first + i]) - ${V}(goal[u.goal_first + i]);
    let value = ${of[kind]}${mask ? ' * mask[u.mask_first + i]' : ''};`
}

export function lossText(variant: LossVariant): KernelText {
  return { main: partialSums(variant, variant.width, difference(variant, values, variant.kind)) }
}

export function lossGradText(variant: LossGradVariant): KernelText {
  return {
    main: forEachVector(
      variant,
      `${difference(variant, slopes, variant.kind)}
    y[u.y_first + i] = u.scale * value;`,
    ),
  }
}
