import { describe, expect, it } from 'vitest'

import type { AdapterProfile } from '../device/adapter-profile.ts'
import { blockOf } from '../kernels/matmul/matmul-variant.ts'
import {
  chooseMatmulSchedule,
  chooseSplits,
  generalSchedules,
  type MatmulShape,
} from './matmul-schedule.ts'

const gpu: AdapterProfile = {
  adapterClass: 'gpu',
  vendor: '',
  architecture: '',
  device: '',
  driver: '',
  f16: true,
  subgroups: true,
  subgroupSize: { min: 32, max: 32 },
  subgroupMatrix: [],
  timestamps: false,
  refusedUnits: new Set(),
  block: '256x128x64',
  limits: {
    maxBindingBytes: 2 ** 27,
    maxBufferBytes: 2 ** 28,
    maxWorkgroupsPerDimension: 65535,
    maxWorkgroupBytes: 16384,
    maxInvocations: 256,
    maxStorageBuffers: 8,
    storageAlignment: 256,
    uniformAlignment: 256,
  },
}
const software: AdapterProfile = {
  ...gpu,
  adapterClass: 'software',
  subgroupSize: { min: 8, max: 8 },
}
const shape = (M: number, N: number, K: number, layout: MatmulShape['layout'] = 'nt') => ({
  layout,
  M,
  N,
  K,
  products: 1,
})

describe('the schedule of a product', () => {
  it('shares loads between lanes on a software adapter with subgroups of one size', () => {
    expect(chooseMatmulSchedule(software, shape(80, 128, 128)).unit).toBe('broadcast')
    expect(chooseMatmulSchedule(software, shape(1, 768, 128))).toMatchObject({ owner: 'b' })
    const varying = { ...software, subgroupSize: { min: 4, max: 16 } }
    expect(chooseMatmulSchedule(varying, shape(80, 128, 128)).unit).toBe('direct')
    expect(chooseMatmulSchedule({ ...software, subgroups: false }, shape(80, 1, 8)).unit).toBe(
      'direct',
    )
  })

  it('uses workgroup memory on a GPU, with larger blocks for larger products', () => {
    const small = blockOf(chooseMatmulSchedule(gpu, shape(128, 128, 128)))
    const large = blockOf(chooseMatmulSchedule(gpu, shape(11264, 5120, 5120)))
    expect(large.M * large.N).toBeGreaterThan(small.M * small.N)
    expect(blockOf(chooseMatmulSchedule(gpu, shape(11264, 16, 5120))).N).toBe(32)
  })

  it('fits the limits every adapter has', () => {
    for (const schedule of generalSchedules) {
      if (schedule.unit !== 'tile') continue
      const { blockM, blockN, blockK, tileM, tileN } = schedule
      expect(4 * blockK * (blockM + blockN)).toBeLessThanOrEqual(16384)
      expect((blockM / tileM) * (blockN / tileN)).toBeLessThanOrEqual(256)
    }
  })
})

describe('splits of a contraction', () => {
  it('keep a GPU busy where the result is small and the contraction long', () => {
    const gradient = shape(16, 5120, 11264, 'tn')
    const splits = chooseSplits(gpu, gradient, chooseMatmulSchedule(gpu, gradient))
    expect(splits).toBeGreaterThan(1)
    expect(splits).toBeLessThanOrEqual(32)
  })

  it('are not for large results, short contractions or processors', () => {
    const large = shape(11264, 5120, 5120)
    expect(chooseSplits(gpu, large, chooseMatmulSchedule(gpu, large))).toBe(1)
    const short = shape(16, 64, 100, 'tn')
    expect(chooseSplits(gpu, short, chooseMatmulSchedule(gpu, short))).toBe(1)
    const gradient = shape(16, 5120, 11264, 'tn')
    expect(chooseSplits(software, gradient, chooseMatmulSchedule(software, gradient))).toBe(1)
  })
})
