import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { readBucketPlan, readMetrics, type TrainJob } from '@kinora/config-schema'
import type { RunFiles } from '@kinora/run-log'
import { codeSystemError } from '@kinora/stage'
import { kinoraErrors } from '../lib/errors.ts'

/** What a run's folder holds for explaining it: metrics.jsonl, and the job and the plan where they are there. */
export async function readRun(folder: string): Promise<RunFiles> {
  const metrics = join(folder, 'metrics.jsonl')
  const text = await readFile(metrics, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') throw kinoraErrors.NO_RUN(folder)
    throw codeSystemError(error, metrics)
  })
  const planFile = join(folder, 'bucket-plan.json')
  const planText = await readFile(planFile, 'utf8').catch(() => undefined)
  return {
    entries: readMetrics(text, { fileName: metrics }),
    job: await readTrainedJob(folder),
    plan: planText === undefined ? undefined : readBucketPlan(planText, { fileName: planFile }),
  }
}

/** The job of a run with every default filled in, as the trainer wrote it down; undefined where it is not there. */
export async function readTrainedJob(folder: string): Promise<TrainJob | undefined> {
  const text = await readFile(join(folder, 'job.json'), 'utf8').catch(() => undefined)
  // Its values are the trainer's own; the schema reads what people write, aliases and all, and would not take them.
  return text === undefined ? undefined : (JSON.parse(text) as TrainJob)
}
