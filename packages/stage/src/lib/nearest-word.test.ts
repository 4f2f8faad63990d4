import { describe, expect, it } from 'vitest'
import { nearestWord } from './nearest-word.ts'

describe('nearestWord', () => {
  it.each([
    ['lrr', ['lr', 'steps'], 'lr'],
    ['setps', ['lr', 'steps'], 'steps'],
    [
      'gradientCheckpointing',
      ['gradient_checkpointing', 'gradient_accumulation'],
      'gradient_checkpointing',
    ],
    ['--min-duraton', ['--max-duration', '--min-duration'], '--min-duration'],
    ['colour', ['steps', 'rank'], undefined],
  ])('%s of %j is %s', (word, candidates, nearest) => {
    expect(nearestWord(word, candidates)).toBe(nearest)
  })
})
