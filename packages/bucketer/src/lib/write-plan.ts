import { formatBucketPlan, type BucketPlan } from '@kinora/config-schema'
import { drain, parseOptions, writeFileAtomic, type StageEvent } from '@kinora/stage'
import { dirname, resolve } from 'node:path'
import type { BucketReport } from './bucket-report.ts'
import { bucketerErrors } from './errors.ts'
import { planBucketsOptions, type PlanBucketsOptions } from './options.ts'
import { planBuckets, type ClipSet } from './plan-buckets.ts'
import { readClipsIter, type ReadContext } from './read-clips.ts'

/** What a run of bucketer gives back. */
export interface PlannedBuckets {
  plan: BucketPlan
  report: BucketReport
  /** The plan's file; null for a dry run. */
  file: string | null
}

/** Reads the datasets, plans, and writes bucket-plan.json. Each clip left out is a `skipped` event. */
export async function* planBucketsIter(
  options: PlanBucketsOptions,
  context: ReadContext = {},
): AsyncGenerator<StageEvent, PlannedBuckets> {
  const resolved = parseOptions('BUCKETER', planBucketsOptions, options)
  const datasets = [
    ...(resolved.source === undefined ? [] : [{ source: resolved.source }]),
    ...(resolved.datasets ?? []),
  ]
  if (datasets.length === 0) throw bucketerErrors.NO_SOURCE()
  const planFolder = dirname(resolve(resolved.out))

  const sets: ClipSet[] = []
  for (const { source, ...settings } of datasets) {
    const images = ('images' in settings ? settings.images : undefined) ?? resolved.images
    const { clips, skipped } = yield* readClipsIter(resolve(source), planFolder, context, images)
    for (const { clip, reason, detail } of skipped)
      yield { type: 'skipped', item: clip, reason, detail }
    if (clips.length === 0) throw bucketerErrors.NO_CLIPS(source)
    sets.push({ clips, settings, skipped })
  }
  context.signal?.throwIfAborted()
  const numFaulty = sets.reduce((sum, { skipped = [] }) => sum + skipped.length, 0)
  if (numFaulty > (resolved.maxSkipped ?? Infinity)) {
    throw bucketerErrors.TOO_MANY_SKIPPED(numFaulty, resolved.maxSkipped!)
  }
  const { plan, report } = planBuckets(sets, options)
  const told = new Set(sets.flatMap(({ skipped = [] }) => skipped.map(({ clip }) => clip)))
  for (const { clip, resolution, reason, detail } of plan.skipped) {
    if (told.has(clip)) continue
    const item = resolution === undefined ? clip : `${clip} at ${resolution}`
    yield { type: 'skipped', item, reason, ...(detail !== undefined && { detail }) }
  }
  yield* report.warnings
  if (resolved.dryRun) return { plan, report, file: null }
  await writeFileAtomic(resolved.out, formatBucketPlan(plan))
  yield { type: 'note', message: `The plan is in ${resolved.out}.` }
  return { plan, report, file: resolve(resolved.out) }
}

/** `planBucketsIter` run to its end. */
export function writeBucketPlan(
  options: PlanBucketsOptions,
  context?: ReadContext,
): Promise<PlannedBuckets> {
  return drain(planBucketsIter(options, context))
}
