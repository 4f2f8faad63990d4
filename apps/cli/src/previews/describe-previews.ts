import { dirname, join, relative, sep } from 'node:path'
import type { PreviewEntry, TrainJob, TrainSampleItem } from '@kinora/config-schema'
import type { MotionProfile } from '@kinora/run-log'
import type { RunContext } from '@kinora/stage'
import { writeCheckpointSheets } from './checkpoint-sheet.ts'
import { listPreviews, meanChange, readPreview } from './preview-files.ts'
import { summariseMotion } from './summarise-motion.ts'
import { trainedMotion } from './trained-motion.ts'

/** What a `preview` entry of the metrics says beside its step. */
export interface PreviewFacts extends Record<string, unknown> {
  files: NonNullable<PreviewEntry['files']>
  trained?: MotionProfile
  /** Relative to the folder of the run. */
  sheets: string[]
}

interface DescribedRun {
  job: TrainJob
  /** bucket-plan.json. */
  plan: string
  /** Folder of the previews, inside the folder of the run. */
  samples: string
  step: number
  /** The job's samples, in the order of the previews. */
  items: readonly Pick<TrainSampleItem, 'fps' | 'network_multiplier'>[]
}

/**
 * Measures the previews of a step: how they move, beside how the samples that were trained on move; and how far they are from the
 * first ones. Draws the sheets again.
 */
export async function describePreviews(
  { job, plan, samples, step, items }: DescribedRun,
  { signal }: RunContext,
): Promise<PreviewFacts> {
  const run = dirname(samples)
  const name = (path: string): string => relative(run, path).split(sep).join('/')
  const all = await listPreviews(samples)
  const files: NonNullable<PreviewEntry['files']> = []
  for (const { index, path } of all.filter((preview) => preview.step === step)) {
    const frames = await readPreview(path, { signal })
    const first = all.find((preview) => preview.index === index)!
    const change =
      first.step === step
        ? undefined
        : meanChange(await readPreview(first.path, { signal }), frames)
    files.push({
      file: name(path),
      ...(items[index] ? { multiplier: items[index].network_multiplier } : {}),
      motion: await summariseMotion(frames, items[index]?.fps ?? 16),
      ...(change === undefined ? {} : { change: Math.round(change * 100) / 100 }),
    })
  }
  const trained = await trainedMotion(job, plan, join(run, 'clip-motion.json'), { signal })
  const sheets = await writeCheckpointSheets(samples, { signal })
  return { files, ...(trained ? { trained } : {}), sheets: sheets.map((file) => name(file)) }
}
