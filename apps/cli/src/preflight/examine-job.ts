import { planBucketsIter, type PlannedBuckets } from '@kinora/bucketer'
import { preflight, type PreflightFacts, type PreflightFinding } from '@kinora/config-schema'
import type { MediaProbe } from '@kinora/media'
import { isCodedError, type RunContext, type StageEvent } from '@kinora/stage'
import { planOptions } from '../lib/plan-job.ts'
import { jobWarnings, type JobFile } from '../lib/read-job.ts'
import { jobFolders } from '../lib/run-job.ts'
import { datasetFacts, findCheckpointFacts, findMissingFiles, rememberProbes } from './job-facts.ts'

/** All that can be said of a job before it runs. */
export interface JobExamination {
  job: string
  /** What was noticed while reading it, then errors and warnings of the rules. */
  findings: PreflightFinding[]
  /** What was known of clips and checkpoint. */
  facts: {
    datasets: { numClips: number; medianSeconds?: number | undefined; numCaptions: number }[]
    checkpoint: PreflightFacts['checkpoint']
  }
}

/**
 * Looks at a job and everything it names, and writes nothing: clips are planned as a dry run, the checkpoint's headers are read
 * where it is a folder. What cannot be looked at is a finding like the others.
 *
 * @param device what is known of the device; rules without it say nothing of memory
 */
export async function* examineJobIter(
  jobFile: JobFile,
  device: PreflightFacts['device'],
  { signal }: RunContext,
): AsyncGenerator<StageEvent, JobExamination> {
  const { file, job } = jobFile
  const failed: PreflightFinding[] = []
  const attempt = async <T>(look: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await look()
    } catch (error) {
      signal?.throwIfAborted()
      if (!isCodedError(error)) throw error
      const { code, message, fix } = error
      failed.push({ code, severity: 'error', message, fix })
      return undefined
    }
  }
  const missingFiles = await findMissingFiles(job)
  const checkpoint = await attempt(() => findCheckpointFacts(job.config.process[0], { signal }))
  const { plan: planFile } = jobFolders(job)
  const probes = new Map<string, MediaProbe>()
  const planned =
    missingFiles.length > 0
      ? undefined
      : yield* planQuietly(jobFile, planFile, probes, failed, { signal })
  const facts: PreflightFacts = {
    missingFiles,
    checkpoint,
    device,
    ...(planned
      ? {
          plan: planned.plan,
          datasets: await datasetFacts(job, planned.plan, planFile, probes),
        }
      : {}),
  }
  const findings = [...failed, ...preflight(job, facts)]
  const notices = jobWarnings(job).map(({ code, message, fix }): PreflightFinding => ({
    code,
    severity: 'warning',
    message,
    fix,
  }))
  return {
    job: file,
    findings: [
      ...findings.filter(({ severity }) => severity === 'error'),
      ...notices,
      ...findings.filter(({ severity }) => severity === 'warning'),
    ],
    facts: {
      checkpoint,
      datasets: (facts.datasets ?? []).map(({ numClips, medianSeconds, captions = [] }) => ({
        numClips,
        medianSeconds,
        numCaptions: captions.filter((caption) => caption !== null).length,
      })),
    },
  }
}

/** A dry run of the plan; its progress is shown, and its refusal is a finding. */
async function* planQuietly(
  { job }: JobFile,
  planFile: string,
  probes: Map<string, MediaProbe>,
  failed: PreflightFinding[],
  { signal }: RunContext,
): AsyncGenerator<StageEvent, PlannedBuckets | undefined> {
  try {
    const planning = planBucketsIter(
      { ...planOptions(job, planFile), dryRun: true },
      { signal, probe: rememberProbes(probes) },
    )
    let next = await planning.next()
    while (!next.done) {
      if (next.value.type !== 'note') yield next.value
      next = await planning.next()
    }
    return next.value
  } catch (error) {
    signal?.throwIfAborted()
    if (!isCodedError(error)) throw error
    const { code, message, fix } = error
    failed.push({ code, severity: 'error', message, fix })
    return undefined
  }
}
