import { openDevice } from '@kinora/cpu-kernels'
import { normals, numElements } from '@kinora/kernel-api'
import { createTransformer, parseTransformerConfig, transformerTensors } from '@kinora/wan'
import { describe, expect, it } from 'vitest'
import type { Sample } from '../data/dataset.ts'
import { initialFactors, uploadFactors } from '../lora-adapters.ts'
import { LossScale } from '../loss/loss-scale.ts'
import { adamw } from '../optim/adamw.ts'
import { optimizerSettings } from '../optim/optimizers.ts'
import { trainStep } from '../train-step.ts'
import { leanPlan, richerPlans } from './recompute-plan.ts'
import { planTrainingMemory, type MemoryPlanOptions } from './plan-training-memory.ts'

const tiny = parseTransformerConfig({
  num_attention_heads: 2,
  attention_head_dim: 12,
  ffn_dim: 48,
  num_layers: 3,
  text_dim: 16,
  freq_dim: 16,
})
const options: MemoryPlanOptions = {
  transformer: tiny,
  compute: 'f32',
  rank: 4,
  batchSize: 2,
  latentSize: [3, 8, 6],
  textLength: 7,
  checkpoint: true,
  residentExperts: 1,
  trainedExperts: 1,
}

/** The same on the processor's device, with numbers. */
async function measure({ transformer: config, ...plan }: MemoryPlanOptions) {
  const device = await openDevice()
  const shapes = transformerTensors(config)
  const weights = {
    has: (name: string) => shapes.has(name),
    load: (name: string) => {
      const shape = shapes.get(name)!
      const values = normals(1, 1, numElements(shape)).map((value) => value * 0.1)
      return Promise.resolve(device.upload(values, shape, 'f32'))
    },
  }
  const transformer = await createTransformer(config, weights, device, { compute: 'f32' })
  const weightsBytes = device.memory().liveBytes
  const lora = { ...plan.network, rank: plan.rank, scale: 1 }
  const { loraTargets } = transformer
  const trained = uploadFactors(
    device,
    loraTargets,
    lora,
    initialFactors(loraTargets, lora, 'high', 0, {
      lengths: new Map(
        loraTargets.map(({ name, inFeatures }) => [name, new Float32Array(inFeatures).fill(1)]),
      ),
    }),
  )
  const optimizer = adamw(
    device,
    trained.params,
    optimizerSettings({ betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0 }),
  )
  const loraBytes = device.memory().liveBytes - weightsBytes
  device.resetPeak()
  const shape = [plan.batchSize, 16, ...plan.latentSize] as const
  const some = (seed: number) => normals(seed, 1, numElements(shape))
  const text_BLD = normals(5, 1, plan.batchSize * plan.textLength * config.textDim)
  await trainStep(
    device,
    transformer,
    {
      expert: 'high',
      lora: trained,
      optimizer,
      lossScale: new LossScale('f32'),
      average: undefined,
    },
    [
      {
        samples: [{ dataset: { network_weight: 1 } } as Sample],
        shape,
        noisy_BZFHW: some(1),
        target_BZFHW: some(2),
        condition_BZFHW: some(3),
        text_BLD,
        textShape: [plan.batchSize, plan.textLength, config.textDim],
        preservationText_BLD: plan.preservation ? text_BLD : undefined,
        maskWeights_BFHW: plan.masks
          ? new Float32Array(numElements([plan.batchSize, ...plan.latentSize])).fill(1)
          : undefined,
        timesteps: [950, 920],
        weights: [1, 1],
      },
    ],
    1,
    {
      lossKind: 'mse',
      learningRate: 1e-3,
      maxGradNorm: 1,
      accumulation: 'mean',
      checkpoint: plan.checkpoint,
      recompute: () => plan.recompute ?? leanPlan('f32'),
      dropout: plan.elementDropout
        ? () => ({ module: () => ({ elements: { probability: 0.3, seed: 1, stream: 2 } }) })
        : undefined,
      preservationMultiplier: 1,
      maxLoss: null,
    },
  )
  const stepBytes = device.memory().peakBytes - weightsBytes - loraBytes
  expect(device.memory().liveBytes).toBe(
    weightsBytes +
      loraBytes +
      ropeBytes(plan.latentSize, config.headDim) +
      // A DoRA's network remembers what its columns' squares are.
      (plan.network?.type === 'dora'
        ? loraTargets.reduce((sum, { inFeatures }) => sum + 4 * inFeatures, 0)
        : 0),
  )
  device.destroy()
  return { weightsBytes, loraBytes, stepBytes }
}

/** The network keeps the rotary tables of the sizes it has seen: cos and sin, f32. */
const ropeBytes = (
  [frames, rows, columns]: readonly [number, number, number],
  headDim: number,
): number => 2 * 4 * frames * (rows / 2) * (columns / 2) * (headDim / 2)

describe('the memory plan is what a step takes', () => {
  it.each([
    { checkpoint: true },
    { checkpoint: false },
    { checkpoint: true, preservation: true },
    { checkpoint: true, latentSize: [1, 4, 4] as const, batchSize: 2 },
    { checkpoint: true, transformer: { ...tiny, numLayers: 9 } },
    { checkpoint: true, recompute: richerPlans('f32').at(-1)! },
    { checkpoint: true, network: { type: 'lokr' } as const, masks: true },
    { checkpoint: true, network: { type: 'dora' } as const },
    { checkpoint: true, elementDropout: true },
    {
      checkpoint: true,
      transformer: { ...tiny, numLayers: 8 },
      recompute: { ...leanPlan('f32'), blocksInHostMemory: 5 },
    },
  ])('%j', async (changes) => {
    const asked = { ...options, ...changes }
    const measured = await measure(asked)
    const { weightsBytes, loraBytes, stepBytes } = await planTrainingMemory(asked)
    expect({ weightsBytes, loraBytes, stepBytes }).toEqual(measured)
  })

  it('shrinks by checkpointing, to a residual stream and a kept attention result a block', async () => {
    const deep = { ...options, transformer: { ...tiny, numLayers: 12 } }
    const whole = await planTrainingMemory({ ...deep, checkpoint: false })
    const checkpointed = await planTrainingMemory({ ...deep, checkpoint: true })
    expect(checkpointed.stepBytes).toBeLessThan(whole.stepBytes / 2)
    const deeper = await planTrainingMemory({
      ...deep,
      transformer: { ...tiny, numLayers: 13 },
      checkpoint: true,
    })
    const tokens = 2 * 3 * 4 * 3
    const dim = 24
    // x and the attention output, both [tokens, dim] f32, and the log-sum-exp of two heads. The peak is at the last block, when
    // no other has gradients yet.
    const perBlock = 4 * tokens * (2 * dim + 2)
    expect(deeper.stepBytes - checkpointed.stepBytes).toBe(perBlock)
  })

  it('plans the release model: 81 frames of 480 × 832 in f16', async () => {
    const plan = await planTrainingMemory({
      transformer: parseTransformerConfig({}),
      compute: 'f16',
      rank: 16,
      batchSize: 1,
      latentSize: [21, 60, 104],
      textLength: 512,
      checkpoint: true,
      residentExperts: 1,
      trainedExperts: 2,
    })
    const gib = (bytes: number) => bytes / 2 ** 30
    expect(gib(plan.weightsBytes)).toBeGreaterThan(26)
    expect(gib(plan.weightsBytes)).toBeLessThan(28)
    // 4.8 M parameters a rank, four f32 numbers each but for the gradient, both experts.
    expect(gib(plan.loraBytes)).toBeCloseTo((2 * 3 * 4 * 4_792_320 * 16) / 2 ** 30, 2)
    // 40 × 32,760 tokens × 5,120 × (f16 block input + f16 attention) is 25.0 GiB, and the log-sum-exp 0.2.
    expect(gib(plan.keptBytes)).toBeCloseTo(25.2, 1)
    expect(gib(plan.stepBytes)).toBeLessThan(36)
  })
})
