import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDevice } from '@kinora/cpu-kernels'
import { openSafetensors, writeSafetensors } from '@kinora/safetensors'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { SafetensorsWeights } from './safetensors-weights.ts'

// A tensor that arrives in three parts: 4 Mi elements, 4 Mi, and 3.
const shape = [8 * 2 ** 20 + 3]
const value = (i: number) => (i % 2039) - 1000

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-weights-'))
  const whole = Float32Array.from({ length: shape[0]! }, (_, i) => value(i))
  const broken = whole.slice()
  broken[6_000_000] = Number.NaN
  await writeSafetensors(join(folder, 'w.safetensors'), [
    { name: 'net.whole', dtype: 'BF16', shape, data: whole },
    { name: 'net.broken', dtype: 'F16', shape, data: broken },
    {
      name: 'net.table',
      dtype: 'F32',
      shape: [6, 4],
      data: Float32Array.from({ length: 24 }, (_, i) => (i === 21 ? Number.NaN : i)),
    },
  ])
})
afterAll(() => rm(folder, { recursive: true, force: true }))

it('loads a large tensor in parts, each in its place, and counts elements through all of them', async () => {
  const device = await openDevice()
  await using file = await openSafetensors(join(folder, 'w.safetensors'))
  const files = new Map([...file.tensors.keys()].map((name) => [name, file]))
  const weights = new SafetensorsWeights(files, 'net.')
  expect(weights.has('whole')).toBe(true)
  expect(weights.has('net.whole')).toBe(false)
  for (const dtype of ['f32', 'f16'] as const) {
    const tensor = await weights.load('whole', device, dtype)
    const values = (await device.read(tensor)) as Float32Array
    // bf16 keeps 8 bits: up to 256 exactly, above to a step of 4.
    const wrong = values.findIndex(
      (v, i) => Math.abs(v - value(i)) > (Math.abs(value(i)) > 256 ? 4 : 0),
    )
    expect(wrong).toBe(-1)
    device.release(tensor)
  }
  await weights.settle()
  // The check runs behind the loading: what is loaded may be there before it is known to be bad.
  const broken = await weights.load('broken', device, 'f32')
  await expect(weights.settle()).rejects.toMatchObject({
    code: 'CHECKPOINT_NOT_FINITE',
    message: expect.stringContaining('Element 6000000 of tensor broken') as string,
  })
  await expect(
    new SafetensorsWeights(files, 'net.').load('absent', device, 'f32'),
  ).rejects.toMatchObject({
    code: 'CHECKPOINT_MISSING_TENSOR',
  })
  device.release(broken)
  expect(device.memory().liveBytes).toBe(0)
  device.destroy()
})

it('reads the rows that are asked for and no others, and names a bad number by its place in the table', async () => {
  const device = await openDevice()
  await using file = await openSafetensors(join(folder, 'w.safetensors'))
  const weights = new SafetensorsWeights(new Map([['net.table', file]]), 'net.')
  const rows = await weights.loadRows('table', [4, 0, 1], device, 'f32')
  expect([...(await device.read(rows))]).toEqual([16, 17, 18, 19, 0, 1, 2, 3, 4, 5, 6, 7])
  await expect(weights.loadRows('table', [2, 5], device, 'f32')).rejects.toMatchObject({
    code: 'CHECKPOINT_NOT_FINITE',
    message: expect.stringContaining('Element 21 of tensor table') as string,
  })
  device.release(rows)
  expect(device.memory().liveBytes).toBe(0)
  device.destroy()
})
