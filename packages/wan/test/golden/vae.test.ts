import type { Device } from '@kinora/kernel-api'
import { createVae, logvarRange, parseVaeConfig } from '@kinora/wan'
import { afterAll, beforeAll, describe, it } from 'vitest'
import {
  expectWithin,
  openGolden,
  openTestDevice,
  permuted,
  relativeError,
  take,
} from './golden.ts'

// Mean, log-variance and decode of the reference VAE at every length: relative L2 error ≤ 2e-4; chunked computation agrees with
// that of the whole clip to 1e-5.

let device: Device
beforeAll(async () => {
  device = await openTestDevice()
})
afterAll(() => device?.destroy())

describe('vae', () => {
  it('reproduces the reference at every length, whole and in chunks', async () => {
    await using golden = await openGolden('vae')
    const config = parseVaeConfig({
      ...(golden.config as object),
      latents_mean: JSON.parse(golden.metadata['latents_mean']!),
      latents_std: JSON.parse(golden.metadata['latents_std']!),
    })
    const vae = await createVae(config, golden.weights, device)
    // The reference clamps log-variances and decoded frames.
    const clamp = (values: Float32Array, [low, high]: readonly [number, number]) =>
      values.map((value) => Math.min(Math.max(value, low), high))
    const channelsFirst = [0, 4, 1, 2, 3] as const

    for (const key of golden.startingWith('in.video')) {
      const length = key.slice('in.video'.length)
      const [b, c, t, y, x] = golden.shape(key) as [number, number, number, number, number]
      const frames = permuted(await golden.f32(key), [b, c, t, y, x], [0, 2, 3, 4, 1])
      const video = device.upload(frames, [b, t, y, x, c], 'f32')
      const latents = await golden.upload(device, `out.mean${length}`)

      const run = async (chunkLatentFrames?: number) => {
        const { mean, logvar } = vae.encode(video, { chunkLatentFrames })
        const decoded = vae.decode(latents, { chunkLatentFrames })
        return {
          mean: await take(device, mean),
          logvar: clamp(await take(device, logvar), logvarRange),
          decoded: clamp(
            permuted(await take(device, decoded), [b, t, y, x, c], channelsFirst),
            [-1, 1],
          ),
        }
      }
      const whole = await run(t)
      for (const what of ['mean', 'logvar', 'decoded'] as const) {
        const expected = await golden.f32(`out.${what}${length}`)
        expectWithin(`vae ${length} frames ${what}`, relativeError(whole[what], expected), 2e-4)
      }
      const latentFrames = golden.shape(`out.mean${length}`)[2]!
      // The first chunk has one latent frame more: longer ones are the whole clip again.
      for (const chunk of [1, 2].filter((frames) => frames + 1 < latentFrames)) {
        const chunked = await run(chunk)
        for (const what of ['mean', 'logvar', 'decoded'] as const) {
          expectWithin(
            `vae ${length} frames ${what}, chunks of ${chunk} against whole`,
            relativeError(chunked[what], whole[what]),
            1e-5,
          )
        }
      }
      device.release(video)
      device.release(latents)
    }
    vae.release()
  })
})
