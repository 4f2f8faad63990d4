import { access } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { BucketPlan, TrainJob, TrainProcess } from '@kinora/config-schema'
import type { QuantizeScheme, WanCheckpoint } from '@kinora/wan'
import { CacheFolder, latentsKey, maskKey, textKey } from '../cache/cache-entries.ts'
import { trainerErrors } from '../errors.ts'
import type { CacheKeys } from '../noise/prepare-micro-batch.ts'
import { createRandomStreams, type Expert, type RandomStreams } from '../noise/random-streams.ts'
import type { TrainOptions } from '../train-options.ts'
import { createBatches, type Batches } from './batches.ts'
import { promptsOf, readDataset, type Dataset, type Sample } from './dataset.ts'

export interface TrainingData {
  readonly plan: BucketPlan
  readonly cache: CacheFolder
  readonly keys: CacheKeys
  /** What is trained on; regularisation sets are apart. */
  readonly normal: Batches
  /** Most samples a batch may have. */
  readonly largestBatch: number
  /** The samples of micro-batch `i` of an expert's step. */
  batchOf(expert: Expert, expertStep: number, i: number): readonly Sample[]
  /** Samples of the clips kept out for validation. */
  readonly heldOut: readonly Sample[]
  readonly skipped: readonly { clip: string; reason: string }[]
}

/** Finds every sample's entries in the cache, before anything expensive; the unreadable clips are left out. */
export async function openTrainingData(
  { job, plan, validationPlan, cacheDir }: TrainOptions,
  checkpoint: WanCheckpoint,
  random: RandomStreams,
  signal: AbortSignal | undefined,
): Promise<TrainingData> {
  const dataset = await readDataset(plan, job, signal)
  const cache = new CacheFolder(cacheDir)
  const vae = await checkpoint.fingerprint('vae')
  const textEncoder = await textFingerprint(checkpoint, job)
  const clipHashes = new Map(dataset.clipHashes)
  const keys: CacheKeys = {
    latents: (sample) => latentsKey(sample, clipHashes.get(sample.clip)!, vae),
    text: (text) => textKey(text, textEncoder),
  }
  const found = await cachedSamples(dataset, cache, keys)
  const skipped = [...found.skipped]
  const { validation } = job.config.process[0].kinora
  let { samples, heldOut } = holdOut(found.samples, dataset, validation)
  const other = await readValidationDataset({ job, plan, validationPlan }, signal)
  if (other) {
    for (const [clip, hash] of other.clipHashes) clipHashes.set(clip, hash)
    const others = await cachedSamples(other, cache, keys)
    heldOut = others.samples
    skipped.push(...others.skipped)
  }
  for (const sample of [...samples, ...heldOut]) {
    if (!sample.mask || (await cache.has('masks', maskKey(sample, sample.mask)))) continue
    throw trainerErrors.NOT_CACHED(1, samples.length, cacheDir, `the mask ${sample.mask.file}`)
  }
  const texts = promptsOf([...samples, ...heldOut], job)
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

  const isRegularisation = (sample: Sample): boolean => sample.dataset.is_reg
  const normal = createBatches(
    samples.filter((sample) => !isRegularisation(sample)),
    random,
    'clipOrder',
  )
  const regular = createBatches(samples.filter(isRegularisation), random, 'regularisationOrder')
  if (normal.batchesPerEpoch === 0) throw trainerErrors.NO_SAMPLES(plan)
  const accumulate = job.config.process[0].train.gradient_accumulation
  return {
    plan: dataset.plan,
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
    heldOut,
    skipped,
  }
}

/** The clips of `kinora.validation.folder`, by their own plan; undefined where the job has none. */
export async function readValidationDataset(
  { job, plan, validationPlan }: Pick<TrainOptions, 'job' | 'plan' | 'validationPlan'>,
  signal: AbortSignal | undefined,
): Promise<Dataset | undefined> {
  const { folder } = job.config.process[0].kinora.validation
  if (validationPlan !== undefined) return readDataset(validationPlan, job, signal)
  if (folder === null) return undefined
  const beside = join(dirname(plan), 'validation-plan.json')
  const isThere = await access(beside).then(
    () => true,
    () => false,
  )
  if (!isThere) throw trainerErrors.NO_VALIDATION_PLAN(folder)
  return readDataset(beside, job, signal)
}

/** Keeps a share of the clips, every sample of each, out of training; which ones is a matter of their bytes and the seed. */
function holdOut(
  samples: readonly Sample[],
  { clipHashes }: Dataset,
  { fraction, seed }: TrainProcess['kinora']['validation'],
): { samples: Sample[]; heldOut: Sample[] } {
  const hashOf = (sample: Sample): string => clipHashes.get(sample.clip)!
  const clips = [
    ...new Set(samples.filter(({ dataset: { is_reg } }) => !is_reg).map(hashOf)),
  ].sort()
  if (fraction === 0 || clips.length < 2) return { samples: [...samples], heldOut: [] }
  const count = Math.min(Math.max(1, Math.round(fraction * clips.length)), clips.length - 1)
  const order = createRandomStreams(seed).permutation('validationNoise', 'high', 0, clips.length)
  const chosen = new Set(Array.from(order.subarray(0, count), (i) => clips[i]!))
  return {
    samples: samples.filter((sample) => !chosen.has(hashOf(sample))),
    heldOut: samples.filter((sample) => chosen.has(hashOf(sample))),
  }
}

/** Scheme the text encoder is packed in; undefined where it stays dense. */
export function textEncoderScheme(job: TrainJob): QuantizeScheme | undefined {
  const { quantize_te, qtype_te } = job.config.process[0].model
  return quantize_te ? qtype_te : undefined
}

/** Identity of what turns a prompt into an embedding. */
export async function textFingerprint(checkpoint: WanCheckpoint, job: TrainJob): Promise<string> {
  const scheme = textEncoderScheme(job)
  const files = `${await checkpoint.fingerprint('text_encoder')} ${await checkpoint.fingerprint('tokenizer')}`
  return scheme ? `${files} ${scheme}` : files
}

async function cachedSamples(
  { samples, clipHashes }: Dataset,
  cache: CacheFolder,
  keys: CacheKeys,
): Promise<{ samples: Sample[]; skipped: { clip: string; reason: string }[] }> {
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
