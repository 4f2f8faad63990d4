import { expect, it } from 'vitest'

import { emulatedAdapterInfo } from '../../../test/emulated-gpu/emulated-gpu.ts'
import type { AdapterProfile } from '../device/adapter-profile.ts'
import type { AttentionCall } from '../kernels/attention/attention-call.ts'
import type { WgpuTensor } from '../tensor/wgpu-tensor.ts'
import { chooseAttentionUnit } from './attention-schedule.ts'
import type { MatrixUnitName } from './matrix-unit.ts'

const limits = { maxWorkgroupBytes: 49152, maxInvocations: 256, maxStorageBuffers: 16 }
const profile = {
  adapterClass: 'gpu',
  f16: true,
  subgroups: true,
  subgroupSize: { min: 32, max: 32 },
  subgroupMatrix: emulatedAdapterInfo.subgroupMatrixConfigs,
  refusedUnits: new Set<MatrixUnitName>(),
  limits,
} as unknown as AdapterProfile

const rows = { dtype: 'f16' } as WgpuTensor
const call = { N: 150, M: 133, D: 128, q: rows, k: rows, v: rows } as AttentionCall
const passes = ['attention', 'attention-gradient'] as const

it.each(passes)('%s takes subgroup matrices where the adapter has what they need', (pass) => {
  const unitOn = (part: Partial<AdapterProfile>, changed: Partial<AttentionCall> = {}): string =>
    chooseAttentionUnit({ ...profile, ...part }, { ...call, ...changed }, pass)
  expect(unitOn({})).toBe('matrix')
  expect(unitOn({}, { M: 127 })).toBe('flash')
  expect(unitOn({}, { k: { dtype: 'f32' } as WgpuTensor })).toBe('flash')
  const lessThan = (part: Partial<AdapterProfile['limits']>): Partial<AdapterProfile> => ({
    limits: { ...profile.limits, ...part },
  })
  expect(unitOn(lessThan({ maxWorkgroupBytes: 32768 }))).toBe('flash')
  expect(unitOn(lessThan({ maxInvocations: 128 }))).toBe('flash')
  expect(unitOn({ refusedUnits: new Set([pass]) })).toBe('flash')
})

it('a refused gradient leaves the forward pass its tensor cores', () => {
  const refused = { ...profile, refusedUnits: new Set<MatrixUnitName>(['attention-gradient']) }
  expect(passes.map((pass) => chooseAttentionUnit(refused, call, pass))).toEqual([
    'matrix',
    'flash',
  ])
})
