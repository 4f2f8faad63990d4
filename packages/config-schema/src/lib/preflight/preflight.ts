import type { TrainJob } from '../train-job-schema.ts'
import { dataRules } from './data-rules.ts'
import {
  subjectOf,
  type PreflightFacts,
  type PreflightFinding,
  type PreflightRule,
} from './rule.ts'
import { sampleRules } from './sample-rules.ts'
import { trainingRules } from './training-rules.ts'

/** Every rule, for the table in the documentation. Codes are permanent. */
export const preflightRules: readonly PreflightRule[] = [
  ...dataRules,
  ...trainingRules,
  ...sampleRules,
].map((rule) => ({ ...rule, code: `PREFLIGHT_${rule.code}` }))

/**
 * What is wrong with a job before any work starts: errors that would fail, warnings that would disappoint.
 *
 * Pure: what lies on disk and what the device has is told in `facts`, and a rule without its facts says nothing.
 *
 * @returns errors first, each kind in the order of the rules
 */
export function preflight(job: TrainJob, facts: PreflightFacts = {}): PreflightFinding[] {
  const subject = subjectOf(job, facts)
  const findings = preflightRules.flatMap(({ code, severity, check }) =>
    check(subject).map(({ message, fix }) => ({ code, severity, message, fix })),
  )
  return [
    ...findings.filter(({ severity }) => severity === 'error'),
    ...findings.filter(({ severity }) => severity === 'warning'),
  ]
}
