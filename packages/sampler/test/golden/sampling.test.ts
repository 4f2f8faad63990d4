import { existsSync } from 'node:fs'
import { readLora } from '@kinora/lora-files'
import { openSafetensors } from '@kinora/safetensors'
import { openCheckpoint } from '@kinora/wan'
import { afterAll, describe, expect, test } from 'vitest'
import { openPipeline, type GenerateOptions, type PipelineLora } from '../../src/index.ts'
import {
  expectAtLeast,
  expectAtMost,
  goldenFile,
  openTestDevice,
  relativeError,
  tinyCheckpoint,
} from './golden-files.ts'

// The whole pipeline on tiny-wan against diffusers, every setting read from the file.

await using golden = await openSafetensors(goldenFile('sampling.safetensors'))
const tensor = (name: string) => golden.readF32(name)
const read = new Map<string, Float32Array>()
for (const [name, { dtype }] of golden.tensors)
  if (dtype === 'F32') read.set(name, await tensor(name))
const imageBytes = await golden.read('in.image')

const device = await openTestDevice()
const checkpoint = await openCheckpoint(tinyCheckpoint)
const pipeline = openPipeline(checkpoint, device, { compute: 'f32' })
afterAll(() => {
  pipeline.release()
  device.destroy()
})

/** First number after a word in one of the file's notes. */
function setting(note: string, pattern: RegExp): number {
  const found = pattern.exec(golden.metadata[note] ?? '')
  if (!found) throw new Error(`${note} of the golden file says ${golden.metadata[note]}`)
  return Number(found[1])
}

const [, , latentFrames, latentRows, latentColumns] = golden.tensors.get('in.latents')!.shape
const { temporalFactor, spatialFactor } = checkpoint.vae
const width = latentColumns! * spatialFactor
const height = latentRows! * spatialFactor
const base = {
  image: { width, height, data: imageBytes },
  prompt: golden.metadata['prompt']!,
  negativePrompt: golden.metadata['negative_prompt']!,
  seed: 0,
  width,
  height,
  numFrames: (latentFrames! - 1) * temporalFactor + 1,
  steps: Number(golden.metadata['steps']),
  boundary: Number(golden.metadata['boundary_ratio']),
  latents: read.get('in.latents')!,
}
const unipc: GenerateOptions = {
  ...base,
  scheduler: 'unipc',
  shift: setting('unipc', /shift ([\d.]+)/),
  guidance: setting('unipc', /guidance ([\d.]+)/),
  guidance2: setting('unipc', /\(high\) ([\d.]+) \(low\)/),
}
const euler: GenerateOptions = {
  ...base,
  scheduler: 'euler',
  shift: setting('euler', /shift ([\d.]+)/),
  guidance: setting('euler', /guidance ([\d.]+)/),
}
const nocfg: GenerateOptions = {
  ...unipc,
  guidance: setting('nocfg', /guidance ([\d.]+)/),
  guidance2: undefined,
}

async function loras(): Promise<PipelineLora[]> {
  const weight = setting('lora', /weight ([\d.]+)/)
  return await Promise.all(
    (['high', 'low'] as const).map(async (expert) => {
      const file = goldenFile(`lora_${expert}_noise.safetensors`)
      expect(existsSync(file)).toBe(true)
      return { expert, weights: await readLora(file), weight }
    }),
  )
}

// Seconds on an idle machine; a software adapter on a busy one takes a minute a test.
describe('sampling.safetensors', { timeout: 300_000 }, () => {
  test('prompt embeddings and condition', async () => {
    const inputs = await pipeline.encode(base)
    const check = (what: string, got: Float32Array, name: string) =>
      expectAtMost(`sampling ${what}`, relativeError(got, read.get(name)!), 1e-3)
    check('prompt embeddings', inputs.promptEmbeds, 'mid.prompt_embeds')
    check('negative embeddings', inputs.negativeEmbeds, 'mid.negative_embeds')
    check('condition', inputs.condition, 'mid.condition')
    expect(inputs.textShape).toEqual(golden.tensors.get('mid.prompt_embeds')!.shape)
    expect(inputs.conditionShape).toEqual(golden.tensors.get('mid.condition')!.shape)
  })

  test('UniPC: final latents, and decoded frames', async () => {
    const clip = await pipeline.generate(unipc)
    const error = relativeError(clip.finalLatents, read.get('out.unipc.latents')!)
    expectAtMost('sampling unipc latents', error, 1e-3)
    const want = read.get('out.unipc.frames')!
    let squares = 0
    let at = 0
    for (const { data } of clip.frames) {
      for (const byte of data) squares += (byte / 255 - want[at++]!) ** 2
    }
    expect(at).toBe(want.length)
    expectAtLeast('sampling decoded frames, PSNR in dB', -10 * Math.log10(squares / at), 45)
  })

  test('Euler: final latents', async () => {
    const clip = await pipeline.generate(euler)
    const error = relativeError(clip.finalLatents, read.get('out.euler.latents')!)
    expectAtMost('sampling euler latents', error, 1e-3)
  })

  test('without guidance: final latents', async () => {
    const clip = await pipeline.generate(nocfg)
    const error = relativeError(clip.finalLatents, read.get('out.nocfg.latents')!)
    expectAtMost('sampling nocfg latents', error, 1e-3)
  })

  test('with both LoRA files: final latents', async () => {
    const clip = await pipeline.generate({ ...unipc, loras: await loras() })
    const error = relativeError(clip.finalLatents, read.get('out.lora.latents')!)
    expectAtMost('sampling lora latents', error, 1e-3)
  })

  test('nothing of a clip stays on the device', () => {
    const { liveBytes } = device.memory()
    pipeline.release()
    expect(device.memory().liveBytes).toBe(0)
    expect(liveBytes).toBeGreaterThan(0)
  })
})
