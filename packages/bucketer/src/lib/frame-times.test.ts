import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  autoNumFrames,
  headFrameIndices,
  longestNumFrames,
  realTimeFrameIndices,
  realTimeSpan,
  snapNumFrames,
  strideFrameIndices,
  uniformFrameIndices,
} from './frame-times.ts'

describe('uniformFrameIndices (AI Toolkit, shrink_video_to_frames)', () => {
  it.each([
    { F: 100, n: 10, indices: [0, 11, 22, 33, 44, 55, 66, 77, 88, 99] },
    { F: 5, n: 9, indices: [0, 0, 1, 2, 2, 2, 3, 4, 4] },
    { F: 7, n: 1, indices: [0] },
    { F: 1, n: 5, indices: [0, 0, 0, 0, 0] },
  ])('takes F=$F to n=$n', ({ F, n, indices }) => {
    expect(uniformFrameIndices(F, n)).toEqual(indices)
  })

  it('takes F=120 to n=41 as 0, 3, 6, …, 119', () => {
    const indices = uniformFrameIndices(120, 41)
    expect(indices.slice(0, 3)).toEqual([0, 3, 6])
    expect(indices.slice(-3)).toEqual([113, 116, 119])
    expect(new Set(indices).size).toBe(41)
  })

  it('keeps both ends, never falls and never leaves the clip', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 2, max: 300 }), (F, n) => {
        const indices = uniformFrameIndices(F, n)
        expect(indices[0]).toBe(0)
        expect(indices.at(-1)).toBe(F - 1)
        expect(indices).toEqual(indices.toSorted((a, b) => a - b))
      }),
    )
  })
})

describe('AI Toolkit without shrinking', () => {
  it.each([
    { F: 100, fps: 30, target: 16, n: 41, unit: 0, step: 2, start: 0 },
    { F: 100, fps: 30, target: 16, n: 41, unit: 0.999, step: 2, start: 19 },
    // 24/16 = 1.5 rounds to the even 2, 40/16 = 2.5 to 2 as well.
    { F: 100, fps: 24, target: 16, n: 41, unit: 0, step: 2, start: 0 },
    { F: 100, fps: 40, target: 16, n: 41, unit: 0, step: 2, start: 0 },
    { F: 100, fps: 8, target: 16, n: 41, unit: 0.5, step: 1, start: 30 },
  ])(
    'steps by $step in $fps fps, from $start at $unit',
    ({ F, fps, target, n, unit, step, start }) => {
      const indices = strideFrameIndices(F, n, fps / target, unit)
      expect(indices).toEqual(Array.from({ length: n }, (_, i) => start + i * step))
    },
  )

  it('falls back to the even rule where the clip is too short', () => {
    expect(strideFrameIndices(80, 41, 2, 0.5)).toEqual(uniformFrameIndices(80, 41))
    expect(strideFrameIndices(82, 41, 2, 0.5)).toHaveLength(41)
    expect(strideFrameIndices(82, 41, 2, 0.999).at(-1)).toBe(81)
  })

  it.each([
    { duration: 5, trim: true, numFrames: 77 },
    { duration: 5, trim: false, numFrames: 81 },
    { duration: 5.0625, trim: true, numFrames: 81 },
    { duration: 5.05, trim: true, numFrames: 77 },
    { duration: 0.01, trim: true, numFrames: 1 },
  ])('counts $numFrames frames in $duration s (trim $trim)', ({ duration, trim, numFrames }) => {
    expect(autoNumFrames(duration, 16, trim)).toBe(numFrames)
  })

  it('takes the frames of an automatic count from the start, halves to even', () => {
    expect(headFrameIndices(100, 9, 1.5)).toEqual([0, 2, 3, 4, 6, 8, 9, 10, 12])
    expect(headFrameIndices(100, 5, 2.5)).toEqual([0, 2, 5, 8, 10])
  })
})

describe('real time', () => {
  it('keeps an even beat from 24 to 16 fps', () => {
    expect(realTimeFrameIndices(0, 9, 1.5)).toEqual([0, 2, 3, 5, 6, 8, 9, 11, 12])
  })

  it('takes every frame of a clip that has the rate of the samples', () => {
    expect(realTimeFrameIndices(3, 5, 1)).toEqual([3, 4, 5, 6, 7])
  })

  it('places every frame within half a frame of its moment', () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0.1, max: 8, noNaN: true }),
        fc.integer({ min: 1, max: 200 }),
        (ratio, n) => {
          realTimeFrameIndices(0, n, ratio).forEach((index, i) => {
            expect(Math.abs(index - i * ratio)).toBeLessThanOrEqual(0.5 + 1e-9)
          })
        },
      ),
    )
  })

  it('finds the longest window that fits: it fits, and four more frames do not', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 2000 }),
        fc.double({ min: 0.1, max: 8, noNaN: true }),
        (F, ratio) => {
          const n = longestNumFrames(F, ratio)
          expect(n % 4).toBe(1)
          expect(realTimeSpan(n, ratio)).toBeLessThanOrEqual(F)
          expect(realTimeSpan(n + 4, ratio)).toBeGreaterThan(F)
        },
      ),
    )
  })

  it.each([
    { F: 81, fps: 16, n: 81 },
    { F: 80, fps: 16, n: 77 },
    { F: 121, fps: 24, n: 81 },
    { F: 120, fps: 24, n: 77 },
    { F: 1, fps: 16, n: 1 },
  ])('finds $n frames in $F at $fps fps', ({ F, fps, n }) => {
    expect(longestNumFrames(F, fps / 16)).toBe(n)
  })
})

it.each([
  [1, 1],
  [4, 1],
  [5, 5],
  [40, 37],
  [41, 41],
  [81, 81],
  [84, 81],
])('snaps %i frames to %i', (asked, snapped) => {
  expect(snapNumFrames(asked)).toBe(snapped)
})
