import { describe, expect, it } from 'vitest'
import { learningRateFactor, type LearningRateOptions } from './learning-rate.ts'

const cases: [LearningRateOptions, [number, number][]][] = [
  [
    { schedule: 'constant', numSteps: 100 },
    [
      [0, 1],
      [99, 1],
    ],
  ],
  [
    { schedule: 'constant_with_warmup', numSteps: 100, warmupSteps: 10 },
    [
      [0, 0],
      [5, 0.5],
      [10, 1],
      [50, 1],
    ],
  ],
  [
    { schedule: 'cosine', numSteps: 100 },
    [
      [0, 1],
      [50, 0.5],
      [100, 0],
    ],
  ],
  [
    { schedule: 'cosine', numSteps: 100, leastFactor: 0.1 },
    [
      [0, 1],
      [50, 0.55],
      [100, 0.1],
    ],
  ],
  [
    { schedule: 'cosine_with_restarts', numSteps: 40 },
    [
      [0, 1],
      [20, 0.5],
      [40, 1],
      [60, 0.5],
    ],
  ],
  [
    { schedule: 'linear', numSteps: 100 },
    [
      [0, 1 / 3],
      [50, 2 / 3],
      [100, 1],
      [200, 1],
    ],
  ],
  [
    { schedule: 'linear', numSteps: 10, startFactor: 1, endFactor: 0 },
    [
      [0, 1],
      [5, 0.5],
      [10, 0],
    ],
  ],
]

describe('learning-rate schedules', () => {
  it.each(cases)('%j', (options, points) => {
    for (const [step, factor] of points) {
      expect(learningRateFactor(step, options)).toBeCloseTo(factor, 12)
    }
  })
})
