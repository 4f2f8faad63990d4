import { openDevice } from '@kinora/cpu-kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { formula, formulaWeights, originalVaeName } from '../../../test/formula-weights.ts'
import { parseVaeConfig } from '../checkpoint/configs.ts'
import { vaeTensors } from './vae-layout.ts'
import { createVae, type WanVae } from './vae.ts'

const config = parseVaeConfig({ base_dim: 4, z_dim: 2, latents_mean: [1, -2], latents_std: [2, 4] })

let device: Awaited<ReturnType<typeof openDevice>>
let vae: WanVae
beforeAll(async () => {
  device = await openDevice()
  vae = await createVae(config, formulaWeights(vaeTensors(config), originalVaeName), device)
})
afterAll(() => device.destroy())

const video = (t: number, y = 16, x = 16, batch = 1) =>
  device.upload(formula('video', batch * t * y * x * 3), [batch, t, y, x, 3], 'f32')
const throws = (code: string) => expect.objectContaining({ code }) as Error

describe('the VAE', () => {
  it('has as many tensors and parameters as the release at its size', () => {
    const table = vaeTensors(parseVaeConfig({}))
    expect(table.size).toBe(194)
    let parameters = 0
    for (const shape of table.values()) parameters += shape.reduce((a, b) => a * b, 1)
    expect(parameters).toBe(126_892_531)
  })

  it('sees no later frame: latents of a shorter clip begin those of a longer one', async () => {
    const clip = video(9)
    const long = (await device.read(vae.encode(clip).mean)) as Float32Array
    const short = (await device.read(
      vae.encode(device.ops.slice(clip, 1, 0, 5)).mean,
    )) as Float32Array
    for (let channel = 0; channel < 2; channel++) {
      expect(short.subarray(channel * 8, channel * 8 + 8)).toEqual(
        long.subarray(channel * 12, channel * 12 + 8),
      )
    }
  })

  it('computes each item of a batch as if alone', async () => {
    const both = video(5, 16, 16, 2)
    const together = (await device.read(vae.encode(both).mean)) as Float32Array
    const second = vae.encode(device.ops.slice(both, 0, 1, 2)).mean
    expect(await device.read(second)).toEqual(together.subarray(together.length / 2))
  })

  it('takes less memory in chunks, and keeps nothing but its results', () => {
    const clip = video(33)
    const before = device.memory().liveBytes
    const peak = (chunkLatentFrames: number) => {
      device.resetPeak()
      device.scope(() => {
        vae.encode(clip, { chunkLatentFrames })
      })
      expect(device.memory().liveBytes).toBe(before)
      return device.memory().peakBytes - before
    }
    expect(peak(1)).toBeLessThan(0.5 * peak(8))
    const decoded = vae.decode(device.zeros([1, 2, 2, 2, 2], 'f32'))
    expect(decoded.shape).toEqual([1, 5, 16, 16, 3])
    device.release(decoded)
  })

  it('decodes part by part what it decodes as a whole, also when the reader stops early', async () => {
    const latents = device.upload(formula('latent', 2 * 4 * 4), [1, 2, 4, 2, 2], 'f32')
    const decoded = vae.decode(latents, { chunkLatentFrames: 1 })
    const whole = (await device.read(decoded)) as Float32Array
    device.release(decoded)
    const before = device.memory().liveBytes
    const parts: number[] = []
    const frames: number[] = []
    for (const part of vae.decodeChunks(latents, { chunkLatentFrames: 1 })) {
      frames.push(part.shape[1]!)
      parts.push(...((await device.read(part)) as Float32Array))
      device.release(part)
    }
    expect(frames).toEqual([5, 4, 4])
    expect(parts).toEqual([...whole])
    for (const part of vae.decodeChunks(latents, { chunkLatentFrames: 1 })) {
      device.release(part)
      break
    }
    expect(device.memory().liveBytes).toBe(before)
  })

  it('normalises and takes it back', async () => {
    const z = device.upload(Float32Array.of(3, 5, 2, -2), [1, 2, 1, 1, 2], 'f32')
    const normalised = vae.normalise(z)
    expect([...((await device.read(normalised)) as Float32Array)]).toEqual([1, 2, 1, 0])
    expect(await device.read(vae.denormalise(normalised))).toEqual(Float32Array.of(3, 5, 2, -2))
  })

  it('refuses sizes it cannot encode', () => {
    expect(() => vae.encode(video(4))).toThrowError(throws('WAN_FRAME_COUNT'))
    expect(() => vae.encode(video(5, 16, 12))).toThrowError(throws('WAN_SIZE'))
    expect(() => vae.encode(device.zeros([1, 3, 5, 16, 16], 'f32'))).toThrowError(
      throws('WAN_BAD_SHAPE'),
    )
    expect(() => vae.decode(device.zeros([1, 3, 2, 2, 2], 'f32'))).toThrowError(
      throws('WAN_BAD_SHAPE'),
    )
  })
})
