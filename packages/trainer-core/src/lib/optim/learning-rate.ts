// Learning-rate schedules, as factors of the job's rate. All are functions of the share of the run that is done, so each
// expert sees the same curve over its own steps as over the run's.

export type LearningRateSchedule =
  | 'constant'
  | 'cosine'
  | 'cosine_with_restarts'
  | 'linear'
  | 'constant_with_warmup'

export interface LearningRateOptions {
  schedule: LearningRateSchedule
  /** Steps the schedule lasts. */
  numSteps: number
  /** constant_with_warmup: steps of the rise from 0; 1000 unless given. */
  warmupSteps?: number | undefined
  /** cosine: lowest factor; 0 unless given. */
  leastFactor?: number | undefined
  /** linear: first and last factor; 1/3 and 1 unless given. */
  startFactor?: number | undefined
  endFactor?: number | undefined
}

/**
 * Factor of the learning rate at a step.
 *
 * @param step counts from 0
 */
export function learningRateFactor(step: number, options: LearningRateOptions): number {
  const { schedule, numSteps, leastFactor = 0, startFactor = 1 / 3, endFactor = 1 } = options
  switch (schedule) {
    case 'constant':
      return 1
    case 'constant_with_warmup':
      return Math.min(1, step / Math.max(options.warmupSteps ?? 1000, 1))
    case 'cosine':
      return leastFactor + (1 - leastFactor) * 0.5 * (1 + Math.cos((Math.PI * step) / numSteps))
    case 'cosine_with_restarts': {
      const within = (step % numSteps) / numSteps
      return leastFactor + (1 - leastFactor) * 0.5 * (1 + Math.cos(Math.PI * within))
    }
    case 'linear':
      return startFactor + (endFactor - startFactor) * Math.min(1, step / numSteps)
    default:
      return schedule satisfies never
  }
}
