import type { BucketPlan, TrainProcess, TrainSettings } from '@kinora/config-schema'
import {
  storedPacking,
  type QuantizeScheme,
  type TransformerConfig,
  type WanCheckpoint,
} from '@kinora/wan'
import { quantizeScheme, streamedShare } from '../base-models.ts'
import type { MemoryPlanOptions } from '../memory/plan-training-memory.ts'
import { turnOptions } from '../step-settings.ts'

/** A size that is trained at. */
export interface BucketSize {
  width: number
  height: number
  numFrames: number
  batchSize: number
  /** Samples of an epoch, which say how often its turn comes. */
  numSamples: number
}

/** All of a job that decides about memory and time. */
export interface TrainingSetup {
  transformer: TransformerConfig
  textLength: number
  compute: 'f32' | 'f16'
  /** How the blocks' linears are packed; undefined for dense. */
  quantize: QuantizeScheme | undefined
  lowVram: boolean
  streamedShare: number
  checkpoint: boolean
  rank: number
  network: NonNullable<MemoryPlanOptions['network']>
  elementDropout: boolean
  masks: boolean
  optimizer: TrainSettings['optimizer']
  /** Whether an average of the weights is kept beside them. */
  movingAverage: boolean
  preservation: boolean
  numTrained: 1 | 2
  steps: number
  accumulation: number
  /** Steps between changes of the expert. */
  switchEvery: number
  buckets: readonly BucketSize[]
}

/** What a checkpoint says of a job's memory and time. */
export interface CheckpointShape {
  transformer: TransformerConfig
  textLength: number
  /** How it is stored, where it is packed already. */
  packing?: QuantizeScheme | undefined
}

/** Reads how the experts of a checkpoint are stored. */
export async function checkpointShape(checkpoint: WanCheckpoint): Promise<CheckpointShape> {
  const { transformer, textLength } = checkpoint
  return { transformer, textLength, packing: await storedPacking(checkpoint) }
}

/** Memory of the device that a job states, in bytes. */
export function saidMemory({ kinora }: TrainProcess): number | undefined {
  return kinora.vram_gb === null ? undefined : 2 ** 30 * kinora.vram_gb
}

/** Gathers from a job, its plan and its checkpoint all that an estimate needs. */
export function trainingSetup(
  process: TrainProcess,
  plan: BucketPlan,
  checkpoint: CheckpointShape,
  compute: 'f32' | 'f16',
): TrainingSetup {
  const { model, train, network, kinora } = process
  const turns = turnOptions(process)
  return {
    transformer: checkpoint.transformer,
    textLength: checkpoint.textLength,
    compute,
    quantize: checkpoint.packing ?? quantizeScheme(model),
    lowVram: model.low_vram,
    streamedShare: streamedShare(model),
    checkpoint: train.gradient_checkpointing,
    rank: Math.max(
      ...turns.trained.map((expert) => kinora[`${expert}_noise_rank`] ?? network.linear),
    ),
    network: {
      type: network.type,
      fullRank: network.lokr_full_rank,
      factor: network.lokr_factor,
    },
    elementDropout: Boolean(network.dropout),
    masks: process.datasets.some(({ mask_path, alpha_mask }) => mask_path !== null || alpha_mask),
    optimizer: train.optimizer,
    movingAverage: train.ema_config.use_ema,
    preservation: train.diff_output_preservation || train.blank_prompt_preservation,
    numTrained: turns.trained.length === 2 ? 2 : 1,
    steps: train.steps,
    accumulation: train.gradient_accumulation,
    switchEvery: turns.switchEvery,
    buckets: plan.buckets.map(({ width, height, numFrames, batchSize, items }) => ({
      width,
      height,
      numFrames,
      batchSize: Math.min(batchSize, items.length),
      numSamples: items.length,
    })),
  }
}

/** Frames, rows and columns of a bucket's latents. */
export function latentSize({ width, height, numFrames }: BucketSize): [number, number, number] {
  return [(numFrames - 1) / 4 + 1, height / 8, width / 8]
}

/** Names a size of latents: `11x64x64` for 11 frames of 64 rows and 64 columns. */
export function sizeName(latents: readonly number[]): string {
  return latents.join('x')
}

/** What a step at one size takes, as the memory plan asks for it. */
export function memoryOptions(
  setup: TrainingSetup,
  bucket: BucketSize,
  overhead: MemoryPlanOptions['overhead'],
): Omit<MemoryPlanOptions, 'recompute'> {
  return {
    transformer: setup.transformer,
    compute: setup.compute,
    quantize: setup.quantize,
    streamedShare: setup.streamedShare,
    rank: setup.rank,
    network: setup.network,
    elementDropout: setup.elementDropout,
    masks: setup.masks,
    optimizer: setup.optimizer,
    movingAverage: setup.movingAverage,
    batchSize: bucket.batchSize,
    latentSize: latentSize(bucket),
    textLength: setup.textLength,
    checkpoint: setup.checkpoint,
    residentExperts: setup.numTrained === 2 && !setup.lowVram ? 2 : 1,
    trainedExperts: setup.numTrained,
    preservation: setup.preservation,
    overhead,
  }
}

/** What a bucket is called: width × height × frames. */
export function bucketName({ width, height, numFrames }: BucketSize): string {
  return `${width}×${height}×${numFrames}`
}
