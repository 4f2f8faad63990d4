import { describe, expect, it } from 'vitest'

import type { AdapterProfile } from '../device/adapter-profile.ts'
import { lastWave, multiprocessorsOf } from './last-wave.ts'
import { matrixBlocks, type MatrixBlockName } from './matrix-unit.ts'

const on = (device: string): AdapterProfile =>
  ({ multiprocessors: multiprocessorsOf(device) }) as AdapterProfile
const h100 = on('nvidia-h100-80gb-hbm3')
const schedule = (K: number, block: MatrixBlockName = '256x128x64') =>
  ({ unit: 'subgroup-matrix', ...matrixBlocks[block], parts: 1, K, lda: K, ldb: K }) as const

it('sizes are those of whole cards', () => {
  const sizes = {
    'nvidia-h100-80gb-hbm3': 132,
    'nvidia-h100-pcie': 114,
    'nvidia-h200': 132,
    'nvidia-a100-sxm4-80gb': 108,
    'nvidia-rtx-a1000': undefined,
    'nvidia-geforce-rtx-4090': 128,
    'nvidia-geforce-rtx-4090-laptop-gpu': undefined,
    'nvidia-geforce-rtx-4090-d': undefined,
    'nvidia-geforce-rtx-3090-ti': undefined,
    'nvidia-h100-80gb-hbm3-mig-3g.40gb': undefined,
    'llvmpipe-llvm-15-0-6-256-bits-': undefined,
  }
  for (const [name, count] of Object.entries(sizes))
    expect(multiprocessorsOf(name), name).toBe(count)
})

describe('the last wave of a product', () => {
  it('is cut where it is less than half full', () => {
    // 44 × 40 blocks: 13 waves of 132 and the last 11 columns of the last 4 rows of blocks.
    expect(lastWave(h100, { M: 11264, N: 5120, K: 5120 }, schedule(5120))).toEqual({
      tilesBefore: 1716,
      firstRow: 10240,
      firstColumn: 3712,
      parts: 2,
    })
    // A contraction that three parts divide.
    expect(lastWave(h100, { M: 11264, N: 5120, K: 13824 }, schedule(13824))?.parts).toBe(3)
    // Columns that end with part of a block.
    expect(lastWave(h100, { M: 11264, N: 5000, K: 5120 }, schedule(5120))?.firstColumn).toBe(3712)
  })

  it('is the same part of the product in smaller blocks', () => {
    expect(lastWave(h100, { M: 11264, N: 5120, K: 5120 }, schedule(5120, '128x128x32'))).toEqual({
      tilesBefore: 3432,
      firstRow: 10240,
      firstColumn: 3712,
      parts: 2,
    })
    const small = { multiprocessors: 4 } as AdapterProfile
    for (const block of Object.keys(matrixBlocks) as MatrixBlockName[]) {
      expect(lastWave(small, { M: 264, N: 384, K: 128 }, schedule(128, block))).toMatchObject({
        firstRow: 0,
        firstColumn: 256,
        parts: 2,
      })
    }
  })

  it('stays whole where it is full, nearly full, or the only one', () => {
    expect(lastWave(h100, { M: 11264, N: 13824, K: 5120 }, schedule(5120))).toBeUndefined()
    expect(lastWave(h100, { M: 11264, N: 4608, K: 5120 }, schedule(5120))).toBeUndefined()
    expect(lastWave(h100, { M: 512, N: 5120, K: 5120 }, schedule(5120))).toBeUndefined()
  })

  it('stays whole where it is only part of a block, and on an adapter of unknown size', () => {
    expect(lastWave(h100, { M: 1024, N: 4232, K: 5120 }, schedule(5120))).toBeUndefined()
    expect(lastWave(on('a card of tomorrow'), { M: 11264, N: 5120, K: 5120 }, schedule(5120))).toBe(
      undefined,
    )
  })
})
