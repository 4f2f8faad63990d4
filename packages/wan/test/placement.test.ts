import { normals, type Device } from '@kinora/kernel-api'
import {
  loadTransformer,
  openCheckpoint,
  type TransformerOptions,
  type WanTransformer,
} from '@kinora/wan'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { goldenCheckpoint, openTestDevice, take } from './golden/golden.ts'

// What src/lib/transformer/quantized-transformer.test.ts holds the processor to, on the adapter there is: copies and work share
// a queue there, and a wrong order would show.

let device: Device
beforeAll(async () => {
  device = await openTestDevice()
})
afterAll(() => device?.destroy())

async function load(options: Partial<TransformerOptions>): Promise<WanTransformer> {
  const compute = device.info.computeDTypes.includes('f16') ? 'f16' : 'f32'
  return loadTransformer(await openCheckpoint(goldenCheckpoint), 'low', device, {
    compute,
    ...options,
  })
}

function run(transformer: WanTransformer): Promise<Float32Array> {
  const shape = [1, 36, 3, 8, 8]
  return take(
    device,
    device.scope(() =>
      transformer.forward(device.ops, {
        latents: device.upload(normals(5, 0, 36 * 3 * 64), shape, 'f32'),
        timesteps: [300],
        text: device.upload(normals(5, 1, 48 * 128), [1, 48, 128], 'f32'),
      }),
    ),
  )
}

describe.each(['uint4', 'qfloat8', undefined] as const)('weights packed as %s', (quantize) => {
  it('give the same numbers resident, streamed, and back from host memory', async () => {
    const resident = await load({ quantize })
    const want = await run(resident)
    const residentBytes = device.memory().liveBytes
    await resident.toHost()
    const parked = device.memory().parkedBytes
    expect(residentBytes - device.memory().liveBytes).toBeGreaterThanOrEqual(0.95 * parked)
    expect(await run(resident)).toEqual(want)
    resident.release()

    const streamed = await load({ quantize, streamedShare: 1 })
    for (let i = 0; i < 3; i++) expect(await run(streamed)).toEqual(want)
    // Two of eight blocks are on the device.
    expect(residentBytes - device.memory().liveBytes).toBeGreaterThanOrEqual(0.7 * parked)
    streamed.release()
    expect(device.memory()).toMatchObject({ liveBytes: 0, parkedBytes: 0 })
  })
})
