import type { Device, Tensor } from '@kinora/kernel-api'
import { afterEach, describe, expect, it, vi } from 'vitest'

import { emulatedAdapterInfo } from '../../../test/emulated-gpu/emulated-gpu.ts'
import type { AdapterProfile, Findings } from '../device/adapter-profile.ts'
import type { MatrixUnitName } from '../tuning/matrix-unit.ts'
import { findFastest } from './find-fastest.ts'

/** Time passes where the device works, and only there. */
let now = 0
afterEach(() => vi.restoreAllMocks())

/** An adapter with tensor cores. */
function profileOf(block: AdapterProfile['block'] = '256x128x64'): AdapterProfile & Findings {
  return {
    f16: true,
    subgroups: true,
    subgroupSize: { min: 32, max: 32 },
    subgroupMatrix: emulatedAdapterInfo.subgroupMatrixConfigs,
    refusedUnits: new Set<MatrixUnitName>(),
    block,
    overlapped: new Set(),
  } as unknown as AdapterProfile & Findings
}

/** A device that only takes time: for a product, and for either half of attention. */
function deviceThatTakes(milliseconds: (kind: 'linear' | 'attention' | 'gradient') => number): {
  device: Device
  live: () => number
} {
  vi.spyOn(performance, 'now').mockImplementation(() => now)
  let live = 0
  let owed = 0
  const tensor = (): Tensor => {
    live++
    return {} as Tensor
  }
  const take = (kind: 'linear' | 'attention' | 'gradient'): void => {
    owed += milliseconds(kind)
  }
  let scoped = false
  const ops = {
    linear: () => take('linear'),
    linearGrad: () => take('linear'),
    attention: () => {
      if (scoped) take('attention')
      return scoped ? {} : { out: tensor(), lse: tensor() }
    },
    attentionGrad: () => take('gradient'),
  }
  const device = {
    ops,
    zeros: tensor,
    release: () => live--,
    scope: (run: () => void) => {
      scoped = true
      run()
      scoped = false
    },
    sync: async () => {
      now += owed
      owed = 0
    },
  }
  return { device: device as unknown as Device, live: () => live }
}

describe('the fastest ways', () => {
  it('are found, and the profile is left as it was', async () => {
    const profile = profileOf()
    const { device, live } = deviceThatTakes((kind) => {
      if (kind === 'linear') return profile.block === '128x128x32' ? 0.2 : 0.4
      if (kind === 'attention') return profile.overlapped.has('forward') ? 0.2 : 0.4
      return (
        (profile.overlapped.has('grad-kv') ? 0.4 : 0.2) +
        (profile.overlapped.has('grad-q') ? 0.1 : 0.2)
      )
    })
    expect(await findFastest(device, profile, () => Promise.resolve(true))).toEqual({
      block: '128x128x32',
      overlapped: ['forward', 'grad-q'],
    })
    expect(profile.block).toBe('256x128x64')
    expect([...profile.overlapped]).toEqual([])
    expect(live()).toBe(0)
  })

  it('are not those that compute wrongly, nor of units that are refused', async () => {
    const profile = profileOf()
    profile.refusedUnits.add('attention-gradient')
    const { device } = deviceThatTakes((kind) =>
      kind === 'linear'
        ? profile.block === '128x128x32'
          ? 0.1
          : 0.3
        : profile.overlapped.size > 0
          ? 0.1
          : 0.3,
    )
    const isRight = (unit: MatrixUnitName): Promise<boolean> =>
      Promise.resolve(
        unit === 'linear' ? profile.block !== '128x128x32' : profile.overlapped.size === 0,
      )
    const { block, overlapped } = await findFastest(device, profile, isRight)
    expect(block).toBe('256x128x64')
    expect(overlapped).toEqual([])
  })

  it('are the usual where nothing is clearly faster', async () => {
    const profile = profileOf('128x128x32')
    const { device } = deviceThatTakes(() => 0.3)
    expect(await findFastest(device, profile, () => Promise.resolve(true))).toEqual({
      block: '128x128x32',
      overlapped: [],
    })
  })
})
