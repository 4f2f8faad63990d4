import type { Device, Tensor } from '@kinora/kernel-api'
import type { TrainJob } from '@kinora/config-schema'
import { drain, isCodedError, type RunContext, type StageEvent } from '@kinora/stage'
import {
  loadTextEncoder,
  loadVae,
  logvarRange,
  openCheckpoint,
  type WanCheckpoint,
  type WanTextEncoder,
  type WanVae,
} from '@kinora/wan'
import { trainerErrors } from '../errors.ts'
import { promptsOf, readDataset, type Sample } from '../data/dataset.ts'
import { readMaskCells } from '../data/loss-masks.ts'
import { readValidationDataset, textEncoderScheme, textFingerprint } from '../data/training-data.ts'
import {
  CacheFolder,
  latentsKey,
  maskKey,
  textKey,
  type LatentsEntry,
  type TextEntry,
} from './cache-entries.ts'
import { readSampleFrames } from './sample-frames.ts'

export interface CacheDatasetOptions {
  /** A parsed job; its datasets' captions and its model are what counts here. */
  job: TrainJob
  /** The bucket-plan.json that says which frames of which clips, at which size. */
  plan: string
  /** Plan of the clips of `kinora.validation.folder`; validation-plan.json beside `plan` unless given. */
  validationPlan?: string | undefined
  /** Folder that receives the entries. */
  cacheDir: string
}

export interface CacheDatasetContext extends RunContext {
  device: Device
}

/** What caching did. */
export interface CacheDatasetResult {
  latents: { found: number; made: number }
  /** Loss masks. */
  masks: { found: number; made: number }
  texts: { found: number; made: number }
  /** Clips that could not be read, each once. */
  skipped: { clip: string; reason: string }[]
}

/**
 * Encodes what training needs and the cache lacks: target and condition latents of every sample of a plan, the embedding of every
 * prompt that may be drawn. The VAE and the text encoder are on the device only while something misses, one after the other.
 */
export async function* cacheDatasetIter(
  { job, plan, validationPlan, cacheDir }: CacheDatasetOptions,
  { device, signal }: CacheDatasetContext,
): AsyncGenerator<StageEvent, CacheDatasetResult> {
  const process = job.config.process[0]
  const checkpoint = await openCheckpoint(process.model.name_or_path, { signal })
  const dataset = await readDataset(plan, job, signal)
  const heldOut = await readValidationDataset({ job, plan, validationPlan }, signal)
  const samples = [...dataset.samples, ...(heldOut?.samples ?? [])]
  const clipHashes = new Map([...dataset.clipHashes, ...(heldOut?.clipHashes ?? [])])
  const cache = new CacheFolder(cacheDir)

  const latents = yield* cacheLatents(samples, clipHashes, {
    checkpoint,
    cache,
    device,
    signal,
    maxSkipped: process.kinora.max_skipped,
  })
  const unreadable = new Set(latents.skipped.map(({ clip }) => clip))
  const masks = yield* cacheMasks(
    samples.filter(({ clip }) => !unreadable.has(clip)),
    { cache, signal },
  )
  const texts = yield* cacheTexts(promptsOf(samples, job), job, {
    checkpoint,
    cache,
    device,
    signal,
  })
  return { latents: latents.counts, masks, texts, skipped: latents.skipped }
}

/** `cacheDatasetIter` without its events. */
export function cacheDataset(
  options: CacheDatasetOptions,
  context: CacheDatasetContext,
): Promise<CacheDatasetResult> {
  return drain(cacheDatasetIter(options, context))
}

interface Work {
  checkpoint: WanCheckpoint
  cache: CacheFolder
  device: Device
  signal: AbortSignal | undefined
}

async function* cacheLatents(
  samples: readonly Sample[],
  clipHashes: ReadonlyMap<string, string>,
  { checkpoint, cache, device, signal, maxSkipped }: Work & { maxSkipped: number | null },
): AsyncGenerator<
  StageEvent,
  { counts: CacheDatasetResult['latents']; skipped: CacheDatasetResult['skipped'] }
> {
  const fingerprint = await checkpoint.fingerprint('vae')
  const wanted = new Map<string, Sample>()
  const skipped = new Map<string, string>()
  const refuse = (clip: string, reason: string): void => {
    skipped.set(clip, reason)
    if (maxSkipped !== null && skipped.size > maxSkipped) {
      throw trainerErrors.TOO_MANY_SKIPPED(skipped.size, maxSkipped, clip, reason)
    }
  }
  for (const sample of samples) {
    const hash = clipHashes.get(sample.clip)
    if (hash !== undefined) wanted.set(latentsKey(sample, hash, fingerprint), sample)
    else if (!skipped.has(sample.clip)) {
      const reason = 'The file cannot be read.'
      yield { type: 'skipped', item: sample.clip, reason: 'unreadable', detail: reason }
      refuse(sample.clip, reason)
    }
  }
  const missing: [string, Sample][] = []
  for (const [key, sample] of wanted) {
    if (!(await cache.has('latents', key))) missing.push([key, sample])
  }

  let made = 0
  if (missing.length > 0) {
    const vae = await loadVae(checkpoint, device, { signal })
    try {
      yield { type: 'started', phase: 'latents', total: missing.length }
      for (const [done, [key, sample]] of missing.entries()) {
        signal?.throwIfAborted()
        try {
          await cache.writeLatents(
            key,
            await encodeSample(sample, vae, device, signal),
            sample.clip,
          )
          made++
        } catch (error) {
          if (!isUnreadable(error)) throw error
          const reason = (error as Error).message
          await cache.writeUnreadable(key, { clip: sample.clip, reason })
          if (!skipped.has(sample.clip)) {
            yield { type: 'skipped', item: sample.clip, reason: 'unreadable', detail: reason }
            refuse(sample.clip, reason)
          }
        }
        yield {
          type: 'progress',
          phase: 'latents',
          done: done + 1,
          total: missing.length,
          item: sample.clip,
        }
      }
    } finally {
      vae.release()
    }
  }
  return {
    counts: { found: wanted.size - missing.length, made },
    skipped: [...skipped].map(([clip, reason]) => ({ clip, reason })),
  }
}

/** A clip's own fault, as against a machine's: the run goes on without it. */
function isUnreadable(error: unknown): boolean {
  return (
    isCodedError(error, 'TRAINER_CLIP_TOO_SHORT') ||
    (isCodedError(error) && error.code.startsWith('MEDIA_') && error.code !== 'MEDIA_NO_FFMPEG')
  )
}

async function encodeSample(
  sample: Sample,
  vae: WanVae,
  device: Device,
  signal: AbortSignal | undefined,
): Promise<LatentsEntry> {
  const { width, height, numFrames } = sample.bucket
  const shape = [1, numFrames, height, width, 3]
  const owned: Tensor[] = []
  const own = (make: () => Tensor): Tensor => {
    device.scope(() => {
      owned.push(device.retain(make()))
    })
    return owned.at(-1)!
  }
  try {
    const video = own(() => device.zeros(shape, 'f32'))
    // Grey is 0, so the condition's clip is zeros but for its first frame.
    const condition = own(() => device.zeros(shape, 'f32'))
    let at = 0
    for await (const frame of readSampleFrames(sample, signal)) {
      if (at === 0) device.write(condition, frame)
      device.write(video, frame, at++ * frame.length)
    }
    const results: Tensor[] = []
    device.scope(() => {
      const target = vae.encode(video)
      results.push(
        device.retain(vae.normalise(target.mean)),
        device.retain(target.logvar),
        device.retain(vae.normalise(vae.encode(condition).mean)),
      )
    })
    owned.push(...results)
    const [mean, logvar, conditionMean] = (await Promise.all(
      results.map((tensor) => device.read(tensor)),
    )) as [Float32Array, Float32Array, Float32Array]
    const latentShape = results[0]!.shape.slice(1) as [number, number, number, number]
    return {
      shape: latentShape,
      latents: mean,
      deviation: deviationOf(logvar, vae.config.latentsStd),
      condition: conditionMean,
    }
  } finally {
    for (const tensor of owned) device.release(tensor)
  }
}

/** exp(½ logvar) / std of each channel: the posterior's deviation where latents are normalised. */
function deviationOf(logvar: Float32Array, latentsStd: readonly number[]): Float32Array {
  const perChannel = logvar.length / latentsStd.length
  const [least, most] = logvarRange
  return logvar.map(
    (value, i) =>
      Math.exp(0.5 * Math.min(Math.max(value, least), most)) /
      latentsStd[Math.floor(i / perChannel)]!,
  )
}

/** Reads the loss masks that are missing. A mask that cannot be read is an error: without it the clip would train as a whole. */
async function* cacheMasks(
  samples: readonly Sample[],
  { cache, signal }: Pick<Work, 'cache' | 'signal'>,
): AsyncGenerator<StageEvent, CacheDatasetResult['masks']> {
  const wanted = new Map<string, Sample>()
  const without = new Set<string>()
  for (const sample of samples) {
    if (sample.mask) wanted.set(maskKey(sample, sample.mask), sample)
    else if (sample.dataset.mask_path !== null) without.add(sample.clip)
  }
  for (const clip of without) {
    yield {
      type: 'warning',
      code: 'TRAINER_NO_MASK',
      message: `${clip} has no mask in the mask_path of its set.`,
      fix: 'Its loss counts everywhere alike; give a picture or video of the same name.',
    }
  }
  const missing: [string, Sample][] = []
  for (const [key, sample] of wanted) {
    if (!(await cache.has('masks', key))) missing.push([key, sample])
  }
  if (missing.length > 0) yield { type: 'started', phase: 'masks', total: missing.length }
  for (const [done, [key, sample]] of missing.entries()) {
    signal?.throwIfAborted()
    await cache.writeMask(key, await readMaskCells(sample, sample.mask!, signal), sample.clip)
    yield {
      type: 'progress',
      phase: 'masks',
      done: done + 1,
      total: missing.length,
      item: sample.clip,
    }
  }
  return { found: wanted.size - missing.length, made: missing.length }
}

async function* cacheTexts(
  texts: readonly string[],
  job: TrainJob,
  { checkpoint, cache, device, signal }: Work,
): AsyncGenerator<StageEvent, CacheDatasetResult['texts']> {
  const fingerprint = await textFingerprint(checkpoint, job)
  const missing: string[] = []
  for (const text of texts) {
    if (!(await cache.has('text', textKey(text, fingerprint)))) missing.push(text)
  }
  if (missing.length > 0) {
    const quantize = textEncoderScheme(job)
    const encoder = await loadTextEncoder(checkpoint, device, { quantize, signal })
    try {
      yield { type: 'started', phase: 'text', total: missing.length }
      let done = 0
      for await (const entry of encodeTexts(missing, encoder, device)) {
        signal?.throwIfAborted()
        const text = missing[done]!
        await cache.writeText(textKey(text, fingerprint), entry, text)
        done++
        yield { type: 'progress', phase: 'text', done, total: missing.length, item: text }
      }
    } finally {
      await encoder.release()
    }
  }
  return { found: texts.length - missing.length, made: missing.length }
}

/** The entries of texts, one after another: all of them at once may be more than the host should hold. */
async function* encodeTexts(
  texts: readonly string[],
  encoder: WanTextEncoder,
  device: Device,
): AsyncGenerator<TextEntry> {
  for await (const states of encoder.encodeEach(texts)) {
    const [, length, dim] = states.shape as [number, number, number]
    const rows = (await device.read(states)) as Float32Array
    device.release(states)
    // Rows after the real tokens are zeros; a real row never is, for it has been normalised.
    let numTokens = length
    while (
      numTokens > 0 &&
      rows.subarray((numTokens - 1) * dim, numTokens * dim).every((x) => x === 0)
    ) {
      numTokens--
    }
    yield { numTokens, dim, values: rows.slice(0, numTokens * dim) }
  }
}
