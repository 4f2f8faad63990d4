import { expect, it } from 'vitest'
import { LossScale } from './loss-scale.ts'

it('halves on overflow, doubles after 200 good steps, and never moves in f32', () => {
  const scale = new LossScale('f16')
  const first = scale.scale
  expect(scale.overflow()).toBe(true)
  expect(scale.scale).toBe(first / 2)
  for (let i = 0; i < 199; i++) scale.succeed()
  expect(scale.scale).toBe(first / 2)
  const resumed = new LossScale('f16', scale.state)
  resumed.succeed()
  expect(resumed.scale).toBe(first)
  while (resumed.overflow());
  expect(resumed.scale).toBe(1)

  const plain = new LossScale('f32')
  plain.succeed()
  expect([plain.scale, plain.overflow()]).toEqual([1, false])
})
