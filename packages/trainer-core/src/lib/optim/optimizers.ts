import type { TrainSettings } from '@kinora/config-schema'
import type { Device, Tensor } from '@kinora/kernel-api'
import { adafactor } from './adafactor.ts'
import { adamw } from './adamw.ts'
import { adamw8bit } from './adamw8bit.ts'
import { lion } from './lion.ts'
import type { Optimizer, OptimizerFactory, OptimizerSettings } from './optimizer.ts'
import { prodigy } from './prodigy.ts'
import { scheduleFreeAdamw } from './schedule-free-adamw.ts'

/** Every optimiser by the name it has in a job. */
export const optimizersByName: Record<TrainSettings['optimizer'], OptimizerFactory> = {
  adamw,
  adamw8bit,
  adafactor,
  prodigy,
  lion,
  schedule_free_adamw: scheduleFreeAdamw,
}

/** A job's `optimizer_params` in our spelling, with the defaults of the optimisers' authors. */
export function optimizerSettings(params: TrainSettings['optimizer_params']): OptimizerSettings {
  const [beta1, beta2] = params.betas
  return {
    beta1,
    beta2,
    eps: params.eps,
    weightDecay: params.weight_decay,
    dCoef: params.d_coef ?? 1,
    clipThreshold: params.clip_threshold ?? 1,
    decayRate: params.decay_rate ?? -0.8,
    warmupSteps: params.warmup_steps ?? 0,
    min8bitSize: params.min_8bit_size ?? 4096,
  }
}

/** What must be the same for one optimiser's state to be another's. */
export function optimizerIdentity({ optimizer, optimizer_params }: TrainSettings): string {
  return optimizer === 'adamw8bit'
    ? `adamw8bit, 8 bits from ${optimizerSettings(optimizer_params).min8bitSize} elements on`
    : optimizer
}

/** Makes the optimiser of a job. */
export function createOptimizer(
  name: TrainSettings['optimizer'],
  device: Device,
  params: readonly Tensor[],
  settings: TrainSettings['optimizer_params'],
): Optimizer {
  return optimizersByName[name](device, params, optimizerSettings(settings))
}
