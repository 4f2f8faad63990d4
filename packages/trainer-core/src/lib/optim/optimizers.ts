import type { TrainSettings } from '@kinora/config-schema'
import type { Device, Tensor } from '@kinora/kernel-api'
import { trainerErrors } from '../errors.ts'
import { adamw } from './adamw.ts'
import type { Optimizer, OptimizerFactory } from './optimizer.ts'

/** Every optimiser by the name it has in a job. */
export const optimizersByName: Partial<Record<TrainSettings['optimizer'], OptimizerFactory>> = {
  adamw,
  // The same rule; block-wise 8-bit states would save memory only.
  adamw8bit: adamw,
}

/** Makes the optimiser of a job. */
export function createOptimizer(
  name: TrainSettings['optimizer'],
  device: Device,
  params: readonly Tensor[],
  { betas, eps, weight_decay }: TrainSettings['optimizer_params'],
): Optimizer {
  const factory = optimizersByName[name]
  if (!factory) throw trainerErrors.NO_OPTIMIZER(name, Object.keys(optimizersByName).join(', '))
  const [beta1, beta2] = betas
  return factory(device, params, { beta1, beta2, eps, weightDecay: weight_decay })
}
