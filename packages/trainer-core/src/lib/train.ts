import { access, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { loraFileName, trainingMetadata, type LoraWeights } from '@kinora/lora-files'
import {
  drain,
  isCodedError,
  lockFolder,
  writeFileAtomic,
  type CodedError,
  type StageEvent,
} from '@kinora/stage'
import type { Device } from '@kinora/kernel-api'
import { openCheckpoint } from '@kinora/wan'
import { BaseModels } from './base-models.ts'
import { openTrainingData } from './data/training-data.ts'
import { deviceMemory, overheadOf } from './estimate/device-speed.ts'
import { estimateTraining } from './estimate/estimate-training.ts'
import {
  describeRecompute,
  describeStep,
  gib,
  recomputePlans,
  refuseTooLarge,
} from './estimate/tell-estimate.ts'
import { trainerErrors } from './errors.ts'
import {
  checkpointShape,
  latentSize,
  saidMemory,
  trainingSetup,
} from './estimate/training-setup.ts'
import { adaptersOf, readLoraWeights } from './lora-adapters.ts'
import { leanPlan } from './memory/recompute-plan.ts'
import { MetricsFile } from './metrics.ts'
import { createMicroBatches, type MicroBatch } from './noise/prepare-micro-batch.ts'
import { createRandomStreams, type Expert } from './noise/random-streams.ts'
import { packageVersion } from './package-version.ts'
import { optimizerIdentity } from './optim/optimizers.ts'
import { bestOf, changedSettings, checkIdentity, findStart } from './resume/find-start.ts'
import { pruneStepSaves, removeLeftovers, writeBestLora, writeLoras } from './resume/lora-saves.ts'
import { writeTrainingState } from './resume/training-state.ts'
import {
  computeDtype,
  createDropout,
  learningRateAt,
  stepOptions,
  turnOptions,
} from './step-settings.ts'
import type { TrainContext, TrainOptions, TrainResult } from './train-options.ts'
import { trainStep } from './train-step.ts'
import {
  createTrainedExpert,
  describeTrainedExpert,
  finishedParams,
  releaseExpert,
  stateTensors,
  type TrainedExpert,
} from './trained-expert.ts'
import { stepsOfExperts, turnAt } from './turns.ts'
import { judgeValidation, measureValidation, type ValidationLoss } from './validation.ts'

/**
 * Trains the LoRAs of a job. Everything is a function of the job, the seed and the step, so a run that was interrupted at any
 * point and goes on leaves the same bytes as one that was not.
 *
 * Aborting the signal ends the run at the next step, after its state is written.
 */
export async function* trainIter(
  options: TrainOptions,
  context: TrainContext,
): AsyncGenerator<StageEvent, TrainResult> {
  const { job, resume = 'latest' } = options
  const { device, signal, preview } = context
  const { name } = job.config
  const process = job.config.process[0]
  const { train, save, sample, kinora } = process
  const out = options.out ?? join(process.training_folder, name)

  // What can be refused is refused before any weight is loaded.
  await using _lock = await lockFolder(out)
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
  const { trained } = turns
  const memoryBytes = deviceMemory(device.info, options.memoryBytes ?? saidMemory(process))
  const estimate = await estimateTraining(
    trainingSetup(process, data.plan, await checkpointShape(checkpoint), compute),
    {
      memoryBytes,
      speed: undefined,
      overhead: overheadOf(device.info),
    },
  )
  refuseTooLarge(estimate, device.info.adapter)
  if (estimate.usableBytes !== undefined) device.setMemoryBudget(estimate.usableBytes)
  const totalSteps = stepsOfExperts(train.steps, turns)

  const stateFile = join(out, 'state', 'training_state.safetensors')
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
  const start = yield* findStart(stateFile, out, name, trained, resume)
  const learners = new Map<Expert, TrainedExpert>()
  const base = new BaseModels(checkpoint, device, compute, process)
  const metrics = new MetricsFile(join(out, 'metrics.jsonl'), context.metrics)
  try {
    checkIdentity(start.saved?.state, identity)
    for (const expert of trained) {
      learners.set(
        expert,
        await createTrainedExpert(
          expert,
          device,
          checkpoint,
          process,
          compute,
          seed,
          start,
          async (names) => (await base.get(expert, signal)).columnLengths(names),
        ),
      )
    }
    await start.saved?.close()
    const settingsBefore = start.saved?.state.settings
    // What is kept may show in the last bits, so a run that goes on keeps what it kept, unless the device has changed.
    const isSameDevice = (['adapter', 'compute', 'memoryBytes'] as const).every(
      (what) => settingsBefore?.[what] === identity.settings[what],
    )
    const recompute = recomputePlans(
      estimate,
      isSameDevice ? start.saved?.state.recompute : undefined,
    )
    yield {
      type: 'note',
      message: describeRecompute(estimate, recompute, checkpoint.transformer.numLayers),
    }
    const changes = settingsBefore ? changedSettings(settingsBefore['job'], job.config) : []
    if (changes.length > 0) yield { type: 'note', message: `Changed since: ${changes.join(', ')}.` }
    let step = train.start_step ?? start.step
    /** Latents' size of the step whose buffers lie idle; undefined where other work came between. */
    let sizeBefore: string | undefined
    const validation = { ...start.validation }
    await metrics.rewindTo(step)
    await writeFileAtomic(join(out, 'job.json'), `${JSON.stringify(job, null, 2)}\n`)
    if (step < train.steps) {
      await metrics.append({
        type: 'run',
        step,
        name,
        totalSteps: train.steps,
        expertSteps: totalSteps,
        boundary,
        compute,
        adapter: device.info.adapter,
        backend: device.info.backend,
        ...(changes.length > 0 ? { changes } : {}),
      })
    }

    const eachLearner = <T>(value: (learner: TrainedExpert) => T): Partial<Record<Expert, T>> =>
      Object.fromEntries(Array.from(learners, ([expert, learner]) => [expert, value(learner)]))
    const saveState = (): Promise<void> =>
      writeTrainingState(
        stateFile,
        device,
        {
          version: 1,
          step,
          ...identity,
          recompute: Object.fromEntries(recompute),
          validation,
          experts: eachLearner((learner) =>
            describeTrainedExpert(learner, optimizerIdentity(train)),
          ),
        },
        eachLearner(stateTensors),
      )
    const readWeights = async (learner: TrainedExpert): Promise<LoraWeights> => {
      const { params, release } = finishedParams(learner)
      try {
        return await readLoraWeights(device, learner.lora, params)
      } finally {
        release()
      }
    }
    const readLoras = async (): Promise<Partial<Record<Expert, LoraWeights>>> => {
      const loras: Partial<Record<Expert, LoraWeights>> = {}
      for (const [expert, learner] of learners) loras[expert] = await readWeights(learner)
      return loras
    }
    const metadataOf = async (): Promise<Record<string, string>> => {
      const epoch = stepsOfExperts(step, turns)[trained[0]!] / data.normal.batchesPerEpoch
      return trainingMetadata({
        name,
        step,
        epoch: Math.floor(epoch * train.gradient_accumulation),
        triggerWord: process.trigger_word,
        meta: job.meta,
        softwareVersion: await packageVersion(),
      })
    }
    const saveLoras = async (finished: boolean): Promise<Partial<Record<Expert, string>>> => {
      const files = await writeLoras(
        out,
        name,
        await readLoras(),
        process,
        await metadataOf(),
        finished ? undefined : step,
      )
      for (const expert of trained) {
        await pruneStepSaves(out, name, expert, save.max_step_saves_to_keep)
      }
      await metrics.append({ type: 'save', step, files: Object.values(files) })
      return files
    }
    async function* makePreview(): AsyncGenerator<StageEvent> {
      sizeBefore = undefined
      const chosen = step === 0 ? (process.first_sample ?? sample) : sample
      if (!preview || train.disable_sampling || chosen.samples.length === 0) return
      await base.makeRoom()
      yield { type: 'note', message: `Making previews at step ${step}.` }
      try {
        const made = await preview(
          {
            step,
            sample: chosen,
            loras: await readLoras(),
            outDir: join(out, 'samples'),
            checkpoint,
            boundary,
            transformers: base.loaded,
          },
          { signal },
        )
        await metrics.append({ type: 'preview', step, ...made })
      } catch (error) {
        signal?.throwIfAborted()
        const { message } = error as Error
        const fix = isCodedError(error) ? error.fix : 'Training goes on without this preview.'
        await metrics.append({ type: 'preview', step, failed: message })
        yield { type: 'warning', code: 'TRAINER_PREVIEW_FAILED', message, fix }
      }
    }

    /** Loss of both experts on the clips held out; the best LoRA so far is kept apart. */
    async function* validate(): AsyncGenerator<StageEvent> {
      if (data.heldOut.length === 0 || validation[trained[0]!]?.at(-1)?.step === step) return
      const { bands: numBands } = kinora.validation
      const found: Partial<Record<Expert, ValidationLoss>> = {}
      for (const [expert, learner] of learners) {
        const { params, release } = finishedParams(learner)
        const measured = await measureValidation(
          device,
          await base.get(expert, signal),
          expert,
          adaptersOf(learner.lora, params),
          data.heldOut,
          microBatches,
          { boundary, numBands },
        ).finally(release)
        found[expert] = measured
        const before = bestOf(validation[expert] ?? [])
        const history = [...(validation[expert] ?? []), { step, loss: measured.loss }]
        validation[expert] = history
        const values = { [`${expert}Loss`]: measured.loss }
        yield { type: 'progress', phase: 'validation', done: history.length, item: expert, values }
        if (step === 0 || (before && before.loss <= measured.loss)) continue
        const weights = await readWeights(learner)
        await writeBestLora(out, name, expert, weights, process, await metadataOf())
      }
      await metrics.append({ type: 'validation', step, experts: found })
    }

    const microBatches = createMicroBatches({
      job,
      boundary,
      cache: data.cache,
      keys: data.keys,
      random,
      textLength: checkpoint.textLength,
    })
    /** Reads and noises the micro-batches of a step. */
    const prepare = (at: number): Promise<MicroBatch[]> => {
      const { expert, expertStep } = turnAt(at, turns)
      const prepared = Promise.all(
        Array.from({ length: train.gradient_accumulation }, (_, i) =>
          microBatches.prepare(
            expert,
            data.batchOf(expert, expertStep, i),
            (expertStep * train.gradient_accumulation + i) * data.largestBatch,
          ),
        ),
      )
      // It is awaited a step later; until then its failure is nobody's.
      prepared.catch(() => {})
      return prepared
    }

    yield { type: 'started', phase: 'train', total: train.steps }
    if ((step <= 1 && !train.skip_first_sample) || train.force_first_sample) yield* makePreview()
    if (step === 0) yield* validate()
    const losses: Partial<Record<Expert, number>> = {}
    const stepBytes = new Map(
      estimate.buckets.map(({ bucket, memory }) => [
        latentSize(bucket).join('x'),
        memory.stepBytes,
      ]),
    )
    let prepared = step < train.steps ? prepare(step) : undefined
    while (step < train.steps) {
      const began = performance.now()
      device.resetPeak()
      const { expert, expertStep } = turnAt(step, turns)
      const transformer = await base.get(expert, signal)
      const loaded = performance.now()
      const batches = await prepared!
      const size = batches[0]!.shape.slice(2).join('x')
      if (size !== sizeBefore) await device.makeRoom(stepBytes.get(size) ?? 0)
      sizeBefore = size
      const ready = performance.now()
      // The next step's batches are made while the device works on this one's.
      prepared = step + 1 < train.steps ? prepare(step + 1) : undefined
      const learningRate = learningRateAt(expertStep, totalSteps[expert], process)
      const learner = learners.get(expert)!
      const dropout = createDropout(process, random, learner, expertStep)
      const result = await trainStep(
        device,
        transformer,
        learner,
        batches,
        step + 1,
        stepOptions(
          process,
          learningRate,
          dropout,
          ([, , ...latents]) => recompute.get(latents.join('x')) ?? leanPlan(compute),
        ),
      ).catch(async (error: unknown) => {
        // Nothing of this step has been applied: what came before it is worth keeping.
        const tell = isOutOfMemory(error)
          ? trainerErrors.OUT_OF_MEMORY
          : isDeviceLost(error)
            ? trainerErrors.DEVICE_LOST
            : undefined
        const told = tell
          ? tell(
              step + 1,
              ...describeStep(
                estimate,
                size,
                recompute.get(size),
                heldWhen(device, error as CodedError),
              ),
              { cause: error },
            )
          : error
        // The plan was too bold here: the run that goes on keeps less.
        if (isOutOfMemory(error)) recompute.set(size, leanPlan(compute))
        if (isCodedError(error, 'TRAINER_NOT_FINITE')) await saveState()
        // A device out of memory mostly still gives what it holds. One that is lost does not, and the last save stays.
        else if (isOutOfMemory(error)) await saveState().catch(() => {})
        if (isCodedError(told)) {
          await metrics.append({ type: 'error', step: step + 1, ...told.toJSON() })
        }
        throw told
      })
      learner.average?.update(learner.lora.params)
      step++
      losses[expert] = result.loss

      yield {
        type: 'progress',
        phase: 'train',
        done: step,
        total: train.steps,
        item: `${expert} noise`,
        values: { loss: result.loss, gradNorm: result.gradNorm, learningRate },
      }
      const isLast = step === train.steps
      if (isDue(step, process.logging.log_every) || step === 1 || isLast) {
        const { seconds, ...numbers } = result
        const memory = device.memory()
        await metrics.append({
          type: 'step',
          step,
          expert,
          expertStep: expertStep + 1,
          ...numbers,
          learningRate,
          timesteps: batches.flatMap((batch) => batch.timesteps),
          shape: batches[0]!.shape,
          seconds: {
            load: (loaded - began) / 1000,
            data: (ready - loaded) / 1000,
            ...seconds,
            total: (performance.now() - began) / 1000,
          },
          memory: {
            liveMiB: Math.round(memory.liveBytes / 2 ** 20),
            peakMiB: Math.round(memory.peakBytes / 2 ** 20),
          },
        })
      }
      if (isLast) break
      if (isDue(step, kinora.validation.every ?? save.save_every)) yield* validate()
      if (isDue(step, save.save_every) || (await takeRequest(out, 'save-now'))) {
        // The state comes last: a run killed in between does this step, and so its files, once more.
        await saveLoras(false)
        await saveState()
      }
      const previewDue = isDue(step, sample.sample_every) && step >= sample.sample_start_step
      if (previewDue || (await takeRequest(out, 'sample-now'))) yield* makePreview()
      if (signal?.aborted) {
        await saveState()
        const message = `Stopped at step ${step}; the same command goes on from there.`
        yield { type: 'note', message }
        signal.throwIfAborted()
      }
    }

    yield* validate()
    const files = await saveLoras(true)
    await saveState()
    if (start.step < train.steps) yield* makePreview()
    const best: TrainResult['best'] = {}
    for (const expert of trained) {
      const verdict = judgeValidation(expert, validation[expert] ?? [])
      if (verdict) yield { type: 'note', message: verdict }
      const found = bestOf(validation[expert] ?? [])
      if (found) best[expert] = { ...found, file: join(out, 'best', loraFileName(name, expert)) }
    }
    return { step, out, files, losses, best }
  } finally {
    await start.saved?.close()
    for (const learner of learners.values()) releaseExpert(learner)
    base.release()
  }
}

// Whatever backend it was: the codes end alike.
const isOutOfMemory = (error: unknown): error is CodedError =>
  isCodedError(error) && error.code.endsWith('_OUT_OF_MEMORY')
const isDeviceLost = (error: unknown): error is CodedError =>
  isCodedError(error) && error.code.endsWith('_DEVICE_LOST')

/** What a device held when something went wrong, and what that was. */
function heldWhen(device: Device, { message }: Error): string {
  const { liveBytes, pooledBytes } = device.memory()
  return `${gib(liveBytes)} live, ${gib(pooledBytes)} idle: ${message.replace(/\.$/, '')}`
}

/** `trainIter` without its events. */
export function train(options: TrainOptions, context: TrainContext): Promise<TrainResult> {
  return drain(trainIter(options, context))
}

const isDue = (step: number, every: number): boolean => every > 0 && step % every === 0

/** A file of this name in the output folder asks for something after the step at hand. */
async function takeRequest(out: string, request: 'save-now' | 'sample-now'): Promise<boolean> {
  const file = join(out, request)
  try {
    await access(file)
  } catch {
    return false
  }
  await rm(file, { force: true })
  return true
}
