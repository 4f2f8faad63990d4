import { describe, expect, it } from 'vitest'
import { judgeValidation, timestepBands } from './validation.ts'

it('bands are equal parts of an expert’s range, from the noise', () => {
  expect(timestepBands('high', 0.9, 2)).toEqual([
    { from: 950, to: 1000 },
    { from: 900, to: 950 },
  ])
  expect(timestepBands('low', 0.9, 3).map(({ from }) => from)).toEqual([600, 300, 0])
})

describe('the verdict', () => {
  const history = (...losses: number[]) => losses.map((loss, i) => ({ step: i * 100, loss }))
  it.each([
    [history(1, 0.9), undefined],
    [history(1, 0.9, 0.8, 0.75, 0.7, 0.65), /still improving: .* since step 300, 35\.0 % in all/],
    [history(1, 0.8, 0.7, 0.7, 0.7, 0.699), /is flat: 30\.1 % better than at step 0/],
    [history(1, 0.8, 0.7, 0.75, 0.8, 0.85), /overfits since step 200: .* 21\.4 % above the best/],
    [history(1, 1.1, 1.2, 1.3), /learned nothing/],
  ])('of %j is %s', (losses, verdict) => {
    const found = judgeValidation('high', losses)
    if (verdict === undefined) expect(found).toBeUndefined()
    else expect(found).toMatch(verdict)
  })
})
