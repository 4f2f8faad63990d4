import type { LossTrend, ValidationVerdict } from './judge-loss.ts'
import type { MotionComparison } from './motion-profile.ts'
import { explainRules, type RunFinding } from './rules.ts'
import { runFacts, type Expert, type ExpertFacts, type RunFiles } from './run-facts.ts'

/** What one expert's curves come to. */
export interface ExpertVerdict {
  expert: Expert
  updates: number
  training: LossTrend
  validation: ValidationVerdict | null
  /** One sentence: still improving, flat, overfitting since step N. */
  sentence: string
}

/** What a run shows, for a program and, through `formatDiagnosis`, for a person. */
export interface RunDiagnosis {
  name: string | null
  step: number
  totalSteps: number | null
  experts: ExpertVerdict[]
  motion: MotionComparison | null
  /** Problems first. */
  findings: RunFinding[]
}

/**
 * Says what a run's metrics show: how each expert does, how previews move beside the clips, and which known symptoms there are
 * with what to change. Pure: the same files give the same words.
 */
export function explainRun(files: RunFiles): RunDiagnosis {
  const facts = runFacts(files)
  const findings = explainRules.flatMap(({ code, severity, check }) =>
    check(facts).map((found) => ({ code, severity, ...found })),
  )
  return {
    name: facts.name ?? null,
    step: facts.step,
    totalSteps: facts.totalSteps ?? null,
    experts: facts.experts.map((expert) => ({
      expert: expert.expert,
      updates: expert.updates,
      training: expert.training,
      validation: expert.validation ?? null,
      sentence: verdictOf(expert),
    })),
    motion: facts.motion ?? null,
    findings: [
      ...findings.filter(({ severity }) => severity === 'problem'),
      ...findings.filter(({ severity }) => severity === 'hint'),
    ],
  }
}

function verdictOf({ expert, updates, training, validation }: ExpertFacts): string {
  const who = `${expert === 'high' ? 'High' : 'Low'} noise (${updates} updates):`
  const { trend, recentChange } = training
  const share = `${Math.abs(100 * recentChange).toFixed(1)} %`
  const inTraining = {
    improving: `training loss ${share} lower over the last half`,
    flat: 'training loss flat',
    rising: `training loss rising, ${share} over the last half`,
    unknown: 'too few steps for a trend of the training loss',
  }[trend]
  if (!validation || validation.trend === 'unknown') {
    const verdict = { improving: 'still improving', flat: 'flat', rising: 'getting worse' }
    return trend === 'unknown'
      ? `${who} ${inTraining}.`
      : `${who} ${verdict[trend]}; ${inTraining}.`
  }
  const { bestStep, bestLoss, lastLoss } = validation
  const verdict = {
    improving: 'still improving',
    flat: 'flat',
    overfitting: `overfitting since step ${bestStep}`,
  }[validation.trend]
  const best =
    bestLoss === lastLoss
      ? `held-out loss ${lastLoss.toPrecision(4)}, the lowest yet`
      : `held-out loss ${lastLoss.toPrecision(4)}, lowest at step ${bestStep} (${bestLoss.toPrecision(4)})`
  return `${who} ${verdict}; ${best}; ${inTraining}.`
}

/** A diagnosis as a person reads it. */
export function formatDiagnosis({
  name,
  step,
  totalSteps,
  experts,
  motion,
  findings,
}: RunDiagnosis): string {
  const progress =
    totalSteps === null
      ? `step ${step}`
      : `step ${step} of ${totalSteps} (${Math.round((100 * step) / totalSteps)} %)`
  const lines = [`${name ?? 'Run'}: ${progress}`, ...experts.map(({ sentence }) => sentence)]
  if (motion) lines.push(`Motion: ${motion.sentence}`)
  if (findings.length === 0) lines.push('', 'No known symptom.')
  for (const { code, severity, message, change } of findings) {
    lines.push('', `${severity} ${code}`, `  ${message}`, `  ${change}`)
  }
  return `${lines.join('\n')}\n`
}
