import { openSafetensors } from '@kinora/safetensors'
import { describe, expect, test } from 'vitest'
import { schedulers, type SchedulerName } from '../../src/index.ts'
import { expectAtMost, goldenFile, relativeError } from './golden-files.ts'

await using golden = await openSafetensors(goldenFile('schedulers.safetensors'))
const runs = [...golden.tensors.keys()]
  .map((name) => /^(\w+)\.shift([\d.]+)\.steps(\d+)\.sigmas$/.exec(name))
  .filter((match) => match !== null)
  .map(([name, scheduler, shift, steps]) => ({
    prefix: name.slice(0, -'.sigmas'.length),
    scheduler: scheduler as SchedulerName,
    shift: Number(shift),
    numSteps: Number(steps),
  }))
const read = new Map<string, Float32Array>()
for (const name of golden.tensors.keys()) read.set(name, await golden.readF32(name))

describe('schedulers reproduce diffusers', () => {
  test('the golden file has runs of both solvers', () => {
    expect(new Set(runs.map((run) => run.scheduler))).toEqual(new Set(['unipc', 'euler']))
  })

  test.each(runs)('$prefix', ({ prefix, scheduler, shift, numSteps }) => {
    const solver = schedulers[scheduler]({ numSteps, shift })
    const { timesteps, sigmas } = solver.schedule
    const check = (got: ArrayLike<number>, want: Float32Array) => {
      expect(got.length).toBe(want.length)
      return relativeError(got, want)
    }
    expectAtMost(`${prefix} timesteps`, check(timesteps, read.get(`${prefix}.timesteps`)!), 1e-5)
    expectAtMost(`${prefix} sigmas`, check(sigmas, read.get(`${prefix}.sigmas`)!), 1e-5)

    const states = read.get(`${prefix}.states`)!
    const n = states.length / numSteps
    let x = read.get('in.x0')!
    let worst = 0
    timesteps.forEach((t, i) => {
      // The closed form in the file's metadata.
      const velocity = x.map((value) => 0.4 * value + 0.6 * Math.cos(2 * value + t / 300))
      x = solver.step(x, velocity)
      worst = Math.max(worst, check(x, states.subarray(i * n, (i + 1) * n)))
    })
    expectAtMost(`${prefix} states, the worst`, worst, 1e-5)
  })

  test('the velocity of the golden file is the one used here', () => {
    expect(golden.metadata['model']).toContain('0.4 x + 0.6 cos(2 x + t / 300)')
  })
})
