import { join } from 'node:path'
import { planBucketsIter } from '@kinora/bucketer'
import { checkPush } from '@kinora/exporter'
import { preflight, type PreflightFinding, type TrainJob } from '@kinora/config-schema'
import type { Device } from '@kinora/kernel-api'
import { checkFfmpeg, checkVideoOutput, type MediaProbe } from '@kinora/media'
import { lockFolder, writeFileAtomic, type RunContext, type StageEvent } from '@kinora/stage'
import { cacheDatasetIter, type CacheDatasetResult } from '@kinora/trainer-core'
import { openCheckpoint } from '@kinora/wan'
import {
  checkpointFacts,
  datasetFacts,
  findMissingFiles,
  rememberProbes,
} from '../preflight/job-facts.ts'
import { kinoraErrors } from './errors.ts'
import { planOptions, validationPlanOptions } from './plan-job.ts'
import { jobWarnings, type JobFile } from './read-job.ts'

/** Where a job's files lie. */
export interface JobFolders {
  /** `training_folder/name`. */
  out: string
  /** bucket-plan.json. */
  plan: string
  cacheDir: string
}

export function jobFolders(job: TrainJob): JobFolders {
  const {
    name,
    process: [process],
  } = job.config
  const out = join(process.training_folder, name)
  return {
    out,
    plan: join(out, 'bucket-plan.json'),
    cacheDir: process.kinora.cache_dir ?? join(out, 'cache'),
  }
}

/** Finds before the work what would end it later: no ffmpeg, a checkpoint that does not fit, previews without a first frame. */
export async function* checkJobIter(
  { file, job }: JobFile,
  { signal }: RunContext,
): AsyncGenerator<StageEvent, void> {
  yield* jobWarnings(job)
  const { sample, first_sample, model, save } = job.config.process[0]
  const missingFiles = await findMissingFiles(job)
  yield* reportFindings(file, preflight(job, { missingFiles }))
  const previews = [sample, first_sample].filter((list) => list !== null && list !== undefined)
  for (const { format, samples } of previews) {
    const longest = Math.max(1, ...samples.map(({ num_frames }) => num_frames))
    if (longest > 1 && (format === 'jpg' || format === 'png')) {
      throw kinoraErrors.PREVIEW_FORMAT(format, longest)
    }
  }
  if (save.push_to_hub) checkPush(save.hf_repo_id!)
  await checkFfmpeg()
  for (const { format, samples } of previews) {
    if (samples.length > 0 && (format === 'mp4' || format === 'webp')) {
      await checkVideoOutput(`.${format}`)
    }
  }
  const checkpoint = checkpointFacts(await openCheckpoint(model.name_or_path, { signal }))
  yield* reportFindings(file, newFindings(preflight(job, { checkpoint }), preflight(job)))
}

function* reportFindings(
  file: string,
  findings: readonly PreflightFinding[],
): Generator<StageEvent, void> {
  const errors = findings.filter(({ severity }) => severity === 'error')
  if (errors.length > 0) {
    throw kinoraErrors.PREFLIGHT(
      file,
      errors.map(({ code, message, fix }) => `${code}: ${message} ${fix}`),
    )
  }
  for (const { code, message, fix } of findings) yield { type: 'warning', code, message, fix }
}

/** What the facts of a later moment add to what was said before. */
function newFindings(
  now: readonly PreflightFinding[],
  before: readonly PreflightFinding[],
): PreflightFinding[] {
  const said = new Set(before.map(({ code, message }) => code + message))
  return now.filter(({ code, message }) => !said.has(code + message))
}

/** A clip that was left out because its file gives no frames. */
export interface UnreadableClip {
  clip: string
  reason: string
}

/**
 * Plans a job's buckets, and says what the plan shows to be wrong with the job. The job's folder is locked meanwhile.
 *
 * @returns clips that cannot be read, which the plan leaves out
 */
export async function* planJobIter(
  { file, text, job }: JobFile,
  { signal }: RunContext,
): AsyncGenerator<StageEvent, UnreadableClip[]> {
  const { out, plan: planFile } = jobFolders(job)
  await using _lock = await lockFolder(out)
  await writeFileAtomic(join(out, 'config.yaml'), text)
  const probes = new Map<string, MediaProbe>()
  const { plan } = yield* planBucketsIter(planOptions(job, planFile), {
    signal,
    probe: rememberProbes(probes),
  })
  yield* planValidationIter(job, signal)
  const datasets = await datasetFacts(job, plan, planFile, probes)
  yield* reportFindings(file, newFindings(preflight(job, { plan, datasets }), preflight(job)))
  const unreadable = plan.skipped
    .filter(({ reason }) => reason === 'unreadable' || reason === 'missing-file')
    .map(({ clip, reason, detail }) => ({ clip, reason: detail ?? reason }))
  const { max_skipped } = job.config.process[0].kinora
  if (max_skipped !== null && unreadable.length > max_skipped) {
    throw kinoraErrors.TOO_MANY_SKIPPED(unreadable.length, max_skipped)
  }
  return unreadable
}

/** Plans the clips of `kinora.validation.folder`, into validation-plan.json beside the job's plan. */
async function* planValidationIter(
  job: TrainJob,
  signal: AbortSignal | undefined,
): AsyncGenerator<StageEvent, void> {
  const file = join(jobFolders(job).out, 'validation-plan.json')
  const wanted = validationPlanOptions(job, file)
  if (!wanted) return
  const { plan } = yield* planBucketsIter(wanted.options, {
    signal,
    probe: rememberProbes(new Map()),
  })
  // A sample's captions are read as its set in the job says.
  const buckets = plan.buckets.map((bucket) => ({
    ...bucket,
    items: bucket.items.map((item) => ({ ...item, dataset: wanted.dataset })),
  }))
  await writeFileAtomic(file, `${JSON.stringify({ ...plan, buckets }, null, 2)}\n`)
}

/** What is said at the end of a run that left clips out. */
export function* tellSkipped(numSkipped: number): Generator<StageEvent, void> {
  if (numSkipped === 0) return
  const clips = numSkipped === 1 ? 'clip' : 'clips'
  yield {
    type: 'note',
    message: `${numSkipped} ${clips} could not be read and took no part; each is named above.`,
  }
}

/** Fills the cache of a planned job. The job's folder is locked meanwhile. */
export async function* cacheJobIter(
  { job }: JobFile,
  { device, signal }: RunContext & { device: Device },
): AsyncGenerator<StageEvent, CacheDatasetResult> {
  const { out, plan, cacheDir } = jobFolders(job)
  await using _lock = await lockFolder(out)
  return yield* cacheDatasetIter({ job, plan, cacheDir }, { device, signal })
}
