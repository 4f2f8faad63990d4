import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import {
  bucketPlanSchema,
  type Bucket,
  type BucketPlan,
  type PlanItem,
  type TrainDataset,
  type TrainJob,
} from '@kinora/config-schema'
import { codeSystemError } from '@kinora/stage'
import { trainerErrors } from '../errors.ts'
import { createRandomStreams } from '../noise/random-streams.ts'
import { findMask, type MaskSource } from './loss-masks.ts'
import { readCaption, samplePrompts, type SamplePrompts } from './captions.ts'

/** One thing to train on: frames of a clip at a size, with its prompts. */
export interface Sample {
  readonly item: PlanItem
  readonly bucket: Bucket
  readonly bucketIndex: number
  readonly dataset: TrainDataset
  /** Absolute path of the clip. */
  readonly clip: string
  readonly prompts: SamplePrompts
  /** Its loss mask, where its set has masks and one for it. */
  readonly mask?: SampleMask | undefined
}

/** A loss mask and the SHA-256 of its file. */
export interface SampleMask extends MaskSource {
  readonly hash: string
}

/** A bucket plan with the captions of its clips. */
export interface Dataset {
  readonly plan: BucketPlan
  readonly samples: readonly Sample[]
  /** SHA-256 of each clip file, by absolute path; missing: it could not be read. */
  readonly clipHashes: ReadonlyMap<string, string>
}

async function readPlan(file: string): Promise<BucketPlan> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    throw codeSystemError(error, file)
  }
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (cause) {
    throw trainerErrors.BAD_PLAN(file, (cause as Error).message, { cause })
  }
  const parsed = bucketPlanSchema.safeParse(json)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    throw trainerErrors.BAD_PLAN(file, `${issue.path.join('.') || 'the file'}: ${issue.message}`)
  }
  return parsed.data
}

/** Numbers in [0, 1) that depend on the seed and the caption alone: all copies of a clip have the same variants. */
function captionNumbers(seed: number, caption: string): () => number {
  const random = createRandomStreams(seed)
  const index = createHash('sha256').update(caption).digest().readUIntBE(0, 5)
  let numbers: Float64Array = new Float64Array(0)
  let at = 0
  return () => {
    if (at === numbers.length)
      numbers = random.uniforms('captionVariants', 'high', index, 2 * at + 64)
    return numbers[at++]!
  }
}

async function maskOf(
  clip: string,
  dataset: TrainDataset,
  signal: AbortSignal | undefined,
): Promise<SampleMask | undefined> {
  const source = await findMask(clip, dataset)
  // A clip that cannot be read is left out elsewhere, with its alpha.
  const hash = source && (await hashFile(source.file, signal).catch(() => undefined))
  return hash === undefined ? undefined : { ...source!, hash }
}

/** SHA-256 of a file's bytes, streamed. */
async function hashFile(file: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file, { signal })) hash.update(chunk as Uint8Array)
  return hash.digest('hex')
}

/**
 * Reads a bucket plan, the captions beside its clips, and the clips' hashes. The bytes are hashed each time: a plan knows what a
 * clip was, a cache must know what it is.
 */
export async function readDataset(
  planFile: string,
  job: TrainJob,
  signal?: AbortSignal,
): Promise<Dataset> {
  const plan = await readPlan(planFile)
  const process = job.config.process[0]
  const folder = dirname(resolve(planFile))
  const samples: Sample[] = []
  const captions = new Map<string, string>()
  const masks = new Map<string, SampleMask | undefined>()
  for (const [bucketIndex, bucket] of plan.buckets.entries()) {
    for (const item of bucket.items) {
      signal?.throwIfAborted()
      const dataset = process.datasets[item.dataset]
      if (!dataset) {
        throw trainerErrors.BAD_PLAN(
          planFile,
          `a sample belongs to dataset ${item.dataset}, and the job has ${process.datasets.length}`,
        )
      }
      const clip = resolve(folder, item.clip)
      const key = `${item.dataset} ${clip}`
      const caption = captions.get(key) ?? (await readCaption(clip, dataset))
      captions.set(key, caption)
      if (!masks.has(key)) masks.set(key, await maskOf(clip, dataset, signal))
      samples.push({
        item,
        bucket,
        bucketIndex,
        dataset,
        clip,
        prompts: samplePrompts(caption, dataset, process.train, {
          count: process.kinora.caption_variants,
          random: captionNumbers(process.training_seed ?? 42, caption),
        }),
        mask: masks.get(key),
      })
    }
  }
  const clipHashes = new Map<string, string>()
  for (const clip of new Set(samples.map((sample) => sample.clip))) {
    try {
      clipHashes.set(clip, await hashFile(clip, signal))
    } catch (error) {
      signal?.throwIfAborted()
      if (!('code' in (error as object))) throw error
      // An unreadable clip is left out by whoever needs its frames, with its reason.
    }
  }
  return { plan, samples, clipHashes }
}

/** Every text that training on these samples may ask for, each once. */
export function promptsOf(samples: readonly Sample[], job: TrainJob): string[] {
  const { train } = job.config.process[0]
  const texts = new Set<string>()
  for (const { prompts, dataset } of samples) {
    texts.add(prompts.caption)
    for (const { caption, preservation } of prompts.variants ?? []) {
      texts.add(caption)
      if (preservation !== undefined) texts.add(preservation)
    }
    if (dataset.caption_dropout_rate > 0) texts.add(prompts.dropped)
    if (prompts.preservation) {
      texts.add(prompts.preservation.caption)
      if (dataset.caption_dropout_rate > 0) texts.add(prompts.preservation.dropped)
    }
  }
  if (train.do_guidance_loss) texts.add(train.unconditional_prompt)
  return [...texts].sort()
}
