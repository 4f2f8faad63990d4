import type { Device } from '@kinora/kernel-api'
import { buildCondition, loadTextEncoder, loadVae, openCheckpoint } from '@kinora/wan'
import { afterAll, beforeAll, it } from 'vitest'
import {
  expectWithin,
  goldenCheckpoint,
  openGolden,
  openTestDevice,
  permuted,
  relativeError,
  take,
} from './golden.ts'

// What the reference pipeline gives the transformer, on tiny-wan's checkpoint: prompt states and condition ≤ 1e-3.

const bar = 1e-3

let device: Device
beforeAll(async () => {
  device = await openTestDevice()
})
afterAll(() => device?.destroy())

it('encodes the prompts as the reference does', async () => {
  await using golden = await openGolden('sampling')
  const encoder = await loadTextEncoder(await openCheckpoint(goldenCheckpoint), device)
  const { prompt, negative_prompt: negative } = golden.metadata as Record<string, string>
  const states = await take(device, await encoder.encode([prompt!, negative!]))
  const half = states.length / 2
  const error = async (part: Float32Array, name: string) =>
    expectWithin(name, relativeError(part, await golden.f32(`mid.${name}`)), bar)
  await error(states.subarray(0, half), 'prompt_embeds')
  await error(states.subarray(half), 'negative_embeds')
  await encoder.release()
})

it('builds the condition as the reference does', async () => {
  await using golden = await openGolden('sampling')
  const vae = await loadVae(await openCheckpoint(goldenCheckpoint), device)
  const [, , height, width] = golden.shape('mid.preprocessed') as [number, number, number, number]
  const numFrames = (golden.shape('in.latents')[2]! - 1) * vae.config.temporalFactor + 1
  // The image as the pipeline has scaled it already; the frames after it are grey.
  const image = permuted(await golden.f32('mid.preprocessed'), [1, 3, height, width], [0, 2, 3, 1])
  const frames = new Float32Array(numFrames * image.length)
  frames.set(image)
  const video = device.upload(frames, [1, numFrames, height, width, 3], 'f32')
  const condition = device.scope(() =>
    buildCondition(device.ops, vae.normalise(vae.encode(video).mean)),
  )
  expectWithin(
    'condition',
    relativeError(await take(device, condition), await golden.f32('mid.condition')),
    bar,
  )
  device.release(video)
  vae.release()
})
