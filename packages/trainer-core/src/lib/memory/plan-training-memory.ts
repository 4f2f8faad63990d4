import type { TrainSettings } from '@kinora/config-schema'
import { bytesPerElement, numElements } from '@kinora/kernel-api'
import {
  createTransformer,
  streamedBlocks,
  transformerTensors,
  type QuantizeScheme,
  type TransformerConfig,
  type WanTransformer,
} from '@kinora/wan'
import type { Sample } from '../data/dataset.ts'
import { parameterNames, uploadFactors, type LoraOptions } from '../lora-adapters.ts'
import { LossScale } from '../loss/loss-scale.ts'
import type { MicroBatch } from '../noise/prepare-micro-batch.ts'
import { MovingAverage } from '../optim/moving-average.ts'
import { createOptimizer } from '../optim/optimizers.ts'
import { trainStep } from '../train-step.ts'
import {
  createCountingDevice,
  noWork,
  type CountingOptions,
  type DeviceWork,
} from './counting-device.ts'
import { leanPlan, type RecomputePlan } from './recompute-plan.ts'

export interface MemoryPlanOptions {
  transformer: TransformerConfig
  compute: 'f32' | 'f16'
  /** How the linears of the blocks are packed; dense unless given. */
  quantize?: QuantizeScheme | undefined
  /** Share of the blocks whose linears are streamed from host memory; none unless given. */
  streamedShare?: number | undefined
  rank: number
  /** What the modules are; plain LoRAs unless given. */
  network?: Omit<LoraOptions, 'rank' | 'scale'> | undefined
  /** Whether elements between the factors are dropped. */
  elementDropout?: boolean | undefined
  /** Whether the loss has masks. */
  masks?: boolean | undefined
  /** `adamw` unless given. */
  optimizer?: TrainSettings['optimizer'] | undefined
  /** Whether an average of the LoRA is kept beside it. */
  movingAverage?: boolean | undefined
  batchSize: number
  /** Of the latents: frames, rows, columns. */
  latentSize: readonly [number, number, number]
  textLength: number
  /** Recompute each block on the way back. */
  checkpoint: boolean
  /** What of each block is kept even so; the leanest plan unless given. */
  recompute?: RecomputePlan | undefined
  /** Experts whose base weights are on the device at once: 1 with low memory. */
  residentExperts: 1 | 2
  /** Experts with a LoRA. */
  trainedExperts: 1 | 2
  /** Whether the job has a preservation loss. */
  preservation?: boolean | undefined
  /** What of a backend's own memory is counted; tensors alone unless given. */
  overhead?: CountingOptions['overhead']
}

/** Bytes that training takes. */
export interface MemoryPlan {
  /** Frozen weights of the resident experts, on the device. */
  weightsBytes: number
  /** LoRA and optimiser of the trained experts. */
  loraBytes: number
  /** The most a step holds beside those: what it keeps of the blocks, and what a block is run with. */
  stepBytes: number
  /** Of `stepBytes`: what all blocks keep between the passes. */
  keptBytes: number
  totalBytes: number
  /** What a step of one micro-batch has to do. */
  work: StepWork
  /** In host memory: weights that are elsewhere than on the device, and what blocks keep there. */
  hostBytes: number
}

/** What a step does, for estimating its time. */
export interface StepWork extends DeviceWork {
  /** Bytes that go between host and device, both ways together. */
  trafficBytes: number
  /** Of those: what blocks keep in host memory, on its way there. */
  awayBytes: number
}

const workKinds = Object.keys(noWork()) as (keyof DeviceWork)[]

/** Networks with more blocks are counted with this many and one less: every block takes as much as another. */
const mostCounted = 3

/**
 * What training will take, from real steps on a device that only counts. Exact to the byte for tensors; with `overhead` what a
 * backend takes beside them is estimated.
 */
export async function planTrainingMemory(options: MemoryPlanOptions): Promise<MemoryPlan> {
  const { transformer, residentExperts, trainedExperts, streamedShare = 0 } = options
  const { numLayers } = transformer
  const plan = options.recompute ?? leanPlan(options.compute)
  const numStreamed = streamedBlocks(numLayers, streamedShare).filter(Boolean).length
  const numAway = options.checkpoint ? Math.min(plan.blocksInHostMemory, numLayers) : 0
  // Two sizes give what a block adds; streamed and parked blocks add nothing, but for the two slots of each.
  const most = Math.min(numLayers, mostCounted)
  const few = await count({ ...options, recompute: plan }, most - 1)
  const more = await count({ ...options, recompute: plan }, most)
  const each = <T extends keyof Counts>(key: T): number => more[key] - few[key]
  const at = (key: keyof Counts): number => more[key] + (numLayers - most) * each(key)
  const keptOfBlock = each('stepBytes')
  const slots = Math.min(2, numStreamed)
  // What can be in host memory: the linears of a block, and the embedders, which are streamed where any block is.
  const blockBytes = each('movableBytes')
  const embedderBytes = more.movableBytes - most * blockBytes
  const streamedBytes = numStreamed * blockBytes + (numStreamed > 0 ? embedderBytes : 0)
  const weightsBytes = at('weightsBytes') - streamedBytes
  // With low memory all of that of the expert that waits is in host memory; the rest of it stays.
  const waiting = Math.max(0, trainedExperts - residentExperts)
  const host = trainedExperts * streamedBytes + waiting * (at('movableBytes') - streamedBytes)
  const waitingBytes = waiting * (at('weightsBytes') - at('movableBytes'))
  // The last block goes back while all others wait; those that are away when they are back, two at a time, beside nearly all
  // gradients.
  const away = numAway > 0 ? await count({ ...options, recompute: plan }, most, true) : undefined
  const stepBytes =
    Math.max(
      at('stepBytes') - numAway * keptOfBlock,
      away ? away.stepBytes + (numLayers - most) * more.gradBytes : 0,
    ) +
    slots * blockBytes
  const result = {
    weightsBytes: weightsBytes * residentExperts + waitingBytes,
    loraBytes: at('loraBytes') * trainedExperts,
    stepBytes,
    keptBytes: keptOfBlock * (numLayers - numAway),
    // On its way out it is in memory that the device writes, then in memory that the device reads.
    hostBytes: host + 2 * numAway * keptOfBlock,
    work: {
      ...(Object.fromEntries(workKinds.map((kind) => [kind, at(kind)])) as Record<
        keyof DeviceWork,
        number
      >),
      // Blocks come on the way forward and again on the way back, embedders once; what is kept goes out and comes back.
      trafficBytes: streamedBytes + numStreamed * blockBytes + 2 * numAway * keptOfBlock,
      awayBytes: numAway * keptOfBlock,
    },
  }
  const { loraBytes } = result
  return { ...result, totalBytes: result.weightsBytes + loraBytes + stepBytes }
}

interface Counts extends DeviceWork {
  weightsBytes: number
  loraBytes: number
  stepBytes: number
  /** Of the weights: the linears of the blocks and the embedders. */
  movableBytes: number
  /** Of one block: gradients of its LoRA. */
  gradBytes: number
}

/** Counts of late: a search for a plan asks for the same again and again. */
const counted = new Map<string, Promise<Counts>>()
const mostRemembered = 64

function count(
  options: MemoryPlanOptions & { recompute: RecomputePlan },
  numLayers: number,
  isAway = false,
): Promise<Counts> {
  // Where things are kept changes nothing that is counted.
  const {
    streamedShare: _1,
    residentExperts: _2,
    trainedExperts: _3,
    recompute,
    ...others
  } = options
  const { keep, blockInputs } = recompute
  const key = JSON.stringify({ ...others, keep, blockInputs, numLayers, isAway })
  let counts = counted.get(key)
  if (!counts) {
    const blocksInHostMemory = isAway ? numLayers : 0
    counts = runStep({ ...options, recompute: { ...recompute, blocksInHostMemory } }, numLayers)
    counted.set(key, counts)
    if (counted.size > mostRemembered) counted.delete(counted.keys().next().value!)
  }
  return counts
}

/** One real step of a network of so many blocks, all their weights on the device. */
async function runStep(
  options: MemoryPlanOptions & { recompute: RecomputePlan },
  numLayers: number,
): Promise<Counts> {
  const { compute, rank, batchSize, latentSize, textLength, quantize, overhead } = options
  const config = { ...options.transformer, numLayers }
  const device = createCountingDevice({ overhead })
  const shapes = transformerTensors(config)
  const weights = {
    has: (name: string) => shapes.has(name),
    load: (name: string, _device: unknown, dtype: 'f32' | 'f16' | 'bf16') =>
      Promise.resolve(device.zeros(shapes.get(name)!, dtype)),
  }
  const create = (streamedShare: number): Promise<WanTransformer> =>
    createTransformer(config, weights, device, { compute, quantize, streamedShare })
  const streamed = await create(1)
  const unmovable = device.memory().liveBytes
  streamed.release()
  const transformer = await create(0)
  const weightsBytes = device.memory().liveBytes
  const movableBytes = weightsBytes - unmovable

  // The device looks at shapes only, so the numbers of a LoRA of this size need not exist.
  const network = { ...options.network, rank, scale: 1 }
  const { loraTargets } = transformer
  const noNumbers = parameterNames(loraTargets, network).map(() => new Float32Array(0))
  const trained = uploadFactors(device, loraTargets, network, noNumbers)
  const optimizer = createOptimizer(options.optimizer ?? 'adamw', device, trained.params, {
    betas: [0.9, 0.999],
    eps: 1e-8,
    weight_decay: 0,
  })
  const learner = {
    expert: 'high',
    lora: trained,
    optimizer,
    lossScale: new LossScale('f32'),
    average: options.movingAverage ? new MovingAverage(device, trained.params, 0.99) : undefined,
  } as const
  const loraBytes = device.memory().liveBytes - weightsBytes

  device.resetPeak()
  device.takeWork()
  const shape = [batchSize, config.outChannels, ...latentSize] as const
  const values = new Float32Array(0)
  const batch: MicroBatch = {
    samples: [{ dataset: { network_weight: 1 } } as Sample],
    shape,
    noisy_BZFHW: values,
    target_BZFHW: values,
    condition_BZFHW: values,
    text_BLD: values,
    textShape: [batchSize, textLength, config.textDim],
    preservationText_BLD: options.preservation ? values : undefined,
    maskWeights_BFHW: options.masks ? values : undefined,
    timesteps: Array<number>(batchSize).fill(500),
    weights: Array<number>(batchSize).fill(1),
  }
  await trainStep(device, transformer, learner, [batch], 1, {
    lossKind: 'mse',
    learningRate: 1,
    maxGradNorm: 1,
    accumulation: 'mean',
    checkpoint: options.checkpoint,
    recompute: () => options.recompute,
    dropout: options.elementDropout
      ? () => ({ module: () => ({ elements: { probability: 0.5, seed: 0, stream: 0 } }) })
      : undefined,
    preservationMultiplier: 1,
    maxLoss: null,
  })
  const stepBytes = device.memory().peakBytes - weightsBytes - loraBytes
  const gradBytes =
    (bytesPerElement.f32 * trained.params.reduce((sum, { shape }) => sum + numElements(shape), 0)) /
    numLayers
  return { weightsBytes, loraBytes, stepBytes, movableBytes, gradBytes, ...device.takeWork() }
}
