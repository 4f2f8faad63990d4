import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { MetricsEntry } from '@kinora/config-schema'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { readEventFile } from '../../../test/read-event-file.ts'
import { crc32c, maskedCrc32c } from './crc32c.ts'
import { createTensorBoardOutlet } from './tensorboard-outlet.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-board-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const bytesOf = (...values: number[]): Uint8Array => Uint8Array.from(values)

describe('crc32c', () => {
  // RFC 3720, appendix B.4, and the check value of the CRC catalogue.
  it.each([
    ['32 zeros', new Uint8Array(32), 0x8a9136aa],
    ['32 ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ['rising bytes', Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    ['falling bytes', Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
    ['123456789', new TextEncoder().encode('123456789'), 0xe3069283],
    ['nothing', new Uint8Array(), 0],
  ])('of %s', (_, data, crc) => {
    expect(crc32c(data)).toBe(crc)
  })

  it('is masked as the length in the first record of every event file of TensorFlow', () => {
    // Those files begin with 18 00 00 00 00 00 00 00 a3 7f 4b 22.
    expect(maskedCrc32c(bytesOf(0x18, 0, 0, 0, 0, 0, 0, 0))).toBe(0x224b7fa3)
  })
})

const step = (number: number, expert: 'high' | 'low', loss: number): MetricsEntry => ({
  type: 'step',
  step: number,
  expert,
  expertStep: number,
  loss,
  gradNorm: 0.5,
  learningRate: 1e-4,
  timesteps: [900, 950],
  lossScale: 1024,
  seconds: { total: 2, load: 0.5, data: 0.1, queue: 0.4, device: 1 },
  memory: { liveMiB: 100, peakMiB: 200 },
})

const run = (done: number): MetricsEntry => ({ type: 'run', step: done, totalSteps: 10 })

describe('createTensorBoardOutlet', () => {
  it('writes what an independent reader finds again, with every checksum right', async () => {
    const outlet = createTensorBoardOutlet({ folder, now: () => 1_700_000_000_500 })
    outlet.write(run(0))
    outlet.write(step(1, 'high', 0.25))
    outlet.write(step(300, 'low', 0.125))
    outlet.write({
      type: 'validation',
      step: 300,
      experts: { low: { loss: 0.5, bands: [{ from: 0, to: 450, loss: 0.75 }] } },
    })
    await outlet.close()
    const [name, ...more] = await readdir(folder)
    expect(more).toEqual([])
    expect(name).toMatch(/^events\.out\.tfevents\.1700000000\./)
    const bytes = await readFile(join(folder, name!))
    expect([...bytes.subarray(0, 12)]).toEqual([0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22])
    const events = readEventFile(bytes)
    expect(events[0]).toEqual({ wallTime: 1_700_000_000.5, step: 0, fileVersion: 'brain.Event:2' })
    expect(events[1]).toMatchObject({ step: 1, sessionStatus: 1 })
    expect(events[2]).toMatchObject({
      step: 1,
      scalars: {
        'loss/high_noise': 0.25,
        'grad_norm/high_noise': 0.5,
        'timestep/high_noise': 925,
        'loss_scale/high_noise': 1024,
        'seconds/total': 2,
        'seconds/load': 0.5,
        'memory_mib/peak': 200,
      },
    })
    expect(events[2]!.scalars!['learning_rate']).toBeCloseTo(1e-4, 10)
    expect(events[3]).toMatchObject({ step: 300, scalars: { 'loss/low_noise': 0.125 } })
    expect(events[3]!.scalars).not.toHaveProperty('loss/high_noise')
    expect(events[4]!.scalars).toEqual({
      'validation/low_noise': 0.5,
      'validation_band/low_noise_0-450': 0.75,
    })
    expect(events).toHaveLength(5)
  })

  it('begins a file of its own when a run goes on, from the step where it does', async () => {
    for (const [done, second] of [
      [0, 1],
      [4, 2],
    ] as const) {
      const outlet = createTensorBoardOutlet({ folder, now: () => second * 1000 })
      outlet.write(run(done))
      outlet.write(step(done + 1, 'high', 1))
      await outlet.close()
    }
    const files = (await readdir(folder)).toSorted()
    expect(files).toHaveLength(2)
    const [, start] = readEventFile(await readFile(join(folder, files[1]!)))
    expect(start).toMatchObject({ step: 5, sessionStatus: 1 })
  })

  it('warns once where it cannot write, and takes entries all the same', async () => {
    await writeFile(join(folder, 'file'), '')
    const outlet = createTensorBoardOutlet({ folder: join(folder, 'file/below') })
    outlet.write(run(0))
    outlet.write(step(1, 'high', 1))
    await outlet.close()
    outlet.write(step(2, 'high', 1))
    await outlet.close()
    expect(outlet.takeWarnings().map(({ code }) => code)).toEqual(['RUN_LOG_TENSORBOARD_FAILED'])
    expect(outlet.takeWarnings()).toEqual([])
  })
})
