import type { Bucket, BucketPlan, PlanItem } from '@kinora/config-schema'
import { parseOptions } from '@kinora/stage'
import { assignClip, draw, parseSizes, type PlanClip, type SkipReason } from './assign-clip.ts'
import { reportBuckets, type BucketReport } from './bucket-report.ts'
import { bucketerErrors } from './errors.ts'
import { snapNumFrames } from './frame-times.ts'
import {
  planBucketsOptions,
  type DatasetOptions,
  type DatasetSettings,
  type PlanBucketsOptions,
  type ResolvedOptions,
} from './options.ts'

/** The clips of one dataset and what it sets otherwise than the job. */
export interface ClipSet {
  clips: readonly PlanClip[]
  settings?: Omit<DatasetOptions, 'source'>
  /** Files that were left out before planning. */
  skipped?: readonly { clip: string; reason: SkipReason; detail?: string }[]
}

/**
 * Lays clips out in buckets: which frames of which clip are used, at which size, and what is left out. Pure: no disk, no
 * clock; the order of the clips does not matter. Throws a coded error for options that cannot work, for no clips at all
 * and where no clip fits.
 *
 * @returns the plan, as it is written to bucket-plan.json, and what a person wants to know of it
 */
export function planBuckets(
  datasets: readonly ClipSet[],
  options: PlanBucketsOptions = {},
): { plan: BucketPlan; report: BucketReport } {
  const resolved = parseOptions('BUCKETER', planBucketsOptions, options)
  const settings = datasets.map((dataset) => datasetSettings(resolved, dataset.settings ?? {}))
  const numClips = datasets.reduce((sum, { clips }) => sum + clips.length, 0)
  if (numClips === 0) throw bucketerErrors.NO_CLIPS(resolved.source ?? 'The dataset')

  const buckets = new Map<string, OpenBucket>()
  const skipped: BucketPlan['skipped'] = []
  datasets.forEach(({ clips, skipped: before = [] }, dataset) => {
    skipped.push(...before)
    for (const clip of clips.toSorted((a, b) => compare(a.file, b.file))) {
      placeClip(clip, dataset, settings[dataset]!, buckets, skipped)
    }
  })
  if (buckets.size === 0) throw bucketerErrors.NO_BUCKET_FITS(numClips, countReasons(skipped))

  const closed = [...buckets.values()].toSorted(byBucket).map((open) => closeBucket(open, resolved))
  for (const { bucket, dropped } of closed) {
    for (const { clip } of dropped) {
      const detail = `One sample of the bucket ${bucket.width}x${bucket.height}, which filled no batch of ${bucket.batchSize}.`
      skipped.push({ clip, resolution: bucket.resolution, reason: 'leftover', detail })
    }
  }
  const plan: BucketPlan = {
    version: 1,
    tool: 'bucketer',
    fps: resolved.fps,
    options: resolved,
    buckets: closed.map(({ bucket }) => bucket).filter(({ items }) => items.length > 0),
    skipped: skipped.toSorted(
      (a, b) => compare(a.clip, b.clip) || (a.resolution ?? 0) - (b.resolution ?? 0),
    ),
  }
  if (plan.buckets.length === 0) {
    throw bucketerErrors.NO_BUCKET_FITS(numClips, countReasons(skipped))
  }
  const filled = closed.filter(({ bucket }) => bucket.items.length > 0).map((each) => each.filled)
  return { plan, report: reportBuckets(plan, datasets, settings, filled) }
}

/** A dataset's own settings over the job's, checked and with its lengths snapped to 4n+1. */
function datasetSettings(
  job: ResolvedOptions,
  own: Omit<DatasetOptions, 'source'>,
): DatasetSettings {
  const {
    source: _source,
    datasets: _datasets,
    out: _out,
    dryRun: _dryRun,
    maxSkipped: _maxSkipped,
    ...defaults
  } = job
  const overrides = Object.fromEntries(
    Object.entries(own).filter(([, value]) => value !== undefined),
  ) as Partial<typeof defaults>
  const merged = { ...defaults, ...overrides }
  // A dataset that names resolutions wants them, whatever sizes the job has.
  if (own.resolutions && !own.sizes) delete merged.sizes
  const frameMode = merged.frameMode ?? (job.rule === 'ai-toolkit' ? 'uniform' : 'real-time')
  const asked = [merged.numFrames].flat()
  for (const numFrames of asked) {
    if (merged.strict && snapNumFrames(numFrames) !== numFrames && !merged.autoNumFrames) {
      throw bucketerErrors.NUM_FRAMES_NOT_4N_PLUS_1(numFrames)
    }
  }
  for (const { width, height } of parseSizes(merged.sizes ?? [])) {
    if (width % merged.divisor > 0 || height % merged.divisor > 0 || width * height === 0) {
      throw bucketerErrors.SIZE_NOT_MULTIPLE(width, height, merged.divisor)
    }
  }
  // AI Toolkit has no such modes, so there is no arithmetic of its own to follow.
  const ownMode = frameMode === 'slide' || frameMode === 'chunk'
  const followed = merged.frameRule ?? (job.rule === 'ai-toolkit' ? 'ai-toolkit' : 'by-time')
  return {
    ...merged,
    frameMode,
    frameRule: ownMode ? 'by-time' : followed,
    askedNumFrames: asked,
    numFrames: [...new Set(asked.map(snapNumFrames))].toSorted((a, b) => b - a),
  }
}

interface OpenBucket {
  bucket: Omit<Bucket, 'items'>
  /** Buckets of several datasets are one, unless the rule keeps them apart. */
  dataset: number | undefined
  regularisation: boolean
  items: PlanItem[]
}

function placeClip(
  clip: PlanClip,
  dataset: number,
  settings: DatasetSettings,
  buckets: Map<string, OpenBucket>,
  skipped: BucketPlan['skipped'],
): void {
  // With sizes there is one round, whose resolution follows from the size.
  const resolutions = settings.sizes ? [undefined] : settings.resolutions.toSorted((a, b) => a - b)
  const sizesSeen = new Map<string, number>()
  for (const resolution of resolutions) {
    const assigned = assignClip(clip, dataset, settings, resolution)
    const leaveOut = (reason: SkipReason, detail: string): void => {
      skipped.push({
        clip: clip.file,
        ...(resolution !== undefined && { resolution }),
        reason,
        detail,
      })
    }
    if ('reason' in assigned) {
      leaveOut(assigned.reason, assigned.detail)
      continue
    }
    const { width, height, numFrames } = assigned.bucket
    const size = `${width}x${height}`
    const before = sizesSeen.get(size)
    if (before !== undefined && settings.rule === 'area') {
      leaveOut('same-size', `It is ${size} at ${before} already.`)
      continue
    }
    sizesSeen.set(size, assigned.bucket.resolution)
    const { batchSize, regularisation } = settings
    const apart = settings.rule === 'ai-toolkit' ? dataset : undefined
    const key = [assigned.bucket.resolution, size, numFrames, batchSize, regularisation, apart]
    const open = buckets.get(key.join(' ')) ?? {
      bucket: { ...assigned.bucket, batchSize },
      dataset: apart,
      regularisation,
      items: [],
    }
    open.items.push(...assigned.items)
    buckets.set(key.join(' '), open)
  }
}

function byBucket(a: OpenBucket, b: OpenBucket): number {
  return (
    Number(a.regularisation) - Number(b.regularisation) ||
    a.bucket.resolution - b.bucket.resolution ||
    b.bucket.width - a.bucket.width ||
    b.bucket.height - a.bucket.height ||
    b.bucket.numFrames - a.bucket.numFrames ||
    a.bucket.batchSize - b.bucket.batchSize ||
    (a.dataset ?? 0) - (b.dataset ?? 0)
  )
}

/** Deals with the samples that fill no batch. `filled` counts those that were repeated for it. */
function closeBucket(
  { bucket, items }: OpenBucket,
  { lastBatch, seed }: ResolvedOptions,
): { bucket: Bucket; filled: number; dropped: PlanItem[] } {
  const left = items.length % bucket.batchSize
  if (left === 0 || lastBatch === 'short') {
    return { bucket: { ...bucket, items }, filled: 0, dropped: [] }
  }
  const shuffled = items
    .map((item, index) => ({
      item,
      index,
      at: draw(seed, { ...noClip, file: item.clip }, index, 'batch'),
    }))
    .toSorted((a, b) => a.at - b.at || a.index - b.index)
  if (lastBatch === 'drop') {
    const dropped = new Set(shuffled.slice(0, left).map(({ index }) => index))
    return {
      bucket: { ...bucket, items: items.filter((_, index) => !dropped.has(index)) },
      filled: 0,
      dropped: items.filter((_, index) => dropped.has(index)),
    }
  }
  const missing = bucket.batchSize - left
  const extra = Array.from({ length: missing }, (_, k) => shuffled[k % shuffled.length]!.index)
  // A repeated sample stands beside the first of its kind, which keeps the order by clip.
  const counts = new Map<number, number>()
  for (const index of extra) counts.set(index, (counts.get(index) ?? 0) + 1)
  return {
    bucket: {
      ...bucket,
      items: items.flatMap((item, index) => Array(1 + (counts.get(index) ?? 0)).fill(item)),
    },
    filled: missing,
    dropped: [],
  }
}

const noClip: PlanClip = { file: '', width: 1, height: 1, fps: 1, numFrames: 1 }

function countReasons(skipped: BucketPlan['skipped']): string {
  const counts = new Map<string, number>()
  for (const { reason } of skipped) counts.set(reason, (counts.get(reason) ?? 0) + 1)
  return [...counts].map(([reason, count]) => `${count} ${reason}`).join(', ')
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
