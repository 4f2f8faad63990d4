import type {
  BucketPlan,
  MetricsEntry,
  PreviewEntry,
  StepEntry,
  TrainJob,
  ValidationEntry,
} from '@kinora/config-schema'
import {
  trainingTrend,
  validationVerdict,
  type LossTrend,
  type ValidationVerdict,
} from './judge-loss.ts'
import { compareMotion, motionProfile, type MotionComparison } from './motion-profile.ts'
import { findSlowDown, type SlowDown } from './slow-down.ts'

export type Expert = 'high' | 'low'

/** What is known of a run: its metrics, and what else of its folder is there. */
export interface RunFiles {
  /** metrics.jsonl, in the order of the file. */
  entries: readonly MetricsEntry[]
  job?: TrainJob | undefined
  plan?: BucketPlan | undefined
}

/** How one expert does. */
export interface ExpertFacts {
  expert: Expert
  steps: readonly StepEntry[]
  /** Updates done, as the newest step counts them. */
  updates: number
  training: LossTrend
  validation: ValidationVerdict | undefined
}

/** A run in the terms that rules ask for. */
export interface RunFacts {
  name: string | undefined
  job: TrainJob | undefined
  plan: BucketPlan | undefined
  steps: readonly StepEntry[]
  /** Steps done, and steps to do. */
  step: number
  totalSteps: number | undefined
  finished: boolean
  /** Experts with steps, in the order high, low. */
  experts: readonly ExpertFacts[]
  /** What ended the run, where something did. */
  failure: Extract<MetricsEntry, { type: 'error' }> | undefined
  /** The newest preview of each step, in order. */
  previews: readonly PreviewEntry[]
  motion: MotionComparison | undefined
  slowDown: SlowDown | undefined
}

/** Prepares the facts. Lines that a resumed run wrote again count once, as they were last. */
export function runFacts({ entries, job, plan }: RunFiles): RunFacts {
  const byStep = new Map<number, StepEntry>()
  const previewsByStep = new Map<number, PreviewEntry>()
  const validations = new Map<number, ValidationEntry>()
  let failure: RunFacts['failure']
  let run: Extract<MetricsEntry, { type: 'run' }> | undefined
  for (const entry of entries) {
    switch (entry.type) {
      case 'step':
        byStep.set(entry.step, entry)
        failure = undefined
        break
      case 'preview':
        previewsByStep.set(entry.step, entry)
        break
      case 'validation':
        validations.set(entry.step, entry)
        break
      case 'error':
        failure = entry
        break
      case 'run':
        run = entry
        break
      case 'save':
        break
      default:
        entry satisfies never
    }
  }
  const inOrder = <T extends { step: number }>(map: ReadonlyMap<number, T>): T[] =>
    [...map.values()].toSorted((a, b) => a.step - b.step)
  const steps = inOrder(byStep)
  const curve = inOrder(validations)
  const previews = inOrder(previewsByStep)
  const step = steps.at(-1)?.step ?? run?.step ?? 0
  const totalSteps = run?.totalSteps ?? job?.config.process[0].train.steps
  return {
    name: typeof run?.['name'] === 'string' ? run['name'] : job?.config.name,
    job,
    plan,
    steps,
    step,
    totalSteps,
    finished: totalSteps !== undefined && step >= totalSteps,
    experts: (['high', 'low'] as const).flatMap((expert): ExpertFacts[] => {
      const own = steps.filter((entry) => entry.expert === expert)
      if (own.length === 0) return []
      return [
        {
          expert,
          steps: own,
          updates: own.at(-1)!.expertStep,
          training: trainingTrend(own),
          validation: validationVerdict(curve, expert),
        },
      ]
    }),
    failure,
    previews,
    motion: motionOf(previews),
    slowDown: findSlowDown(steps),
  }
}

/** Of the newest previews that were measured. */
function motionOf(previews: readonly PreviewEntry[]): MotionComparison | undefined {
  for (const { step, trained, files } of previews.toReversed()) {
    // What the base model does says nothing of the LoRA.
    if (step === 0 || !trained) continue
    const made = motionProfile(
      (files ?? []).flatMap(({ motion, multiplier }) =>
        motion && multiplier !== 0 ? [motion] : [],
      ),
    )
    if (made) return compareMotion(trained, made)
  }
  return undefined
}
