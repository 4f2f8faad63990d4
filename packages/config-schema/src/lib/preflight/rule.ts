import type { BucketPlan } from '../bucket-plan.ts'
import type { Goal, TrainJob, TrainProcess } from '../train-job-schema.ts'

/** What is known of the world around a job. All of it may be absent: a rule that lacks its facts says nothing. */
export interface PreflightFacts {
  /** Overrides `kinora.goal` of the job. */
  goal?: Goal | undefined
  /** One entry for each dataset of the job, in its order. */
  datasets?: readonly DatasetFacts[] | undefined
  plan?: BucketPlan | undefined
  /** Files of the job that were looked for and not found, as the job spells them. */
  missingFiles?: readonly string[] | undefined
  checkpoint?: { boundaryRatio: number; expertParameters: number } | undefined
  device?: { memoryBytes: number; hasF16: boolean } | undefined
}

/** What is known of the clips of a dataset. */
export interface DatasetFacts {
  numClips: number
  /** Median duration of the clips, in seconds. */
  medianSeconds?: number | undefined
  /** Most pixels a frame of any clip has. */
  maxPixels?: number | undefined
  /** Caption of each clip as it stands in its file; null where it has none. */
  captions?: readonly (string | null)[] | undefined
}

/** Something a rule has to say. */
export interface PreflightFinding {
  /** Permanent, `PREFLIGHT_…`. */
  code: string
  /** `error`: it would fail or be for nothing. `warning`: it would disappoint. */
  severity: 'error' | 'warning'
  /** What is the matter, with the numbers. */
  message: string
  /** What to do about it. */
  fix: string
}

/** What a rule looks at. */
export interface PreflightSubject {
  process: TrainProcess
  job: TrainJob
  facts: PreflightFacts
  goal: Goal | undefined
  /** Whether each expert is trained. */
  trains: { high: boolean; low: boolean; both: boolean }
  /** Clips of the sets that are learned from; undefined where not known. */
  numClips: number | undefined
  /** Updates each trained expert gets. */
  updates: { high: number; low: number }
}

/** A rule: what it is about, and what it says of a job. */
export interface PreflightRule {
  code: string
  severity: PreflightFinding['severity']
  /** For the table in the documentation: when the rule speaks, and why. */
  about: string
  check: (subject: PreflightSubject) => readonly Pick<PreflightFinding, 'message' | 'fix'>[]
}

export const nothing: readonly never[] = []

/** One finding where the condition holds. */
export function when(
  condition: boolean,
  message: string,
  fix: string,
): readonly Pick<PreflightFinding, 'message' | 'fix'>[] {
  return condition ? [{ message, fix }] : nothing
}

/** The work of a job in the terms that rules ask for. */
export function subjectOf(job: TrainJob, facts: PreflightFacts): PreflightSubject {
  const [process] = job.config.process
  const { train_high_noise: high, train_low_noise: low } = process.model.model_kwargs
  const both = high && low
  const share = both ? (process.kinora.high_noise_share ?? 0.5) : high ? 1 : 0
  const learned = facts.datasets?.filter((_, index) => !process.datasets[index]?.is_reg)
  return {
    process,
    job,
    facts,
    goal: facts.goal ?? process.kinora.goal ?? undefined,
    trains: { high, low, both },
    numClips: learned?.reduce((sum, set) => sum + set.numClips, 0),
    updates: {
      high: Math.round(process.train.steps * share),
      low: Math.round(process.train.steps * (1 - share)),
    },
  }
}
