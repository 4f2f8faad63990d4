import { expect, it } from 'vitest'
import { relativeBuckets } from './relative-position.ts'

it('has the buckets of the release: exact to 7, then from 8, 12, 16, 23, 32, 46, 64 and 91 on', () => {
  const n = 300
  const buckets = relativeBuckets(n, 32, 128)
  const before = (distance: number) => buckets[distance * n]
  const after = (distance: number) => buckets[distance]
  const starts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
  for (const [index, start] of starts.entries()) {
    const end = (starts[index + 1] ?? n) - 1
    expect([before(start), before(end)], `${start} to ${end} before`).toEqual([index, index])
    if (start === 0) continue
    expect([after(start), after(end)], `${start} to ${end} after`).toEqual([16 + index, 16 + index])
  }
})

it('lays out all pairs, query by key', () => {
  const buckets = relativeBuckets(4, 32, 128)
  expect([...buckets.subarray(0, 4)]).toEqual([0, 17, 18, 19])
  expect([...buckets.subarray(12)]).toEqual([3, 2, 1, 0])
})
