import { access, mkdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Device, Tensor } from '@kinora/kernel-api'
import type { TrainProcess } from '@kinora/config-schema'
import {
  loraFileName,
  readLora,
  trainingMetadata,
  writeCombinedLora,
  writeLora,
  type LoraWeights,
} from '@kinora/lora-files'
import {
  codeSystemError,
  drain,
  isCodedError,
  lockFolder,
  writeFileAtomic,
  type StageEvent,
} from '@kinora/stage'
import { openCheckpoint, transformerLoraTargets, type WanCheckpoint } from '@kinora/wan'
import { CacheFolder, latentsKey, textKey } from './cache/cache-entries.ts'
import { createBatches } from './data/batches.ts'
import { promptsOf, readDataset, type Dataset, type Sample } from './data/dataset.ts'
import { trainerErrors } from './errors.ts'
import {
  initialFactors,
  readLoraWeights,
  selectTargets,
  uploadFactors,
  type LoraOptions,
} from './lora-adapters.ts'
import { LossScale } from './loss/loss-scale.ts'
import { MetricsFile } from './metrics.ts'
import { createMicroBatches, type MicroBatch } from './noise/prepare-micro-batch.ts'
import { createRandomStreams, experts, type Expert } from './noise/random-streams.ts'
import { learningRateFactor } from './optim/learning-rate.ts'
import { optimizersByName } from './optim/optimizers.ts'
import { pruneStepSaves, listStepSaves } from './resume/lora-saves.ts'
import {
  openTrainingState,
  writeTrainingState,
  type SavedState,
  type TrainingState,
} from './resume/training-state.ts'
import type { TrainContext, TrainOptions, TrainResult } from './train-options.ts'
import { trainStep, type StepOptions } from './train-step.ts'
import { BaseModels, type TrainedExpert } from './trained-expert.ts'
import { stepsOfExperts, turnAt, type TurnOptions } from './turns.ts'

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

  await using _lock = await lockFolder(out)
  const checkpoint = await openCheckpoint(process.model.name_or_path, { signal })
  const boundary = kinora.boundary ?? checkpoint.boundaryRatio
  const seed = process.training_seed ?? 42
  const random = createRandomStreams(seed)
  const compute = computeDtype(process, device)
  const data = await openData(options, checkpoint, signal)
  for (const { clip, reason } of data.skipped) {
    yield { type: 'skipped', item: clip, reason: 'unreadable', detail: reason }
  }
  const trained = experts.filter((expert) => process.model.model_kwargs[`train_${expert}_noise`])
  const turns: TurnOptions = {
    trained,
    switchEvery: Math.max(1, Math.round(train.switch_boundary_every / train.gradient_accumulation)),
    highShare: kinora.high_noise_share,
  }

  const stateFile = join(out, 'state', 'training_state.safetensors')
  const start = yield* findStart(stateFile, out, name, trained, resume)
  const learners = new Map<Expert, TrainedExpert>()
  const base = new BaseModels(checkpoint, device, compute, process.model)
  const metrics = new MetricsFile(join(out, 'metrics.jsonl'))
  const identity = {
    seed,
    boundary,
    checkpoint: `${await checkpoint.fingerprint('transformer')} ${await checkpoint.fingerprint('transformer_2')}`,
    settings: { job: job.config, compute, adapter: device.info.adapter },
  }
  try {
    checkIdentity(start.saved?.state, identity)
    for (const expert of trained) {
      learners.set(
        expert,
        await createLearner(expert, device, checkpoint, process, compute, seed, start),
      )
    }
    await start.saved?.close()
    if (start.saved || resume === 'never') await metrics.rewindTo(start.step)
    await writeFileAtomic(join(out, 'job.json'), `${JSON.stringify(job, null, 2)}\n`)

    let step = train.start_step ?? start.step
    const lossOf: Partial<Record<Expert, number>> = {}
    let best = start.saved?.state.best ?? {}

    const saveState = (): Promise<void> =>
      writeTrainingState(
        stateFile,
        device,
        {
          version: 1,
          step,
          ...identity,
          best,
          experts: Object.fromEntries(
            Array.from(learners, ([expert, learner]) => [
              expert,
              describeLearner(learner, process),
            ]),
          ),
        },
        Object.fromEntries(
          Array.from(learners, ([expert, { lora, optimizer }]) => [
            expert,
            new Map<string, readonly Tensor[]>([['params', lora.params], ...optimizer.state]),
          ]),
        ),
      )
    const readLoras = async (): Promise<Partial<Record<Expert, LoraWeights>>> => {
      const loras: Partial<Record<Expert, LoraWeights>> = {}
      for (const [expert, { lora }] of learners) loras[expert] = await readLoraWeights(device, lora)
      return loras
    }
    const saveLoras = async (finished: boolean): Promise<Partial<Record<Expert, string>>> => {
      const metadata = trainingMetadata({
        name,
        step,
        epoch: Math.floor(stepsOfExperts(step, turns)[trained[0]!] / data.normal.batchesPerEpoch),
        triggerWord: process.trigger_word,
        meta: job.meta,
        softwareVersion: await packageVersion(),
      })
      const files = await writeLoras(
        out,
        name,
        await readLoras(),
        process,
        metadata,
        finished ? undefined : step,
      )
      for (const expert of trained)
        await pruneStepSaves(out, name, expert, save.max_step_saves_to_keep)
      await metrics.append({ type: 'save', step, files: Object.values(files) })
      return files
    }
    async function* makePreview(first: boolean): AsyncGenerator<StageEvent> {
      if (!preview || train.disable_sampling || sample.samples.length === 0) return
      if (process.model.low_vram) base.release()
      yield { type: 'note', message: `Preview at step ${step}.` }
      const chosen = first ? (process.first_sample ?? sample) : sample
      try {
        await preview(
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
        await metrics.append({ type: 'preview', step })
      } catch (error) {
        signal?.throwIfAborted()
        const { message } = error as Error
        const fix = isCodedError(error) ? error.fix : 'Training goes on without this preview.'
        yield { type: 'warning', code: 'TRAINER_PREVIEW_FAILED', message, fix }
      }
    }

    const microBatches = createMicroBatches({
      job,
      boundary,
      cache: data.cache,
      keys: data.keys,
      random,
      textLength: checkpoint.textLength,
    })
    const prepare = (at: number): Promise<MicroBatch[]> => {
      const { expert, expertStep } = turnAt(at, turns)
      const accumulate = train.gradient_accumulation
      return Promise.all(
        Array.from({ length: accumulate }, (_, i) => {
          const index = expertStep * accumulate + i
          const draw = index * data.largestBatch
          return microBatches.prepare(expert, data.batchOf(expert, expertStep, i), draw)
        }),
      )
    }
    const totalOf = stepsOfExperts(train.steps, turns)

    yield { type: 'started', phase: 'train', total: train.steps }
    if ((step <= 1 && !train.skip_first_sample) || train.force_first_sample)
      yield* makePreview(true)
    let next = step < train.steps ? prepare(step) : undefined
    next?.catch(() => {})
    while (step < train.steps) {
      const began = performance.now()
      device.resetPeak()
      const { expert, expertStep } = turnAt(step, turns)
      const transformer = await base.get(expert, signal)
      const loaded = performance.now()
      const batches = await next!
      const ready = performance.now()
      const learningRate = learningRateAt(expertStep, totalOf[expert], process)
      // The next batch is read and noised while the device works on this one.
      next = step + 1 < train.steps ? prepare(step + 1) : undefined
      next?.catch(() => {})
      const result = await trainStep(
        device,
        transformer,
        learners.get(expert)!,
        batches,
        step + 1,
        stepOptions(process, learningRate),
      ).catch(async (error: unknown) => {
        // Nothing of this step has been applied: what came before it is worth keeping.
        if (isCodedError(error, 'TRAINER_NOT_FINITE')) await saveState()
        throw error
      })
      step++
      lossOf[expert] = result.loss

      const timesteps = batches.flatMap((batch) => batch.timesteps)
      yield {
        type: 'progress',
        phase: 'train',
        done: step,
        total: train.steps,
        item: `${expert} noise`,
        values: { loss: result.loss, gradNorm: result.gradNorm, learningRate },
      }
      if (step % process.logging.log_every === 0 || step === 1 || step === train.steps) {
        const memory = device.memory()
        const toMiB = (bytes: number): number => Math.round(bytes / 2 ** 20)
        await metrics.append({
          type: 'step',
          step,
          expert,
          expertStep: expertStep + 1,
          loss: result.loss,
          unweightedLoss: result.unweightedLoss,
          ...(result.preservationLoss === undefined
            ? {}
            : { preservationLoss: result.preservationLoss }),
          gradNorm: result.gradNorm,
          learningRate,
          timesteps,
          lossScale: result.lossScale,
          seconds: {
            load: (loaded - began) / 1000,
            data: (ready - loaded) / 1000,
            ...result.seconds,
            total: (performance.now() - began) / 1000,
          },
          memory: { liveMiB: toMiB(memory.liveBytes), peakMiB: toMiB(memory.peakBytes) },
        })
      }

      const last = step === train.steps
      if (!last && (isDue(step, save.save_every) || (await takeRequest(out, 'save-now')))) {
        await saveState()
        await saveLoras(false)
      }
      const previewDue =
        isDue(step, sample.sample_every) && step >= sample.sample_start_step && !last
      if (previewDue || (await takeRequest(out, 'sample-now'))) yield* makePreview(false)
      if (signal?.aborted && !last) {
        await saveState()
        yield {
          type: 'note',
          message: `Stopped at step ${step}; the same command goes on from there.`,
        }
        signal.throwIfAborted()
      }
    }

    await saveState()
    const files = await saveLoras(true)
    if (start.step < train.steps) yield* makePreview(false)
    return { step, out, files, losses: lossOf }
  } finally {
    await start.saved?.close()
    for (const { lora, optimizer } of learners.values()) {
      lora.release()
      optimizer.release()
    }
    base.release()
  }
}

/** `trainIter` without its events. */
export function train(options: TrainOptions, context: TrainContext): Promise<TrainResult> {
  return drain(trainIter(options, context))
}

const isDue = (step: number, every: number): boolean => every > 0 && step % every === 0

/** A file of this name in the output folder asks for something at the next step. */
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

function computeDtype({ kinora, train }: TrainProcess, device: Device): 'f32' | 'f16' {
  const { computeDTypes, adapter } = device.info
  if (kinora.compute === 'f16' && !computeDTypes.includes('f16')) {
    throw trainerErrors.NO_F16(adapter)
  }
  if (kinora.compute !== 'auto') return kinora.compute
  return train.dtype !== 'fp32' && computeDTypes.includes('f16') ? 'f16' : 'f32'
}

function stepOptions({ train, kinora }: TrainProcess, learningRate: number): StepOptions {
  return {
    lossKind: train.loss_type === 'pseudo_huber' ? 'pseudo-huber' : train.loss_type,
    learningRate,
    maxGradNorm: train.max_grad_norm,
    accumulation: kinora.accumulation,
    checkpoint: train.gradient_checkpointing,
    preservationMultiplier: train.diff_output_preservation
      ? train.diff_output_preservation_multiplier
      : train.blank_prompt_preservation_multiplier,
    maxLoss: train.max_loss,
  }
}

/** Schedules run over the expert's own steps, so that experts trained apart see what experts trained by turns see. */
function learningRateAt(expertStep: number, expertSteps: number, { train }: TrainProcess): number {
  const { lr, lr_scheduler, lr_scheduler_params: params } = train
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

interface TrainingData {
  cache: CacheFolder
  keys: { latents(sample: Sample): string; text(text: string): string }
  normal: ReturnType<typeof createBatches>
  largestBatch: number
  /** The samples of micro-batch `i` of an expert's step. */
  batchOf(expert: Expert, expertStep: number, i: number): readonly Sample[]
  skipped: { clip: string; reason: string }[]
}

/** Finds every sample's entries in the cache, before anything expensive; the unreadable clips are left out. */
async function openData(
  { job, plan, cacheDir }: TrainOptions,
  checkpoint: WanCheckpoint,
  signal: AbortSignal | undefined,
): Promise<TrainingData> {
  const process = job.config.process[0]
  const dataset = await readDataset(plan, job, signal)
  const cache = new CacheFolder(cacheDir)
  const vae = await checkpoint.fingerprint('vae')
  const textEncoder = await checkpoint.fingerprint('text_encoder')
  const keys = {
    latents: (sample: Sample): string =>
      latentsKey(sample, dataset.clipHashes.get(sample.clip)!, vae),
    text: (text: string): string => textKey(text, textEncoder),
  }
  const { samples, skipped } = await cachedSamples(dataset, cache, keys)
  const texts = promptsOf(samples, job)
  const missing: string[] = []
  for (const text of texts) if (!(await cache.has('text', keys.text(text)))) missing.push(text)
  if (missing.length > 0) {
    throw trainerErrors.NOT_CACHED(
      missing.length,
      texts.length,
      cacheDir,
      `the text "${missing[0]}"`,
    )
  }

  const random = createRandomStreams(process.training_seed ?? 42)
  const normal = createBatches(
    samples.filter(({ dataset: { is_reg } }) => !is_reg),
    random,
    'clipOrder',
  )
  const regular = createBatches(
    samples.filter(({ dataset: { is_reg } }) => is_reg),
    random,
    'regularisationOrder',
  )
  if (normal.batchesPerEpoch === 0) throw trainerErrors.NO_SAMPLES(plan)
  const accumulate = process.train.gradient_accumulation
  return {
    cache,
    keys,
    normal,
    largestBatch: Math.max(normal.largestBatch, regular.largestBatch),
    batchOf(expert, expertStep, i) {
      // Regularisation takes every second step of an expert, so that turns of any length give each expert its share.
      if (regular.batchesPerEpoch === 0) return normal.at(expert, expertStep * accumulate + i)
      const own = Math.floor(expertStep / 2) * accumulate + i
      return expertStep % 2 === 1 ? regular.at(expert, own) : normal.at(expert, own)
    },
    skipped,
  }
}

async function cachedSamples(
  { samples, clipHashes }: Dataset,
  cache: CacheFolder,
  keys: TrainingData['keys'],
): Promise<{ samples: Sample[]; skipped: TrainingData['skipped'] }> {
  const found: Sample[] = []
  const skipped = new Map<string, string>()
  const missing: Sample[] = []
  const known = new Map<string, boolean>()
  for (const sample of samples) {
    if (!clipHashes.has(sample.clip)) {
      skipped.set(sample.clip, 'The file cannot be read.')
      continue
    }
    const key = keys.latents(sample)
    if (!known.has(key)) known.set(key, await cache.has('latents', key))
    if (known.get(key)) {
      found.push(sample)
      continue
    }
    const unreadable = await cache.readUnreadable(key)
    if (unreadable) skipped.set(sample.clip, unreadable.reason)
    else missing.push(sample)
  }
  if (missing.length > 0) {
    throw trainerErrors.NOT_CACHED(missing.length, samples.length, cache.folder, missing[0]!.clip)
  }
  return { samples: found, skipped: [...skipped].map(([clip, reason]) => ({ clip, reason })) }
}

interface Start {
  step: number
  saved: SavedState | undefined
  /** LoRA files to begin from where there is no state. */
  files: Partial<Record<Expert, string>>
}

async function* findStart(
  stateFile: string,
  out: string,
  name: string,
  trained: readonly Expert[],
  resume: NonNullable<TrainOptions['resume']>,
): AsyncGenerator<StageEvent, Start> {
  const fresh: Start = { step: 0, saved: undefined, files: {} }
  if (resume === 'never') return fresh
  const saved = await openTrainingState(stateFile)
  if (resume === 'latest') {
    if (!saved) return fresh
    yield { type: 'note', message: `Going on from step ${saved.state.step}.` }
    return { step: saved.state.step, saved, files: {} }
  }
  const step = resume === 'best' ? bestStep(saved) : resume
  if (step === undefined) {
    await saved?.close()
    throw trainerErrors.NO_SUCH_SAVE('best checkpoint', out)
  }
  if (saved?.state.step === step) return { step, saved, files: {} }
  await saved?.close()
  const files: Partial<Record<Expert, string>> = {}
  for (const expert of trained) {
    const save = (await listStepSaves(out, name, expert)).find((each) => each.step === step)
    if (!save) throw trainerErrors.NO_SUCH_SAVE(`${expert}-noise LoRA of step ${step}`, out)
    files[expert] = save.file
  }
  yield {
    type: 'warning',
    code: 'TRAINER_RESUME_WITHOUT_STATE',
    message: `Step ${step} has LoRA files but no optimiser state: its moments begin at zero.`,
    fix: 'Resume from latest to continue exactly.',
  }
  return { step, saved: undefined, files }
}

function bestStep(saved: SavedState | undefined): number | undefined {
  const steps = Object.values(saved?.state.best ?? {}).map(
    (best) => (best as { step: number }).step,
  )
  return steps.length > 0 ? Math.max(...steps) : undefined
}

/** What must not change between the parts of a run. */
function checkIdentity(
  before: TrainingState | undefined,
  now: { seed: number; checkpoint: string; boundary: number },
): void {
  if (!before) return
  for (const what of ['checkpoint', 'seed', 'boundary'] as const) {
    if (before[what] !== now[what]) {
      throw trainerErrors.RESUME_MISMATCH(what, String(before[what]), String(now[what]))
    }
  }
}

async function createLearner(
  expert: Expert,
  device: Device,
  checkpoint: WanCheckpoint,
  { network, train, kinora }: TrainProcess,
  compute: 'f32' | 'f16',
  seed: number,
  start: Start,
): Promise<TrainedExpert> {
  const rank = kinora[`${expert}_noise_rank`] ?? network.linear
  const lora: LoraOptions = {
    rank,
    scale: kinora.use_alpha ? network.linear_alpha / rank : 1,
  }
  const targets = selectTargets(transformerLoraTargets(checkpoint.transformer), expert, {
    ignoreIfContains: network.network_kwargs.ignore_if_contains,
    onlyIfContains: network.network_kwargs.only_if_contains,
  })
  const makeOptimizer = (learnerLora: ReturnType<typeof uploadFactors>) =>
    optimizersByName[train.optimizer as keyof typeof optimizersByName](device, learnerLora.params, {
      beta1: train.optimizer_params.betas[0],
      beta2: train.optimizer_params.betas[1],
      eps: train.optimizer_params.eps,
      weightDecay: train.optimizer_params.weight_decay,
    })

  const before = start.saved?.state.experts[expert]
  if (!start.saved || !before) {
    const file = start.files[expert] ?? network.pretrained_lora_path
    const source = file ? { weights: await readLora(file, { expert }), file } : undefined
    const fresh = uploadFactors(
      device,
      targets,
      lora,
      initialFactors(targets, lora, expert, seed, source),
    )
    return {
      expert,
      lora: fresh,
      optimizer: makeOptimizer(fresh),
      lossScale: new LossScale(compute),
    }
  }

  const differs = (what: string, was: unknown, is: unknown): void => {
    if (was !== is) throw trainerErrors.RESUME_MISMATCH(what, String(was), String(is))
  }
  differs(`rank of the ${expert}-noise LoRA`, before.rank, lora.rank)
  differs(`scale of the ${expert}-noise LoRA`, before.scale, lora.scale)
  differs('optimizer', before.optimizer, train.optimizer)
  differs(
    `adapted layers of the ${expert}-noise expert`,
    before.parameters.map(([parameter]) => parameter).join(' '),
    targets.flatMap(({ name }) => [`${name}.lora_A`, `${name}.lora_B`]).join(' '),
  )
  const resumed = uploadFactors(device, targets, lora, await start.saved.read(expert, 'params'))
  const optimizer = makeOptimizer(resumed)
  for (const [name, tensors] of optimizer.state) {
    const values = await start.saved.read(expert, name)
    tensors.forEach((tensor, i) => device.write(tensor, values[i]!))
  }
  Object.assign(optimizer.numbers, before.numbers)
  return { expert, lora: resumed, optimizer, lossScale: new LossScale(compute, before.lossScale) }
}

function describeLearner(
  { lora, optimizer, lossScale }: TrainedExpert,
  { train }: TrainProcess,
): NonNullable<TrainingState['experts']['high']> {
  return {
    parameters: lora.names.map((name, i) => [
      name,
      lora.params[i]!.shape.reduce((product, extent) => product * extent, 1),
    ]),
    rank: lora.options.rank,
    scale: lora.options.scale,
    states: [...optimizer.state.keys()],
    optimizer: train.optimizer,
    numbers: { ...optimizer.numbers },
    lossScale: lossScale.state,
  }
}

async function writeLoras(
  out: string,
  name: string,
  loras: Partial<Record<Expert, LoraWeights>>,
  { save, network }: TrainProcess,
  metadata: Record<string, string>,
  step: number | undefined,
): Promise<Partial<Record<Expert, string>>> {
  const options = { layout: 'comfyui', dtype: dtypes[save.dtype], metadata } as const
  const files: Partial<Record<Expert, string>> = {}
  try {
    await mkdir(out, { recursive: true })
    const { high, low } = loras
    if (!network.split_multistage_loras && high && low) {
      const stem = step === undefined ? name : `${name}_${String(step).padStart(9, '0')}`
      const file = join(out, `${stem}.safetensors`)
      await writeCombinedLora(file, { high, low }, options)
      return { high: file, low: file }
    }
    for (const expert of experts) {
      const weights = loras[expert]
      if (!weights) continue
      files[expert] = join(out, loraFileName(name, expert, step))
      await writeLora(files[expert], weights, options)
    }
  } catch (error) {
    const { cause } = error as Error
    throw codeSystemError(cause instanceof Error ? cause : error, out)
  }
  return files
}

const dtypes = { fp32: 'f32', fp16: 'f16', bf16: 'bf16' } as const

let version: string | undefined
async function packageVersion(): Promise<string> {
  version ??= (
    JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8')) as {
      version: string
    }
  ).version
  return version
}
