import { expect, it } from 'vitest'

import { sizeClass } from './buffer-pool.ts'

it('size classes are multiples of 256 that hold what is asked for', () => {
  for (const bytes of [1, 255, 256, 257, 1000, 4097, 2 ** 20 + 1, 3 * 2 ** 30 + 5]) {
    const size = sizeClass(bytes)
    expect(size).toBeGreaterThanOrEqual(bytes)
    expect(size % 256).toBe(0)
    expect(sizeClass(size)).toBe(size)
  }
})

it('waste a quarter of a small buffer at most, and 7 % of a large one', () => {
  for (let bytes = 2048; bytes < 2 ** 20; bytes = Math.ceil(bytes * 1.07)) {
    expect(sizeClass(bytes) / bytes).toBeLessThanOrEqual(1.26)
  }
  for (let bytes = 2 ** 20; bytes < 2 ** 32; bytes = Math.ceil(bytes * 1.07)) {
    expect(sizeClass(bytes) / bytes).toBeLessThanOrEqual(1.07)
  }
})

it('grow with the size', () => {
  let last = 0
  for (let bytes = 1; bytes < 2 ** 24; bytes = Math.ceil(bytes * 1.01)) {
    expect(sizeClass(bytes)).toBeGreaterThanOrEqual(last)
    last = sizeClass(bytes)
  }
})
