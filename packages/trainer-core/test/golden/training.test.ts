import { fileURLToPath } from 'node:url'
import type { Device } from '@kinora/kernel-api'
import { loadTransformer, openCheckpoint } from '@kinora/wan'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Sample } from '../../src/lib/data/dataset.ts'
import { readLoraWeights, uploadFactors } from '../../src/lib/lora-adapters.ts'
import { LossScale } from '../../src/lib/loss/loss-scale.ts'
import type { MicroBatch } from '../../src/lib/noise/prepare-micro-batch.ts'
import { experts } from '../../src/lib/noise/random-streams.ts'
import { adamw } from '../../src/lib/optim/adamw.ts'
import { optimizerSettings } from '../../src/lib/optim/optimizers.ts'
import { trainStep } from '../../src/lib/train-step.ts'
import { openTestDevice } from '../open-test-device.ts'
import { listGolden, openGolden, printFigure, relativeError } from './golden-files.ts'

// AdamW steps of both experts of tiny-wan from given noise, against PyTorch's: every loss, and the LoRA at the end.

const bars = { loss: 1e-4, weights: 1e-3 }
const checkpointFolder =
  process.env['KINORA_GOLDEN_CHECKPOINT'] ??
  fileURLToPath(new URL('../../../tiny-wan/checkpoint', import.meta.url))

/** A number that follows a word in the settings text of the file's metadata. */
function setting(text: string, word: string, index = 0): number {
  const words = text.replaceAll(',', ' ').split(/\s+/)
  const value = Number(words[words.indexOf(word) + 1 + index])
  if (!words.includes(word) || Number.isNaN(value)) throw new Error(`"${text}" has no ${word}.`)
  return value
}

let device: Device
beforeAll(async () => {
  device = await openTestDevice()
})
afterAll(() => device.destroy())

describe.each(listGolden('training'))('%s', (name) => {
  it.each(experts)('%s-noise expert', { timeout: 300_000 }, async (expert) => {
    await using golden = await openGolden(name)
    const { optimizer: text, rank: rankText, scale } = golden.metadata as Record<string, string>
    const rank = Number(rankText)
    const settings = optimizerSettings({
      betas: [setting(text!, 'betas'), setting(text!, 'betas', 1)],
      eps: setting(text!, 'eps'),
      weight_decay: setting(text!, 'weight_decay'),
    })
    const read = async (key: string) => ({
      values: await golden.readF32(`${expert}.${key}`),
      shape: golden.tensors.get(`${expert}.${key}`)!.shape,
    })
    const [noise, sigma, z, cond, textStates, losses] = await Promise.all(
      ['noise', 'sigma', 'z', 'cond', 'text', 'loss'].map(read),
    )
    const numClips = z!.shape[0]!
    const clipLength = z!.values.length / numClips
    const shape = [1, ...z!.shape.slice(1)] as [number, number, number, number, number]

    const before = device.memory().liveBytes
    const checkpoint = await openCheckpoint(checkpointFolder)
    const transformer = await loadTransformer(checkpoint, expert, device, { compute: 'f32' })
    const factors: Float32Array[] = []
    for (const target of transformer.loraTargets) {
      factors.push(
        (await read(`init.${target.name}.A`)).values,
        new Float32Array(target.outFeatures * rank),
      )
    }
    const lora = uploadFactors(
      device,
      transformer.loraTargets,
      { rank, scale: Number(scale) },
      factors,
    )
    const learner = {
      expert,
      lora,
      optimizer: adamw(device, lora.params, settings),
      lossScale: new LossScale('f32'),
      average: undefined,
    }
    // Only the LoRA's weight of the sample's set matters to a step.
    const samples = [{ dataset: { network_weight: 1 } }] as unknown as readonly Sample[]

    let worstLoss = 0
    for (let step = 0; step < losses!.values.length; step++) {
      const clip = step % numClips
      const part = (values: Float32Array, i: number) =>
        values.subarray(i * clipLength, (i + 1) * clipLength)
      const [x0, epsilon, s] = [
        part(z!.values, clip),
        part(noise!.values, step),
        sigma!.values[step]!,
      ]
      const batch: MicroBatch = {
        samples,
        shape,
        noisy_BZFHW: x0.map((x, i) => (1 - s) * x + s * epsilon[i]!),
        target_BZFHW: x0.map((x, i) => epsilon[i]! - x),
        condition_BZFHW: part(cond!.values, clip),
        text_BLD: textStates!.values,
        textShape: textStates!.shape as unknown as readonly [number, number, number],
        preservationText_BLD: undefined,
        timesteps: [1000 * s],
        weights: [1],
      }
      const { loss } = await trainStep(device, transformer, learner, [batch], step + 1, {
        lossKind: 'mse',
        learningRate: setting(text!, 'lr'),
        maxGradNorm: setting(text!, 'clip_grad_norm'),
        accumulation: 'mean',
        checkpoint: true,
        preservationMultiplier: 0,
        maxLoss: null,
      })
      worstLoss = Math.max(worstLoss, Math.abs(loss / losses!.values[step]! - 1))
    }
    const label = `${name} ${expert} on ${device.info.adapter}`
    printFigure(`${label}, worst of ${losses!.values.length} losses`, worstLoss, bars.loss)

    let worst = { key: '', error: -1 }
    for (const [module, { a, b }] of (await readLoraWeights(device, lora)).modules) {
      for (const [key, values] of [
        [`${module}.A`, a],
        [`${module}.B`, b],
      ] as const) {
        const error = relativeError(values, (await read(`final.${key}`)).values)
        if (error > worst.error) worst = { key, error }
      }
    }
    printFigure(`${label}, worst final weight (${worst.key})`, worst.error, bars.weights)
    lora.release()
    learner.optimizer.release()
    transformer.release()
    expect(device.memory().liveBytes).toBe(before)
    expect(worstLoss).toBeLessThanOrEqual(bars.loss)
    expect(worst.error).toBeLessThanOrEqual(bars.weights)
  })
})
