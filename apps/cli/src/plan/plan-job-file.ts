import { planBucketsIter, type PlanBucketsOptions, type PlannedBuckets } from '@kinora/bucketer'
import type { TrainJob } from '@kinora/config-schema'
import { probe } from '@kinora/media'
import type { RunContext, StageEvent } from '@kinora/stage'
import { computeDtype, plannedTimesteps } from '@kinora/trainer-core'
import { kinoraErrors } from '../lib/errors.ts'
import { planOptions } from '../lib/plan-job.ts'
import { jobWarnings, readJob } from '../lib/read-job.ts'
import { jobFolders } from '../lib/run-job.ts'
import { findCheckpointFacts } from '../preflight/job-facts.ts'
import { openBackendIter, type BackendChoice } from '../lib/open-backend.ts'
import { findSpeedIter } from './device-speed-file.ts'
import { estimateJob, type JobEstimate } from './estimate-job.ts'
import { binTimesteps, drawTimesteps, type TimestepBin } from './draw-timesteps.ts'

/** A job's buckets, and the timesteps it will draw. */
export interface PlannedJob extends PlannedBuckets {
  timesteps: { boundary: number; bins: TimestepBin[]; drawing: string }
  /** Undefined where no clip is left to train on. */
  estimate: JobEstimate | undefined
}

/** Of the I2V release; taken where the checkpoint is not at hand. */
const releasedBoundary = 0.9

/** Whether what is to be planned is a job file, not a folder of clips. */
export function isJobFile(source: string | undefined): source is string {
  return source !== undefined && /\.(ya?ml|jsonc?)$/i.test(source)
}

/**
 * Plans a job as training would: its buckets by the settings of its datasets, its timesteps by trainer-core's own sampling. The
 * plan is written only where `out` says so.
 */
export async function* planJobFileIter(
  file: string,
  options: Omit<PlanBucketsOptions, 'source'>,
  device: BackendChoice & { vram?: number | undefined },
  { signal }: RunContext,
): AsyncGenerator<StageEvent, PlannedJob> {
  const { out, dryRun, ...others } = options
  const given = Object.keys(others)
  if (given.length > 0) throw kinoraErrors.PLANNED_BY_JOB(file, given)
  const jobFile = await readJob(file)
  const { job } = jobFile
  yield* jobWarnings(job)
  const planned = yield* planBucketsIter(
    {
      ...planOptions(job, out ?? jobFolders(job).plan),
      dryRun: out === undefined || dryRun === true,
    },
    { signal, probe },
  )
  const process = job.config.process[0]
  const checkpoint = await findCheckpointFacts(process, { signal })
  const boundary = process.kinora.boundary ?? checkpoint?.boundaryRatio ?? releasedBoundary
  const timesteps = plannedTimesteps(job, boundary)
  return {
    ...planned,
    estimate:
      planned.plan.buckets.length === 0
        ? undefined
        : yield* estimateIter(job, planned, device, { signal }),
    timesteps: {
      boundary,
      bins: binTimesteps(timesteps),
      drawing: drawTimesteps(timesteps, boundary),
    },
  }
}

/** Opens the device that would be trained on, to see what it is and how fast; nothing is loaded. */
async function* estimateIter(
  job: TrainJob,
  { plan }: PlannedBuckets,
  { vram, ...backend }: BackendChoice & { vram?: number | undefined },
  { signal }: RunContext,
): AsyncGenerator<StageEvent, JobEstimate> {
  const device = yield* openBackendIter(backend)
  try {
    const speed = yield* findSpeedIter(device, computeDtype(job.config.process[0], device))
    const memoryBytes = vram === undefined ? undefined : 2 ** 30 * vram
    return await estimateJob(job, plan, device, { memoryBytes, speed, signal })
  } finally {
    device.destroy()
  }
}
