import type { Device, Tensor } from '@kinora/kernel-api'
import { afterEach, describe, expect, it, vi } from 'vitest'

import type { AdapterProfile, Findings } from '../device/adapter-profile.ts'
import { matrixBlocks, type MatrixBlockName } from '../tuning/matrix-unit.ts'
import { findFastestBlock } from './find-fastest-block.ts'

const blocks = Object.keys(matrixBlocks) as MatrixBlockName[]
const [first, last] = [blocks[0]!, blocks.at(-1)!]

/** Time passes where the device works, and only there. */
let now = 0
afterEach(() => vi.restoreAllMocks())

/** The part of a profile that is looked at. */
function profileOf(block: MatrixBlockName): AdapterProfile & Findings {
  return { block } as AdapterProfile & Findings
}

/** A device that only takes time: so much for a product. */
function deviceThatTakes(milliseconds: () => number): { device: Device; live: () => number } {
  vi.spyOn(performance, 'now').mockImplementation(() => now)
  let live = 0
  let owed = 0
  const take = (): void => void (owed += milliseconds())
  const device = {
    ops: { linear: take, linearGrad: take },
    zeros: () => {
      live++
      return {} as Tensor
    },
    release: () => live--,
    scope: (run: () => void) => run(),
    sync: async () => {
      now += owed
      owed = 0
    },
  }
  return { device: device as unknown as Device, live: () => live }
}

describe('the fastest block', () => {
  it('is found, and the profile is left as it was', async () => {
    const profile = profileOf(first)
    const { device, live } = deviceThatTakes(() => (profile.block === last ? 0.2 : 0.4))
    expect(await findFastestBlock(device, profile, () => Promise.resolve(true))).toBe(last)
    expect(profile.block).toBe(first)
    expect(live()).toBe(0)
  })

  it('is not one that computes wrongly', async () => {
    const profile = profileOf(first)
    const { device } = deviceThatTakes(() => (profile.block === last ? 0.1 : 0.3))
    const isRight = (): Promise<boolean> => Promise.resolve(profile.block !== last)
    expect(await findFastestBlock(device, profile, isRight)).toBe(first)
  })

  it('is the usual one where none is clearly faster', async () => {
    const profile = profileOf(last)
    const { device } = deviceThatTakes(() => (profile.block === last ? 0.3 : 0.297))
    expect(await findFastestBlock(device, profile, () => Promise.resolve(true))).toBe(last)
  })
})
