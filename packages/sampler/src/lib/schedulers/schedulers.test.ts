import { describe, expect, test } from 'vitest'
import { schedulers, type SchedulerName } from './schedulers.ts'

describe('schedules', () => {
  const timesteps = (scheduler: SchedulerName, numSteps: number, shift: number) =>
    schedulers[scheduler]({ numSteps, shift }).schedule.timesteps

  // From the table of reference values: current diffusers, 40 steps.
  test('unipc at shift 3 meets t = 900 exactly, which counts as high noise', () => {
    const t = timesteps('unipc', 40, 3)
    expect(t.slice(0, 12)).toEqual([999, 991, 982, 973, 964, 954, 944, 934, 923, 911, 900, 887])
    expect(t.filter((value) => value >= 900)).toHaveLength(11)
  })

  test('unipc at shift 5', () => {
    const t = timesteps('unipc', 40, 5)
    expect(t.slice(-3)).toEqual([291, 211, 117])
    expect(t.filter((value) => value >= 900)).toHaveLength(15)
  })

  test('euler, 4 steps at shift 5', () => {
    const expected = [1000, 909.707, 717.317, 24.414]
    timesteps('euler', 4, 5).forEach((t, i) => expect(t).toBeCloseTo(expected[i]!, 2))
  })

  test('euler-linear, 4 steps at shift 5: two of them high noise', () => {
    const expected = [1000, 937.5, 833.333, 625]
    timesteps('euler-linear', 4, 5).forEach((t, i) => expect(t).toBeCloseTo(expected[i]!, 2))
  })

  test.each(Object.keys(schedulers) as SchedulerName[])(
    '%s falls strictly from noise to 0, also in one step',
    (scheduler) => {
      for (const numSteps of [1, 2, 3, 25]) {
        const { sigmas, timesteps: t } = schedulers[scheduler]({ numSteps, shift: 5 }).schedule
        expect([t.length, sigmas.length, sigmas.at(-1)]).toEqual([numSteps, numSteps + 1, 0])
        for (let i = 0; i < numSteps; i++) expect(sigmas[i + 1]).toBeLessThan(sigmas[i]!)
      }
    },
  )

  test.each(Object.keys(schedulers) as SchedulerName[])(
    '%s recovers the clip when the velocity is exact',
    (scheduler) => {
      const solver = schedulers[scheduler]({ numSteps: 7, shift: 3 })
      const [clip, noise] = [0.25, -1.5]
      let x: Float32Array = Float32Array.of(noise)
      for (let i = 0; i < 7; i++) x = solver.step(x, Float32Array.of(noise - clip))
      expect(x[0]).toBeCloseTo(clip, 5)
    },
  )
})
