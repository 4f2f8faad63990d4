import { describe, expect, it } from 'vitest'

import type { AdapterProfile } from '../device/adapter-profile.ts'
import { gradQSplits, planGradQ } from './attention-schedule.ts'

const limits = {
  maxBindingBytes: 2 ** 31 - 4,
  scratchBytes: 768 * 2 ** 20,
} as AdapterProfile['limits']

describe('the parts in which dS goes through memory', () => {
  it('are whole heads where they fit, enough to fill a large GPU', () => {
    expect(planGradQ({ B: 1, N: 11264, M: 11264, H: 40 }, limits)).toEqual({
      heads: 3,
      rows: 11264,
    })
    expect(planGradQ({ B: 1, N: 11264, M: 512, H: 40 }, limits)).toEqual({ heads: 40, rows: 11264 })
  })

  it('never take more than there is, and are rows of whole blocks', () => {
    for (const N of [25344, 32760, 45056, 75600]) {
      const { heads, rows } = planGradQ({ B: 1, N, M: N, H: 40 }, limits)!
      expect(heads * rows * N * 2).toBeLessThanOrEqual(limits.scratchBytes)
      expect(rows % 128).toBe(0)
      expect(heads * Math.ceil(N / 128)).toBeGreaterThanOrEqual(264)
    }
  })

  it('do not exist where rows would not lie on whole vectors, or nothing fits', () => {
    expect(planGradQ({ B: 1, N: 200, M: 133, H: 2 }, limits)).toBeUndefined()
    expect(
      planGradQ({ B: 1, N: 200, M: 256, H: 2 }, { ...limits, scratchBytes: 1000 }),
    ).toBeUndefined()
  })
})

it('keys are cut only where blocks of queries leave a GPU idle', () => {
  expect(gradQSplits(264, 11264)).toBe(1)
  expect(gradQSplits(59, 45056)).toBe(4)
  expect(gradQSplits(1, 512)).toBe(1)
})
