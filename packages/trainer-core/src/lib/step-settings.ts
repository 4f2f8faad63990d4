import type { TrainProcess } from '@kinora/config-schema'
import type { Device } from '@kinora/kernel-api'
import { trainerErrors } from './errors.ts'
import { experts, streamOf, type RandomStreams } from './noise/random-streams.ts'
import { learningRateFactor } from './optim/learning-rate.ts'
import type { StepOptions } from './train-step.ts'
import type { TrainedExpert } from './trained-expert.ts'
import type { TurnOptions } from './turns.ts'

// From the job's words to the numbers of a step.

/** What the networks compute in. */
export function computeDtype({ kinora, train }: TrainProcess, device: Device): 'f32' | 'f16' {
  const { computeDTypes, adapter } = device.info
  if (kinora.compute === 'f16' && !computeDTypes.includes('f16')) {
    throw trainerErrors.NO_F16(adapter)
  }
  if (kinora.compute !== 'auto') return kinora.compute
  return train.dtype !== 'fp32' && computeDTypes.includes('f16') ? 'f16' : 'f32'
}

/** Options of a step at a learning rate. */
export function stepOptions(
  { train, kinora }: TrainProcess,
  learningRate: number,
  dropout: StepOptions['dropout'],
  recompute: StepOptions['recompute'],
): StepOptions {
  return {
    lossKind: train.loss_type === 'pseudo_huber' ? 'pseudo-huber' : train.loss_type,
    learningRate,
    // Adafactor clips each update by itself.
    maxGradNorm: train.optimizer === 'adafactor' ? 0 : train.max_grad_norm,
    accumulation: kinora.accumulation,
    checkpoint: train.gradient_checkpointing,
    recompute,
    preservationMultiplier: train.diff_output_preservation
      ? train.diff_output_preservation_multiplier
      : train.blank_prompt_preservation_multiplier,
    priorDivergence: train.do_prior_divergence,
    insideMaskOnly: train.inverted_mask_prior ? train.inverted_mask_prior_multiplier : undefined,
    guidanceZero: train.do_guidance_loss_cfg_zero,
    // A target moved away from the prediction by a factor s: the gradient of the squared error is s times the ordinary one.
    gradientFactor:
      (kinora.differential_guidance || train.do_guidance_loss) &&
      train.do_differential_guidance &&
      train.loss_type === 'mse'
        ? train.differential_guidance_scale
        : 1,
    maxLoss: train.max_loss,
    dropout,
  }
}

/**
 * What of a network is left out of the micro-batches of a step; undefined where nothing is. `network.dropout` takes elements between
 * the two factors, `rank_dropout` whole ranks and `module_dropout` whole modules of a micro-batch, as in kohya's modules, which AI
 * Toolkit has. The first two make up for what they take.
 */
export function createDropout(
  { network, train }: TrainProcess,
  random: RandomStreams,
  { expert, lora }: Pick<TrainedExpert, 'expert' | 'lora'>,
  expertStep: number,
): StepOptions['dropout'] {
  const elements = network.dropout ?? 0
  const ranks = network.network_kwargs.rank_dropout ?? 0
  const modules = network.network_kwargs.module_dropout ?? 0
  if (elements === 0 && ranks === 0 && modules === 0) return undefined
  const { rank } = lora.options
  return (microBatch) => {
    const first = (expertStep * train.gradient_accumulation + microBatch) * lora.targets.length
    return {
      module: (module) => {
        const index = first + module
        if (modules > 0 && random.uniforms('moduleDropout', expert, index, 1)[0]! < modules) {
          return false
        }
        if (elements === 0) return {}
        const stream = streamOf('loraDropout', expert, index)
        return { elements: { probability: elements, seed: random.seed, stream } }
      },
      ranks:
        ranks === 0
          ? undefined
          : (module) =>
              Float32Array.from(random.uniforms('rankDropout', expert, first + module, rank), (u) =>
                u < ranks ? 0 : 1 / (1 - ranks),
              ),
    }
  }
}

/** Schedules run over the expert's own steps, so that experts trained apart see what experts trained by turns see. */
export function learningRateAt(
  expertStep: number,
  expertSteps: number,
  { train }: TrainProcess,
): number {
  const { lr_scheduler, lr_scheduler_params: params } = train
  // Prodigy finds its own rate and takes a factor near 1; a rate for Adam would stop it, and is read as 1, as AI Toolkit does.
  const lr = train.optimizer === 'prodigy' && train.lr < 0.1 ? 1 : train.lr
  const share = expertSteps / train.steps
  return (
    lr *
    learningRateFactor(expertStep, {
      schedule: lr_scheduler,
      numSteps: (params.max_iterations ?? train.steps) * share,
      warmupSteps:
        params.num_warmup_steps === undefined ? undefined : params.num_warmup_steps * share,
      leastFactor: params.eta_min === undefined ? undefined : params.eta_min / lr,
      startFactor: params.start_factor,
      endFactor: params.end_factor,
    })
  )
}

/** How the experts take turns. `switch_boundary_every` counts micro-batches; a step's micro-batches are all of one expert. */
export function turnOptions({ train, model, kinora }: TrainProcess): TurnOptions {
  return {
    trained: experts.filter((expert) => model.model_kwargs[`train_${expert}_noise`]),
    switchEvery: Math.max(1, Math.round(train.switch_boundary_every / train.gradient_accumulation)),
    highShare: kinora.high_noise_share,
  }
}
