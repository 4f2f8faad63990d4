import type { TrainSettings } from '@kinora/config-schema'
import type { Device, Tensor } from '@kinora/kernel-api'
import { adafactor } from './adafactor.ts'
import { adamw } from './adamw.ts'
import { lion } from './lion.ts'
import type { Optimizer, OptimizerFactory, OptimizerSettings } from './optimizer.ts'
import { prodigy } from './prodigy.ts'
import { scheduleFreeAdamw } from './schedule-free-adamw.ts'

/** Every optimiser by the name it has in a job. */
export const optimizersByName: Record<TrainSettings['optimizer'], OptimizerFactory> = {
  adamw,
  // The same rule; block-wise 8-bit states would save memory only.
  adamw8bit: adamw,
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
  }
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
