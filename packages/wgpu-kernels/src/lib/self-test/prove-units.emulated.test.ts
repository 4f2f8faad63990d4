import { f16FromF32 } from '@kinora/kernel-api'
import { expect, it } from 'vitest'

import {
  createEmulatedGpu,
  emulatedAdapterInfo,
  type EmulatedGpuOptions,
} from '../../../test/emulated-gpu/emulated-gpu.ts'
import { createDevice } from '../device/wgpu-device.ts'
import type { MatrixUnitName } from '../tuning/matrix-unit.ts'
import type { AdapterRecord, TuningCache } from '../tuning/tuning-cache.ts'

const SLOW = 120_000

function memoryCache(): TuningCache & { records: Map<string, AdapterRecord> } {
  const records = new Map<string, AdapterRecord>()
  return {
    records,
    load: async (key) => records.get(key),
    save: async (key, record) => void records.set(key, record),
  }
}

/** Opens and prepares a device; says which pipelines it made and what it told. */
async function prepared(
  cache: TuningCache,
  driver: EmulatedGpuOptions['driver'] = (_, code) => code,
  without: ReadonlySet<MatrixUnitName> = new Set(),
  multiprocessors?: number,
) {
  const labels: string[] = []
  const gpu = createEmulatedGpu({
    driver(label, code) {
      labels.push(label)
      return driver(label, code)
    },
  })
  const notes: string[] = []
  const device = createDevice(gpu, emulatedAdapterInfo, {
    overrides: { refusedUnits: without, multiprocessors },
  })
  await device.prepare({ cache, runtime: 'test 1', onNote: (note) => notes.push(note) })
  return { device, labels, notes }
}

it(
  'units that answer right are used, and are not asked again',
  async () => {
    const cache = memoryCache()
    const first = await prepared(cache)
    expect(first.notes).toEqual([])
    for (const kernel of ['thin', 'matrix-attention', 'matrix-attention-dq', 'conv3d-matrix']) {
      expect(first.labels.some((label) => label.includes(kernel))).toBe(true)
    }
    expect([...cache.records.values()]).toEqual([{ refused: [] }])
    expect(first.device.memory().liveBytes).toBe(0)
    const second = await prepared(cache)
    expect(second.labels).toEqual([])
  },
  SLOW,
)

it(
  'a driver with wrong products, and one that does not compile, lose the units concerned, now and at the next start',
  async () => {
    const cache = memoryCache()
    const driver = (label: string, code: string): string => {
      if (label.startsWith('matrix-attention-dkv')) throw new Error('internal compiler error')
      // Fragments with an offset come from its first row, as a driver of Xe3 did.
      return label.startsWith('conv3d-matrix')
        ? code.replaceAll('fragment_a + 48u', 'fragment_a')
        : code
    }
    const others = new Set<MatrixUnitName>(['linear', 'attention'])
    const { device, notes } = await prepared(cache, driver, others)
    expect(notes).toHaveLength(2)
    expect(notes[0]).toMatch(/attention-gradient .*internal compiler error/)
    expect(notes[1]).toMatch(/conv3d .*a convolution in f32 is off/)
    expect(device.info.reason).toContain(notes[1])
    const { ops } = device
    const x = device.upload(
      f16FromF32(Float32Array.from({ length: 576 * 32 }, (_, i) => i % 3)),
      [1, 1, 24, 24, 32],
      'f16',
    )
    const w = device.upload(f16FromF32(new Float32Array(32 * 32).fill(1)), [32, 1, 1, 1, 32], 'f16')
    const y = await device.read(ops.conv3d(x, w))
    expect(y[0]).toBe(31)

    expect([...cache.records.values()]).toEqual([{ refused: ['attention-gradient', 'conv3d'] }])
    const again = await prepared(cache, driver)
    expect(again.labels).toEqual([])
    expect([...again.device.profile.refusedUnits]).toEqual(['attention-gradient', 'conv3d'])
    expect(again.notes).toHaveLength(2)
  },
  SLOW,
)

it(
  'the last wave of a product has to answer right too, where there is one',
  async () => {
    const others = new Set<MatrixUnitName>(['attention', 'attention-gradient', 'conv3d'])
    const right = await prepared(memoryCache(), undefined, others, 132)
    expect(right.notes).toEqual([])
    expect(right.device.profile.multiprocessors).toBe(132)
    // The second part lands on the first.
    const driver = (_: string, code: string): string =>
      code.replaceAll('part * u.y_split', '0u * u.y_split')
    const { notes } = await prepared(memoryCache(), driver, others, 132)
    expect(notes).toHaveLength(1)
    expect(notes[0]).toMatch(/linear .*a product is off/)
  },
  SLOW,
)

it('an adapter without matrix units has nothing to prove', async () => {
  const cache = memoryCache()
  const device = createDevice(createEmulatedGpu(), emulatedAdapterInfo, {
    overrides: { subgroupMatrix: [] },
  })
  await device.prepare({ cache })
  expect(cache.records.size).toBe(0)
})
