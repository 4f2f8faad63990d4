import { createTransformer, transformerTensors, type TransformerConfig } from '@kinora/wan'
import type { Sample } from '../data/dataset.ts'
import { uploadFactors } from '../lora-adapters.ts'
import { LossScale } from '../loss/loss-scale.ts'
import type { MicroBatch } from '../noise/prepare-micro-batch.ts'
import { adamw } from '../optim/adamw.ts'
import { optimizerSettings } from '../optim/optimizers.ts'
import { trainStep } from '../train-step.ts'
import { createCountingDevice } from './counting-device.ts'

export interface MemoryPlanOptions {
  transformer: TransformerConfig
  compute: 'f32' | 'f16'
  rank: number
  batchSize: number
  /** Of the latents: frames, rows, columns. */
  latentSize: readonly [number, number, number]
  textLength: number
  /** Recompute each block on the way back. */
  checkpoint: boolean
  /** Experts whose base weights are on the device at once: 1 with low memory. */
  residentExperts: 1 | 2
  /** Experts with a LoRA. */
  trainedExperts: 1 | 2
  /** Whether the job has a preservation loss. */
  preservation?: boolean | undefined
}

/** Bytes that training takes on a device; scratch memory inside kernels and the pool's rounding come on top. */
export interface MemoryPlan {
  /** Frozen weights of the resident experts. */
  weightsBytes: number
  /** LoRA and optimiser of the trained experts. */
  loraBytes: number
  /** The most a step holds beside those: activations, gradients, inputs. */
  stepBytes: number
  totalBytes: number
}

/** What training will take, from one real step on a device that only counts. */
export async function planTrainingMemory(options: MemoryPlanOptions): Promise<MemoryPlan> {
  const { transformer: config, compute, rank, batchSize, latentSize, textLength } = options
  const device = createCountingDevice()
  const shapes = transformerTensors(config)
  const weights = {
    has: (name: string) => shapes.has(name),
    load: (name: string, _device: unknown, dtype: 'f32' | 'f16') =>
      Promise.resolve(device.zeros(shapes.get(name)!, dtype)),
  }
  const transformer = await createTransformer(config, weights, device, { compute })
  const weightsBytes = device.memory().liveBytes

  // The device looks at shapes only, so the numbers of a LoRA of this size need not exist.
  const noNumbers = transformer.loraTargets.flatMap(() => [
    new Float32Array(0),
    new Float32Array(0),
  ])
  const trained = uploadFactors(device, transformer.loraTargets, { rank, scale: 1 }, noNumbers)
  const learner = {
    expert: 'high',
    lora: trained,
    optimizer: adamw(
      device,
      trained.params,
      optimizerSettings({ betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0 }),
    ),
    lossScale: new LossScale('f32'),
    average: undefined,
  } as const
  const loraBytes = device.memory().liveBytes - weightsBytes

  device.resetPeak()
  const shape = [batchSize, config.outChannels, ...latentSize] as const
  const values = new Float32Array(shape.reduce((product, extent) => product * extent, 1))
  const text_BLD = new Float32Array(batchSize * textLength * config.textDim)
  const batch: MicroBatch = {
    samples: [{ dataset: { network_weight: 1 } } as Sample],
    shape,
    noisy_BZFHW: values,
    target_BZFHW: values,
    condition_BZFHW: values,
    text_BLD,
    textShape: [batchSize, textLength, config.textDim],
    preservationText_BLD: options.preservation ? text_BLD : undefined,
    timesteps: Array<number>(batchSize).fill(500),
    weights: Array<number>(batchSize).fill(1),
  }
  await trainStep(device, transformer, learner, [batch], 1, {
    lossKind: 'mse',
    learningRate: 1,
    maxGradNorm: 1,
    accumulation: 'mean',
    checkpoint: options.checkpoint,
    preservationMultiplier: 1,
    maxLoss: null,
  })
  const stepBytes = device.memory().peakBytes - weightsBytes - loraBytes

  const plan = {
    weightsBytes: weightsBytes * options.residentExperts,
    loraBytes: loraBytes * options.trainedExperts,
    stepBytes,
  }
  return { ...plan, totalBytes: plan.weightsBytes + plan.loraBytes + plan.stepBytes }
}
