import { describe, expect, it } from 'vitest'

import { BufferPool, sizeClass, type PooledBuffer } from './buffer-pool.ts'

it('size classes are multiples of 256 that hold what is asked for', () => {
  for (const bytes of [1, 255, 256, 257, 1000, 4097, 2 ** 20 + 1, 3 * 2 ** 30 + 5]) {
    const size = sizeClass(bytes)
    expect(size).toBeGreaterThanOrEqual(bytes)
    expect(size % 256).toBe(0)
    expect(sizeClass(size)).toBe(size)
  }
})

it('waste a quarter of a small buffer at most, 7 % of a middling one, and 1.6 % of a large one', () => {
  for (let bytes = 2048; bytes < 2 ** 20; bytes = Math.ceil(bytes * 1.07)) {
    expect(sizeClass(bytes) / bytes).toBeLessThanOrEqual(1.26)
  }
  for (let bytes = 2 ** 20; bytes < 2 ** 32; bytes = Math.ceil(bytes * 1.07)) {
    expect(sizeClass(bytes) / bytes).toBeLessThanOrEqual(bytes < 2 ** 26 ? 1.07 : 1.016)
  }
  // A block input and an attention result of 11264 tokens in f16: nothing.
  expect(sizeClass(11264 * 5120 * 2)).toBe(11264 * 5120 * 2)
})

it('grow with the size', () => {
  let last = 0
  for (let bytes = 1; bytes < 2 ** 24; bytes = Math.ceil(bytes * 1.01)) {
    expect(sizeClass(bytes)).toBeGreaterThanOrEqual(last)
    last = sizeClass(bytes)
  }
})

describe('the pool', () => {
  const MIB = 2 ** 20

  function fakePool() {
    let allocated = 0
    const counts = { created: 0, destroyed: 0, most: 0 }
    const device = {
      pushErrorScope: () => undefined,
      popErrorScope: () => Promise.resolve(null),
      createBuffer: ({ size }: GPUBufferDescriptor) => {
        counts.created++
        allocated += size
        counts.most = Math.max(counts.most, allocated)
        return {
          destroy: () => {
            counts.destroyed++
            allocated -= size
          },
        }
      },
    } as unknown as GPUDevice
    const pool = new BufferPool({
      device,
      maxBufferSize: 2 ** 40,
      flush: () => undefined,
      watch: () => undefined,
    })
    return { pool, counts }
  }

  /** A block as a training step queues it: two buffers stay, the others go. */
  function block(pool: BufferPool, kept: PooledBuffer[], scale = 1): void {
    const passing = [640, 320, 320, 1280, 640].map((size) => pool.acquire(size * scale * MIB))
    kept.push(pool.acquire(110 * scale * MIB), pool.acquire(110 * scale * MIB))
    for (const each of passing) pool.release(each)
  }

  it('destroys nothing that the next block needs, though each block keeps more', () => {
    const { pool, counts } = fakePool()
    const kept: PooledBuffer[] = []
    for (let i = 0; i < 40; i++) block(pool, kept)
    expect(counts).toMatchObject({ created: 5 + 80, destroyed: 0 })
  })

  it('lets what has been idle longest go when other sizes are asked for', () => {
    const { pool, counts } = fakePool()
    for (const scale of [1, 1.5, 0.7, 1]) {
      const kept: PooledBuffer[] = []
      for (let i = 0; i < 40; i++) block(pool, kept, scale)
      for (const each of kept) pool.release(each)
    }
    expect(counts.destroyed).toBeGreaterThan(0)
    expect(counts.most).toBeLessThanOrEqual(pool.peakBytes * (1 + 1 / 24))
    expect(pool.liveBytes).toBe(0)
  })

  it('keeps what lies idle while all fits the budget', () => {
    const { pool, counts } = fakePool()
    pool.budget = 30 * 1024 * MIB
    for (const scale of [1, 0.7, 1, 0.7]) {
      const kept: PooledBuffer[] = []
      for (let i = 0; i < 40; i++) block(pool, kept, scale)
      for (const each of kept) pool.release(each)
    }
    expect(counts).toMatchObject({ created: 2 * 85, destroyed: 0 })
  })

  it('hands out a large buffer that is a little larger, the smallest there is', () => {
    const { pool, counts } = fakePool()
    const made = [110, 112, 114, 120].map((size) => pool.acquire(size * MIB))
    for (const each of made) pool.release(each)
    expect(pool.acquire(111 * MIB)).toBe(made[1])
    expect(pool.acquire(111 * MIB)).toBe(made[2])
    expect(pool.liveBytes).toBe((112 + 114) * MIB)
    // 120 is more than a sixteenth larger, 110 too small; small buffers have classes that are wide enough.
    expect(made).not.toContain(pool.acquire(111 * MIB))
    expect(pool.pooledBytes).toBe((110 + 120) * MIB)
    expect(counts.destroyed).toBe(0)
  })

  it('gives all idle buffers back when trimmed', () => {
    const { pool, counts } = fakePool()
    block(pool, [])
    pool.trim()
    expect(pool.pooledBytes).toBe(0)
    expect(counts.destroyed).toBe(5)
  })
})
