import { expect, it } from 'vitest'
import { relativeBucket, relativeBuckets } from './relative-position.ts'

it('has the buckets of the release: exact to 7, then from 8, 12, 16, 23, 32, 46, 64 and 91 on', () => {
  const bucket = (relative: number) => relativeBucket(relative, 32, 128)
  const starts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
  for (const [index, start] of starts.entries()) {
    expect(bucket(-start), `${-start}`).toBe(index)
    if (start > 0) expect(bucket(start), `${start}`).toBe(16 + index)
    const end = (starts[index + 1] ?? 10_000) - 1
    expect(bucket(-end), `${-end}`).toBe(index)
  }
})

it('lays out all pairs, query by key', () => {
  const buckets = relativeBuckets(4, 32, 128)
  expect([...buckets.subarray(0, 4)]).toEqual([0, 17, 18, 19])
  expect([...buckets.subarray(12)]).toEqual([3, 2, 1, 0])
})
