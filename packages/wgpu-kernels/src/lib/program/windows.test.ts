import { expect, it } from 'vitest'

import { foldGrid } from './fold-grid.ts'
import { rowWindows } from './windows.ts'

it('rows that fit stay together', () => {
  expect(rowWindows(10, [100, 50], 1000, 256)).toEqual([{ start: 0, end: 10 }])
})

it('windows cover all rows once, fit the limit and start aligned', () => {
  for (const [rows, bytes, limit, alignment] of [
    [1000, [12], 4096, 256],
    [997, [4, 6, 1000], 2 ** 18, 256],
    [70_001, [2], 8192, 32],
    [33, [512, 256], 1024, 256],
  ] as const) {
    const windows = rowWindows(rows, bytes, limit, alignment)!
    let next = 0
    for (const { start, end } of windows) {
      expect(start).toBe(next)
      next = end
      for (const width of bytes) {
        expect((end - start) * width).toBeLessThanOrEqual(limit)
        expect((start * width) % alignment).toBe(0)
      }
    }
    expect(next).toBe(rows)
  }
})

it('a row wider than the limit has no windows', () => {
  expect(rowWindows(3, [5000], 4096, 256)).toBeUndefined()
  // One row would fit, but the next aligned offset is 64 rows on.
  expect(rowWindows(100, [100], 4096, 256)).toBeUndefined()
})

it('a grid is folded only where it must be, and passes the groups by less than its second extent', () => {
  expect(foldGrid(1, 65535)).toEqual([1, 1])
  expect(foldGrid(65535, 65535)).toEqual([65535, 1])
  for (const groups of [65536, 65537, 100_003, 4_000_000_000]) {
    const [x, y] = foldGrid(groups, 65535)!
    expect(x).toBeLessThanOrEqual(65535)
    expect(x * y).toBeGreaterThanOrEqual(groups)
    expect(x * y - groups).toBeLessThan(y)
  }
  expect(foldGrid(65535 ** 2 + 1, 65535)).toBeUndefined()
})
