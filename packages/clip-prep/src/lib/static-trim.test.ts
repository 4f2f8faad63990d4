import { describe, expect, it } from 'vitest'
import { motionStep } from '../../test/motion-step.ts'
import type { MotionStep } from './motion-step.ts'
import { findMovingRange } from './static-trim.ts'

const stepSeconds = 1 / 13

/** Steps of which `at` says how the content moves, in picture widths a second. */
function stepsOf(
  seconds: number,
  at: (time: number) => { x?: number; energy?: number },
): MotionStep[] {
  return Array.from({ length: Math.round(seconds / stepSeconds) }, (_, index) => {
    const from = index * stepSeconds
    const { x = 0, energy = Math.abs(x) } = at(from + stepSeconds / 2)
    return motionStep({ from, to: from + stepSeconds, x, energy })
  })
}

const find = (seconds: number, at: Parameters<typeof stepsOf>[1]) =>
  findMovingRange(stepsOf(seconds, at), { start: 0, end: seconds }, 0)

describe('findMovingRange', () => {
  it('trims stillness off both ends', () => {
    const range = find(8, (time) => (time > 2 && time < 5.5 ? { x: -0.2 } : { x: 0 }))
    expect(range.start).toBeCloseTo(2, 0)
    expect(Math.abs(range.start - 2)).toBeLessThanOrEqual(0.2)
    expect(Math.abs(range.end - 5.5)).toBeLessThanOrEqual(0.2)
    expect(range.reason).toMatch(
      /^Nothing moves before 2\.\d\d s, and nothing moves after 5\.\d\d s/,
    )
  })

  it('keeps a pause in the middle', () => {
    const range = find(9, (time) =>
      (time > 1 && time < 3) || (time > 5 && time < 8) ? { x: -0.2 } : { x: 0 },
    )
    expect(Math.abs(range.start - 1)).toBeLessThanOrEqual(0.2)
    expect(Math.abs(range.end - 8)).toBeLessThanOrEqual(0.2)
  })

  it('trims a hand that waits before a ride', () => {
    // Trembling to and fro at 3 Hz, then a drive that shakes too.
    const range = find(12, (time) =>
      time < 5
        ? { x: 0.06 * Math.sin(19 * time), energy: 0.07 }
        : { x: -0.4 + 0.1 * Math.sin(19 * time), energy: 0.45 },
    )
    expect(Math.abs(range.start - 5)).toBeLessThanOrEqual(0.2)
    expect(range.reason).toMatch(/trembles or idles/)
  })

  it('keeps a slow pan whole, however slow beside a fast end', () => {
    const range = find(8, (time) => ({ x: time < 6 ? -0.05 : -0.5 }))
    expect(range.start).toBe(0)
    expect(range.end).toBe(8)
  })

  it('takes a pop of one step for no motion', () => {
    const range = find(6, (time) =>
      time > 1 && time < 1.07 ? { energy: 0.4 } : time > 3 ? { x: -0.2 } : { x: 0 },
    )
    expect(Math.abs(range.start - 3)).toBeLessThanOrEqual(0.2)
  })

  it('says so where nothing moves', () => {
    const range = find(3, () => ({ energy: 0.01 }))
    expect(range).toMatchObject({ moves: false, start: 0, end: 3 })
  })
})
