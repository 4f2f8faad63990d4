import { fileURLToPath } from 'node:url'
import { normals, numElements, type Device } from '@kinora/kernel-api'
import { loadTransformer, openCheckpoint, type QuantizeScheme } from '@kinora/wan'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { overheadOf } from '../src/lib/estimate/device-speed.ts'
import { initialFactors, uploadFactors } from '../src/lib/lora-adapters.ts'
import { LossScale } from '../src/lib/loss/loss-scale.ts'
import { planTrainingMemory } from '../src/lib/memory/plan-training-memory.ts'
import { leanPlan, richerPlans, type RecomputePlan } from '../src/lib/memory/recompute-plan.ts'
import { createOptimizer } from '../src/lib/optim/optimizers.ts'
import { trainStep } from '../src/lib/train-step.ts'
import type { Sample } from '../src/lib/data/dataset.ts'
import { openTestDevice } from './open-test-device.ts'

// The memory plan against what a device itself says it held, on tiny-wan.

const folder = fileURLToPath(new URL('../../tiny-wan/checkpoint', import.meta.url))

let device: Device
beforeAll(async () => {
  device = await openTestDevice()
})
afterAll(() => device.destroy())

interface Case {
  name: string
  compute: 'f32' | 'f16'
  quantize?: QuantizeScheme
  streamedShare?: number
  optimizer?: 'adamw' | 'adamw8bit' | 'lion'
  checkpoint?: boolean
  recompute: RecomputePlan
}

const cases: readonly Case[] = [
  { name: 'lean, f32', compute: 'f32', recompute: leanPlan('f32') },
  { name: 'lean, f16', compute: 'f16', recompute: leanPlan('f16') },
  { name: 'half of the linears', compute: 'f16', recompute: richerPlans('f16')[4]! },
  { name: 'all kept', compute: 'f16', recompute: richerPlans('f16').at(-1)! },
  { name: 'nothing run again', compute: 'f16', checkpoint: false, recompute: leanPlan('f16') },
  { name: 'uint4', compute: 'f16', quantize: 'uint4', recompute: leanPlan('f16') },
  {
    name: 'float8, lion',
    compute: 'f32',
    quantize: 'float8',
    optimizer: 'lion',
    recompute: leanPlan('f32'),
  },
  {
    name: 'uint4, streamed, all but two blocks away, states in 8 bits',
    compute: 'f16',
    quantize: 'uint4',
    streamedShare: 1,
    optimizer: 'adamw8bit',
    recompute: { ...leanPlan('f16'), blocksInHostMemory: 6 },
  },
]

/** The most bytes two steps held, the first of which compiles. */
async function measure(
  { compute, quantize, streamedShare, optimizer = 'adamw', checkpoint = true, recompute }: Case,
  latentSize: readonly [number, number, number],
  rank: number,
): Promise<{ peak: number; parked: number; textLength: number }> {
  const before = device.memory().liveBytes
  const opened = await openCheckpoint(folder)
  const transformer = await loadTransformer(opened, 'high', device, {
    compute,
    quantize,
    streamedShare,
  })
  const targets = transformer.loraTargets
  const options = { rank, scale: 1 }
  const lora = uploadFactors(device, targets, options, initialFactors(targets, options, 'high', 0))
  const optimiser = createOptimizer(optimizer, device, lora.params, {
    betas: [0.9, 0.999],
    eps: 1e-8,
    weight_decay: 0,
  })
  const shape = [1, 16, ...latentSize] as const
  const some = (seed: number): Float32Array => normals(seed, 1, numElements(shape))
  const { textLength, transformer: config } = opened
  let [peak, parked] = [0, 0]
  for (const step of [1, 2]) {
    device.resetPeak()
    await trainStep(
      device,
      transformer,
      {
        expert: 'high',
        lora,
        optimizer: optimiser,
        lossScale: new LossScale(compute),
        average: undefined,
      },
      [
        {
          samples: [{ dataset: { network_weight: 1 } } as Sample],
          shape,
          noisy_BZFHW: some(1),
          target_BZFHW: some(2),
          condition_BZFHW: some(3),
          text_BLD: normals(4, 1, textLength * config.textDim),
          textShape: [1, textLength, config.textDim],
          preservationText_BLD: undefined,
          timesteps: [950],
          weights: [1],
        },
      ],
      step,
      {
        lossKind: 'mse',
        learningRate: 1e-4,
        maxGradNorm: 1,
        accumulation: 'mean',
        checkpoint,
        recompute: () => recompute,
        preservationMultiplier: 1,
        maxLoss: null,
      },
    )
    peak = device.memory().peakBytes - before
    parked = device.memory().parkedBytes
  }
  lora.release()
  optimiser.release()
  transformer.release()
  expect(device.memory().liveBytes).toBe(before)
  expect(device.memory().parkedBytes).toBe(0)
  return { peak, parked, textLength }
}

describe('the memory plan is within three parts in a hundred of what a device says', () => {
  it.each(cases)('$name', { timeout: 60_000 }, async (each) => {
    if (!device.info.computeDTypes.includes(each.compute)) return
    const latentSize = [5, 16, 16] as const
    const rank = 8
    const { peak, parked, textLength } = await measure(each, latentSize, rank)
    const { transformer } = await openCheckpoint(folder)
    const plan = await planTrainingMemory({
      ...each,
      transformer,
      checkpoint: each.checkpoint ?? true,
      rank,
      batchSize: 1,
      latentSize,
      textLength,
      residentExperts: 1,
      trainedExperts: 1,
      overhead: overheadOf(device.info),
    })
    expect(parked > 0).toBe(each.streamedShare !== undefined)
    expect(plan.totalBytes / peak).toBeGreaterThan(0.97)
    expect(plan.totalBytes / peak).toBeLessThan(1.03)
  })
})
