import type { TrainJob } from '@kinora/config-schema'
import type { Device } from '@kinora/kernel-api'
import { drain, type RunContext, type StageEvent } from '@kinora/stage'
import {
  measureActivationSizes,
  openCheckpoint,
  writeActivationSizes,
  type ActivationSizes,
  type TransformerInput,
} from '@kinora/wan'
import { BaseModels } from './base-models.ts'
import { openTrainingData } from './data/training-data.ts'
import { createMicroBatches } from './noise/prepare-micro-batch.ts'
import { createRandomStreams, experts, type Expert } from './noise/random-streams.ts'
import { computeDtype } from './step-settings.ts'
import { uploadBatch } from './train-step.ts'

export interface CalibrateOptions {
  /** A parsed job: its clips, captions, timesteps and model are what is measured on. */
  job: TrainJob
  /** The bucket-plan.json that was cached. */
  plan: string
  /** Folder of `cacheDataset`'s entries. */
  cacheDir: string
  /** File that receives the activation sizes. */
  out: string
  /** Forward passes of each expert; 8 unless given. */
  numPasses?: number | undefined
}

export interface CalibrateContext extends RunContext {
  device: Device
}

/**
 * Measures how large the inputs of an expert's linears are while it sees what a job trains on, for packing it with a recovery
 * adapter that minds outputs.
 */
export async function* calibrateIter(
  { job, plan, cacheDir, out, numPasses = 8 }: CalibrateOptions,
  { device, signal }: CalibrateContext,
): AsyncGenerator<StageEvent, { file: string }> {
  const process = job.config.process[0]
  const checkpoint = await openCheckpoint(process.model.name_or_path, { signal })
  const random = createRandomStreams(process.training_seed ?? 42)
  const data = await openTrainingData({ job, plan, cacheDir }, checkpoint, random, signal)
  const microBatches = createMicroBatches({
    job,
    boundary: process.kinora.boundary ?? checkpoint.boundaryRatio,
    cache: data.cache,
    keys: data.keys,
    random,
    textLength: checkpoint.textLength,
  })
  const base = new BaseModels(checkpoint, device, computeDtype(process, device), {
    ...process,
    // Nothing goes back here, so any placement of the blocks will do.
    train: { ...process.train, gradient_checkpointing: true },
    model: { ...process.model, low_vram: true },
  })
  async function* inputs(expert: Expert): AsyncGenerator<TransformerInput> {
    for (let pass = 0; pass < numPasses; pass++) {
      signal?.throwIfAborted()
      const samples = data.batchOf(expert, pass, 0)
      const batch = await microBatches.prepare(expert, samples, pass * data.largestBatch)
      const input = device.scope(() => uploadBatch(device, batch).input)
      try {
        yield input
      } finally {
        device.release(input.latents)
        device.release(input.text)
      }
    }
  }
  const sizes: Partial<Record<Expert, ActivationSizes>> = {}
  try {
    yield { type: 'started', phase: 'calibrate', total: experts.length }
    for (const [i, expert] of experts.entries()) {
      const transformer = await base.get(expert, signal)
      sizes[expert] = await measureActivationSizes(device, transformer, inputs(expert))
      yield {
        type: 'progress',
        phase: 'calibrate',
        done: i + 1,
        total: experts.length,
        item: `${expert} noise`,
      }
    }
  } finally {
    base.release()
  }
  await writeActivationSizes(out, sizes)
  return { file: out }
}

/** `calibrateIter` without its events. */
export function calibrate(
  options: CalibrateOptions,
  context: CalibrateContext,
): Promise<{ file: string }> {
  return drain(calibrateIter(options, context))
}
