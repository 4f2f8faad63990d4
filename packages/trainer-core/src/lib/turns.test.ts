import { describe, expect, it } from 'vitest'
import { stepsOfExperts, turnAt, type TurnOptions } from './turns.ts'

const letters = (options: TurnOptions, steps: number): string =>
  Array.from({ length: steps }, (_, step) => turnAt(step, options).expert[0]).join('')

describe('turns', () => {
  it.each([
    [{ trained: ['high', 'low'], switchEvery: 1 }, 'hlhlhlhl'],
    [{ trained: ['high', 'low'], switchEvery: 3 }, 'hhhlllhhhlll'],
    [{ trained: ['high'], switchEvery: 3 }, 'hhhhhhh'],
    [{ trained: ['low'], switchEvery: 3 }, 'lllll'],
    [{ trained: ['high', 'low'], switchEvery: 5, highShare: 0.3 }, 'hhhlllllllhhhlllllll'],
    [{ trained: ['high', 'low'], switchEvery: 1, highShare: 0.25 }, 'hlllhlll'],
  ] as [TurnOptions, string][])('%j is %s', (options, expected) => {
    expect(letters(options, expected.length)).toBe(expected)
  })

  it.each([
    { trained: ['high', 'low'], switchEvery: 3 },
    { trained: ['high', 'low'], switchEvery: 4, highShare: 0.3 },
    { trained: ['low'], switchEvery: 2 },
  ] as TurnOptions[])('counts the steps of each expert without a gap: %j', (options) => {
    const counts = { high: 0, low: 0 }
    for (let step = 0; step < 60; step++) {
      expect(stepsOfExperts(step, options)).toEqual(counts)
      const { expert, expertStep } = turnAt(step, options)
      expect(expertStep).toBe(counts[expert]++)
    }
  })
})
