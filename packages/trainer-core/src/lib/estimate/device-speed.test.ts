import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Device } from '@kinora/kernel-api'
import { openTestDevice } from '../../../test/open-test-device.ts'
import { noWork } from '../memory/counting-device.ts'
import { deviceSpeedSchema, knownSpeed, measureSpeed, secondsOf } from './device-speed.ts'

const h100 = knownSpeed('NVIDIA H100 80GB HBM3')!
const work = { ...noWork(), trafficBytes: 0, awayBytes: 0 }

describe('seconds of work', () => {
  it('are the sum of all kinds at their rates, and of what each op takes beside', () => {
    const kinds = Object.keys(noWork()).filter((kind) => kind !== 'numOps')
    const each = Object.fromEntries(kinds.map((kind) => [kind, h100[kind as 'bytes']]))
    const seconds = secondsOf({ ...work, ...each, numOps: 1000 }, h100)
    expect(seconds).toBeCloseTo(kinds.length + 1000 * h100.opSeconds, 9)
  })

  it('are those of queueing where the device waits for the host', () => {
    expect(secondsOf({ ...work, bytes: 1e9, numOps: 10_000 }, h100)).toBeCloseTo(
      10_000 * h100.queueSeconds,
      9,
    )
  })
})

describe('a device', () => {
  let device: Device
  beforeAll(async () => {
    device = await openTestDevice()
  })
  afterAll(() => device.destroy())

  it('is measured in all kinds of work, and left as it was', async () => {
    const { liveBytes, parkedBytes } = device.memory()
    const speed = await measureSpeed(device, 'f32', 0.2)
    expect(deviceSpeedSchema.parse(speed)).toEqual(speed)
    expect(device.memory()).toMatchObject({ liveBytes, parkedBytes })
  })
})
