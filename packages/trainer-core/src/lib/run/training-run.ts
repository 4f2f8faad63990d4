import { join } from 'node:path'
import type { TrainJob, TrainProcess } from '@kinora/config-schema'
import type { Device } from '@kinora/kernel-api'
import { writeFileAtomic, type StageEvent } from '@kinora/stage'
import { openCheckpoint, type WanCheckpoint, type WanTransformer } from '@kinora/wan'
import { BaseModels } from '../base-models.ts'
import { openTrainingData, type TrainingData } from '../data/training-data.ts'
import { deviceMemory, overheadOf } from '../estimate/device-speed.ts'
import { bucketAt, estimateTraining, type TrainingEstimate } from '../estimate/estimate-training.ts'
import {
  describeRecompute,
  recomputePlans,
  refuseTooLarge,
  type RecomputePlans,
} from '../estimate/tell-estimate.ts'
import {
  checkpointShape,
  saidMemory,
  trainingSetup,
  type TrainingSetup,
} from '../estimate/training-setup.ts'
import { MetricsFile } from '../metrics.ts'
import {
  createMicroBatches,
  type MicroBatch,
  type MicroBatches,
} from '../noise/prepare-micro-batch.ts'
import { createRandomStreams, type Expert, type RandomStreams } from '../noise/random-streams.ts'
import { changedSettings, checkIdentity, findStart, type Start } from '../resume/find-start.ts'
import { removeLeftovers } from '../resume/lora-saves.ts'
import type { TrainingState } from '../resume/training-state.ts'
import { computeDtype, turnOptions } from '../step-settings.ts'
import type { TrainContext, TrainOptions } from '../train-options.ts'
import { createTrainedExpert, releaseExpert, type TrainedExpert } from '../trained-expert.ts'
import { stepsOfExperts, type TurnOptions } from '../turns.ts'
import { isDeviceLost } from './device-lost.ts'
import { Room } from './room.ts'

/** What a run is at. */
export interface Doing {
  /** As an error ends: `in step 4`. */
  what: string
  /** Latents' size at hand. */
  size?: string
  /** Number of the step, while it is computed. */
  inStep?: number
}

/** A run: what its parts share. */
export interface TrainingRun {
  readonly job: TrainJob
  readonly process: TrainProcess
  readonly name: string
  /** Folder of all that it writes. */
  readonly out: string
  readonly device: Device
  readonly signal: AbortSignal | undefined
  readonly preview: TrainContext['preview']
  readonly checkpoint: WanCheckpoint
  readonly compute: 'f32' | 'f16'
  /** Sigma at which the experts meet. */
  readonly boundary: number
  readonly turns: TurnOptions
  readonly random: RandomStreams
  readonly data: TrainingData
  readonly microBatches: MicroBatches
  readonly setup: TrainingSetup
  readonly estimate: TrainingEstimate
  /** What is kept of each block, by the latents' size. */
  readonly recompute: RecomputePlans
  /** What the training state says of the run, the same at every step. */
  readonly identity: Pick<TrainingState, 'seed' | 'boundary' | 'checkpoint' | 'settings'>
  readonly start: Start
  readonly base: BaseModels
  /** Empty until the run begins. */
  readonly learners: Map<Expert, TrainedExpert>
  readonly metrics: MetricsFile
  /** Losses on held-out clips so far. */
  readonly validation: TrainingState['validation']
  /** Steps done. */
  step: number
  /** The micro-batches of the step at hand, on their way. */
  prepared: Promise<MicroBatch[]> | undefined
  readonly room: Room
  /** Step whose LoRA files are written. */
  savedStep: number | undefined
  /** Whether its metrics have begun. */
  hasBegun: boolean
  /** Whether LoRAs and optimisers are there and as they were after `step`: not while one is being applied. */
  isWhole: boolean
  /** What it is at, for telling what failed. */
  doing: Doing
}

/** Reads and checks all that a run needs. What can be refused is refused here, before any weight is loaded. */
export async function* openRun(
  options: TrainOptions,
  { device, signal, preview, metrics }: TrainContext,
  out: string,
): AsyncGenerator<StageEvent, TrainingRun> {
  const { job, resume = 'latest' } = options
  const { name } = job.config
  const process = job.config.process[0]
  const { train, kinora } = process
  const checkpoint = await openCheckpoint(process.model.name_or_path, { signal })
  const compute = computeDtype(process, device)
  const boundary = kinora.boundary ?? checkpoint.boundaryRatio
  const seed = process.training_seed ?? 42
  const random = createRandomStreams(seed)
  const data = await openTrainingData(options, checkpoint, random, signal)
  for (const { clip, reason } of data.skipped) {
    yield { type: 'skipped', item: clip, reason: 'unreadable', detail: reason }
  }
  const turns = turnOptions(process)
  const memoryBytes = deviceMemory(device.info, options.memoryBytes ?? saidMemory(process))
  const shape = await checkpointShape(checkpoint)
  const setup = trainingSetup(process, data.plan, shape, compute)
  const estimate = await estimateTraining(setup, {
    memoryBytes,
    speed: undefined,
    overhead: overheadOf(device.info),
  })
  refuseTooLarge(estimate, device.info.adapter)
  if (estimate.usableBytes !== undefined) device.setMemoryBudget(estimate.usableBytes)
  const base = new BaseModels(checkpoint, device, compute, process)
  const identity = {
    seed,
    boundary,
    checkpoint: `${await checkpoint.fingerprint('transformer')} ${await checkpoint.fingerprint('transformer_2')}`,
    settings: {
      job: job.config,
      compute,
      adapter: device.info.adapter,
      memoryBytes: memoryBytes ?? null,
    },
  }
  await removeLeftovers(out)
  await removeLeftovers(join(out, 'state'))
  const start = yield* findStart(stateFileOf(out), out, name, turns.trained, resume)
  const before = start.saved?.state
  // What is kept may show in the last bits, so a run that goes on keeps what it kept, unless the device has changed.
  const isSameDevice = (['adapter', 'compute', 'memoryBytes'] as const).every(
    (what) => before?.settings[what] === identity.settings[what],
  )
  return {
    job,
    process,
    name,
    out,
    device,
    signal,
    preview,
    checkpoint,
    compute,
    boundary,
    turns,
    random,
    data,
    microBatches: createMicroBatches({
      job,
      boundary,
      cache: data.cache,
      keys: data.keys,
      random,
      textLength: checkpoint.textLength,
    }),
    setup,
    estimate,
    recompute: recomputePlans(estimate, isSameDevice ? before?.recompute : undefined),
    identity,
    start,
    base,
    learners: new Map(),
    metrics: new MetricsFile(join(out, 'metrics.jsonl'), metrics),
    validation: { ...start.validation },
    step: train.start_step ?? start.step,
    prepared: undefined,
    room: new Room(device),
    savedStep: undefined,
    hasBegun: false,
    isWhole: false,
    doing: { what: 'before the first step' },
  }
}

/** Puts the experts' LoRAs on the device, as they begin or as they were, and begins the metrics. */
export async function* beginRun(run: TrainingRun): AsyncGenerator<StageEvent> {
  const { job, process, name, out, device, checkpoint, compute, start, step } = run
  const { estimate, turns, metrics, identity } = run
  const { train } = process
  const before = start.saved?.state
  checkIdentity(before, identity)
  for (const expert of turns.trained) {
    run.learners.set(
      expert,
      await createTrainedExpert(
        expert,
        device,
        checkpoint,
        process,
        compute,
        identity.seed,
        start,
        async (names) => (await expertOf(run, expert)).columnLengths(names),
      ),
    )
  }
  await start.saved?.close()
  run.isWhole = true
  yield {
    type: 'note',
    message: describeRecompute(estimate, run.recompute, checkpoint.transformer.numLayers),
  }
  const changes = before ? changedSettings(before.settings['job'], job.config) : []
  if (changes.length > 0) yield { type: 'note', message: `Changed since: ${changes.join(', ')}.` }
  await metrics.rewindTo(step)
  run.hasBegun = true
  await writeFileAtomic(join(out, 'job.json'), `${JSON.stringify(job, null, 2)}\n`)
  if (step >= train.steps) return
  await metrics.append({
    type: 'run',
    step,
    name,
    totalSteps: train.steps,
    expertSteps: stepsOfExperts(train.steps, turns),
    boundary: run.boundary,
    compute,
    adapter: device.info.adapter,
    backend: device.info.backend,
    ...(changes.length > 0 ? { changes } : {}),
  })
}

/** Frees all that a run holds of the device. */
export async function closeRun({ start, learners, base }: TrainingRun): Promise<void> {
  await start.saved?.close()
  try {
    for (const learner of learners.values()) releaseExpert(learner)
    base.release()
  } catch (error) {
    // What a lost device held went with it, and why the run ended has been told.
    if (!isDeviceLost(error)) throw error
  }
}

/** An expert's network, on the device; room is made where it must be loaded first. */
export async function expertOf(run: TrainingRun, expert: Expert): Promise<WanTransformer> {
  if (!run.base.loaded.has(expert)) await run.room.makeForOther()
  return run.base.get(expert, run.signal)
}

/** Makes room for a pass at a size of latents: a step, or a part of one. */
export async function makeRoomFor({ room, estimate }: TrainingRun, size: string): Promise<void> {
  const { memory } = bucketAt(estimate, size) ?? estimate.largest
  await room.makeForPass(size, memory.stepBytes)
}

/** Where the training state is. */
export function stateFileOf(out: string): string {
  return join(out, 'state', 'training_state.safetensors')
}
