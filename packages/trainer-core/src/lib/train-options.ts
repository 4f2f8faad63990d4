import type { Device } from '@kinora/kernel-api'
import type { TrainJob, TrainSample } from '@kinora/config-schema'
import type { LoraWeights } from '@kinora/lora-files'
import type { RunContext } from '@kinora/stage'
import type { WanCheckpoint, WanTransformer } from '@kinora/wan'
import type { MetricsSink } from './metrics.ts'
import type { Expert } from './noise/random-streams.ts'

export interface TrainOptions {
  /** A parsed job file. */
  job: TrainJob
  /** The bucket-plan.json that was cached. */
  plan: string
  /** Plan of the clips of `kinora.validation.folder`, cached in the same folder; validation-plan.json beside `plan` unless given. */
  validationPlan?: string | undefined
  /** Folder of `cacheDataset`'s entries. */
  cacheDir: string
  /** Output folder; `training_folder/name` of the job unless given. */
  out?: string | undefined
  /**
   * Where to go on: the newest state, the state validation liked best, a step whose files are there, or never (begin anew).
   * `latest` unless given; a folder without a state begins anew.
   */
  resume?: 'latest' | 'best' | 'never' | number | undefined
  /** Memory of the device in bytes, in place of `kinora.vram_gb` and of what the adapter's name tells. */
  memoryBytes?: number | undefined
}

/** What a preview is made of: the LoRAs as they are at a step. */
export interface PreviewRequest {
  /** Steps done; 0 before training. */
  step: number
  /** The job's `sample`, or `first_sample` before training. */
  sample: TrainSample
  /** Those being trained. */
  loras: Partial<Record<Expert, LoraWeights>>
  /** Folder for the previews. */
  outDir: string
  checkpoint: WanCheckpoint
  /** Sigma at which the experts meet. */
  boundary: number
  /** Networks that are on the device already; with low memory none are. */
  transformers: ReadonlyMap<Expert, WanTransformer>
}

export interface TrainContext extends RunContext {
  device: Device
  /**
   * Makes previews; what it throws is a warning, never the end of the run. What it returns joins the `preview` entry of the
   * metrics.
   */
  preview?:
    | ((request: PreviewRequest, context: RunContext) => Promise<Record<string, unknown> | void>)
    | undefined
  /** Gets every metrics entry beside metrics.jsonl. */
  metrics?: MetricsSink | undefined
}

/** What a finished run leaves. */
export interface TrainResult {
  /** Steps done. */
  step: number
  out: string
  /** The finished LoRA files. */
  files: Partial<Record<Expert, string>>
  /** Loss of the last step of each expert. */
  losses: Partial<Record<Expert, number>>
  /** Where clips were held out: each expert's best step by its loss on them, and that LoRA's file. */
  best: Partial<Record<Expert, { step: number; loss: number; file: string }>>
}
