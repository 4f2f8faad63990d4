import { openDevice, type CpuDevice } from '@kinora/cpu-kernels'
import { normals, numElements, type Device, type Tensor } from '@kinora/kernel-api'
import {
  adaptedLinear,
  createTransformer,
  parseTransformerConfig,
  transformerTensors,
  type WanTransformer,
} from '@kinora/wan'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { gradientErrors } from '../../test/finite-differences.ts'
import type { Sample } from './data/dataset.ts'
import {
  initialFactors,
  uploadFactors,
  type LoraOptions,
  type TrainedLora,
} from './lora-adapters.ts'
import { LossScale } from './loss/loss-scale.ts'
import { formOf } from './module-forms.ts'
import type { MicroBatch } from './noise/prepare-micro-batch.ts'
import { createOptimizer } from './optim/optimizers.ts'
import { predictVelocity, trainStep, type StepOptions } from './train-step.ts'

// Gradients of whole steps against central differences of the loss that the step reports, in f64: what each option adds to the
// loss is also what it adds to the gradient.

const config = parseTransformerConfig({
  num_attention_heads: 2,
  attention_head_dim: 12,
  ffn_dim: 32,
  num_layers: 2,
  text_dim: 8,
  freq_dim: 16,
})
const shape = [2, 16, 2, 4, 2] as const
const some = (seed: number, scale = 1) =>
  normals(seed, 1, numElements(shape)).map((value) => value * scale)
const text = (seed: number) => normals(seed, 2, 2 * 5 * 8)

function makeBatch(seed: number, changes: Partial<MicroBatch> = {}, dataset = {}): MicroBatch {
  return {
    samples: [{ dataset: { network_weight: 1, prior_reg: false, ...dataset } } as Sample],
    shape,
    noisy_BZFHW: some(seed),
    target_BZFHW: some(seed + 1),
    condition_BZFHW: some(seed + 2),
    text_BLD: text(seed + 3),
    textShape: [2, 5, 8],
    preservationText_BLD: undefined,
    timesteps: [940, 610],
    weights: [1, 1],
    ...changes,
  }
}

// Cells [2, 2, 4, 2], every third black.
const mask_BFHW = Float32Array.from({ length: 32 }, (_, i) => (i % 3 === 0 ? 0 : 1))
const masked = { mask_BFHW, maskWeights_BFHW: mask_BFHW.map((value) => 1.5 * value) }

const plain: StepOptions = {
  lossKind: 'mse',
  learningRate: 1,
  maxGradNorm: 0,
  accumulation: 'mean',
  checkpoint: true,
  preservationMultiplier: 1,
  maxLoss: null,
}

let cpu: CpuDevice
/** The same with every digit of what it reads. */
let device: Device
let transformer: WanTransformer
let lora: TrainedLora
beforeAll(async () => {
  cpu = await openDevice({ precision: 'f64' })
  device = new Proxy<Device>(cpu, {
    get(target, name) {
      if (name === 'read') return (tensor: Tensor) => Promise.resolve(cpu.readF64(tensor))
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  const shapes = transformerTensors(config)
  const weights = {
    has: (name: string) => shapes.has(name),
    load(name: string) {
      const own = shapes.get(name)!
      const seed = [...shapes.keys()].indexOf(name)
      const values = normals(seed, 3, numElements(own)).map((value) => value * 0.3)
      return Promise.resolve(device.upload(values, own, 'f32'))
    },
  }
  transformer = await createTransformer(config, weights, device, { compute: 'f32' })
  const factors = transformer.loraTargets.flatMap(({ inFeatures, outFeatures }, i) => [
    normals(i, 4, 3 * inFeatures).map((value) => value * 0.3),
    normals(i, 5, 3 * outFeatures).map((value) => value * 0.3),
  ])
  lora = uploadFactors(device, transformer.loraTargets, { rank: 3, scale: 1 }, factors)
})
afterAll(() => cpu.destroy())

/** One step whose optimiser only looks. */
async function look(
  batches: readonly MicroBatch[],
  options: Partial<StepOptions>,
  trained = lora,
): Promise<{ loss: number; gradients: Float64Array[]; gradNorm: number }> {
  let gradients: Float64Array[] = []
  const optimizer = {
    state: new Map(),
    numbers: {},
    update(grads: readonly Tensor[], { gradScale }: { gradScale: number }) {
      gradients = grads.map((grad) => cpu.readF64(grad).map((value) => value * gradScale))
    },
    release: () => {},
  }
  const lossScale = new LossScale('f32')
  const learner = {
    expert: 'high',
    lora: trained,
    optimizer,
    lossScale,
    average: undefined,
  } as const
  const before = cpu.memory().liveBytes
  const result = await trainStep(device, transformer, learner, batches, 1, { ...plain, ...options })
  // The rotary tables of a new size stay; nothing else does.
  expect(cpu.memory().liveBytes - before).toBeLessThanOrEqual(2 * 8 * 4 * 6)
  return { loss: result.loss, gradients, gradNorm: result.gradNorm }
}

const rankDropout: StepOptions['dropout'] = () => ({
  module: (module) => (module === 2 ? false : {}),
  ranks: (module) => Float32Array.from([0, 1, 2], (i) => ((i + module) % 3 === 0 ? 0 : 1.5)),
})
const elementDropout: StepOptions['dropout'] = () => ({
  module: (module) => ({ elements: { probability: 0.4, seed: 5, stream: module } }),
})

describe('the gradient of a step is that of its loss', () => {
  it.each<[string, () => MicroBatch[], Partial<StepOptions>]>([
    ['plain', () => [makeBatch(1)], {}],
    ['weighted items', () => [makeBatch(1, { weights: [0.3, 2] })], {}],
    ['mean absolute error', () => [makeBatch(1)], { lossKind: 'mae' }],
    ['pseudo-Huber', () => [makeBatch(1)], { lossKind: 'pseudo-huber' }],
    ['two micro-batches', () => [makeBatch(1), makeBatch(11, { weights: [2, 0.5] })], {}],
    ['a LoRA weight of the set', () => [makeBatch(1, {}, { network_weight: 0.4 })], {}],
    [
      'preservation of the output for another prompt',
      () => [makeBatch(1, { preservationText_BLD: text(77) })],
      { preservationMultiplier: 0.7 },
    ],
    ['regularisation towards the base model', () => [makeBatch(1, {}, { prior_reg: true })], {}],
    ['divergence from the base model', () => [makeBatch(1)], { priorDivergence: true }],
    ['a loss mask', () => [makeBatch(1, masked)], {}],
    [
      'a loss mask, and the base model outside it',
      () => [makeBatch(1, masked)],
      { insideMaskOnly: 0.5, priorDivergence: true },
    ],
    ['dropped ranks and a module', () => [makeBatch(1)], { dropout: rankDropout }],
    ['dropped elements', () => [makeBatch(1)], { dropout: elementDropout }],
    ['without checkpoints', () => [makeBatch(1)], { checkpoint: false, dropout: elementDropout }],
  ])('%s', async (_, batches, options) => {
    await compareWithDifferences(batches, options, lora)
  })

  const some = (length: number, seed: number, scale = 0.3) =>
    normals(seed, 9, length).map((value) => value * scale)

  it.each<[string, LoraOptions]>([
    ['LoKr of whole factors', { type: 'lokr', rank: 2, scale: 1 }],
    ['LoKr with w2 in two factors', { type: 'lokr', rank: 1, scale: 0.5, fullRank: false }],
    ['LoKr by a given factor', { type: 'lokr', rank: 2, scale: 1, factor: 2 }],
  ])('%s, with a LoRA weight of the set', async (_, options) => {
    const values = transformer.loraTargets.flatMap((target) =>
      formOf(options)
        .parts(target, options)
        .map(({ shape: [r, c] }, i) => some(r! * c!, target.inFeatures + i)),
    )
    const trained = uploadFactors(device, transformer.loraTargets, options, values)
    const batches = () => [makeBatch(1, {}, { network_weight: 0.7 })]
    await compareWithDifferences(batches, {}, trained)
    trained.release()
  })

  it('the lengths of a DoRA’s columns; those of its factors take the lengths as constants', async () => {
    const options: LoraOptions = { type: 'dora', rank: 3, scale: 0.8 }
    const { loraTargets } = transformer
    const lengths = await transformer.columnLengths(loraTargets.map(({ name }) => name))
    const values = loraTargets.flatMap(({ name, inFeatures, outFeatures }, i) => [
      some(3 * inFeatures, i),
      some(3 * outFeatures, i + 100),
      Float32Array.from(lengths.get(name)!, (value, k) => value * (1 + 0.1 * ((k % 3) - 1))),
    ])
    const trained = uploadFactors(device, loraTargets, options, values)
    const isLength = (_: Tensor, i: number): boolean => trained.names[i]!.endsWith('dora_scale')
    await compareWithDifferences(() => [makeBatch(1)], {}, trained, isLength)
    trained.release()

    // One linear by itself, its lengths held: factors, lengths and input all have the gradient of what is computed.
    const upload = (seed: number, ...own: number[]): Tensor =>
      cpu.upload(
        some(
          own.reduce((p, q) => p * q, 1),
          seed,
          1,
        ),
        own,
        'f32',
      )
    const [x, w, a, b] = [upload(1, 4, 6), upload(2, 5, 6), upload(3, 2, 6), upload(4, 5, 2)]
    const [magnitude, inverse] = [upload(5, 6), upload(6, 6)]
    const adapter = { a, b, scale: 0.8, magnitude, strength: 0.6 }
    const errors = gradientErrors(
      cpu,
      (ops) => adaptedLinear(ops, x, { name: 'q', weight: w }, [adapter], () => inverse, 'q'),
      [x, a, b, magnitude],
    )
    for (const error of errors) expect(error).toBeLessThan(1e-7)
    for (const tensor of [x, w, a, b, magnitude, inverse]) cpu.release(tensor)
  })
})

/** Along random directions of the parameters that `moves` names, all unless given. */
async function compareWithDifferences(
  batches: () => MicroBatch[],
  options: Partial<StepOptions>,
  trained: TrainedLora,
  moves: (param: Tensor, i: number) => boolean = () => true,
): Promise<void> {
  const { gradients } = await look(batches(), options, trained)
  for (const seed of [1, 2]) {
    const directions = trained.params.map((param, i) =>
      moves(param, i)
        ? normals(seed * 1000 + i, 6, numElements(param.shape))
        : new Float32Array(numElements(param.shape)),
    )
    const start = trained.params.map((param) => cpu.readF64(param))
    const lossAt = async (by: number): Promise<number> => {
      trained.params.forEach((param, i) =>
        cpu.write(
          param,
          start[i]!.map((value, k) => value + by * directions[i]![k]!),
        ),
      )
      return (await look(batches(), options, trained)).loss
    }
    const expected = ((await lossAt(1e-6)) - (await lossAt(-1e-6))) / 2e-6
    await lossAt(0)
    const found = gradients.reduce(
      (sum, grad, i) => sum + grad.reduce((part, g, k) => part + g * directions[i]![k]!, 0),
      0,
    )
    expect(Math.abs(found - expected)).toBeLessThan(1e-6 * Math.max(1, Math.abs(expected)))
    expect(Math.abs(found)).toBeGreaterThan(1e-4)
  }
}

describe('each kind of network', () => {
  it.each<LoraOptions>([
    { type: 'lora', rank: 4, scale: 1 },
    { type: 'dora', rank: 4, scale: 1 },
    { type: 'lokr', rank: 4, scale: 1 },
    { type: 'lokr', rank: 1, scale: 1, fullRank: false },
  ])('%j begins as the base model and learns a batch', async (options) => {
    const { loraTargets } = transformer
    const lengths = await transformer.columnLengths(loraTargets.map(({ name }) => name))
    const trained = uploadFactors(
      device,
      loraTargets,
      options,
      initialFactors(loraTargets, options, 'high', 3, { lengths }),
    )
    const optimizer = createOptimizer('adamw', device, trained.params, {
      betas: [0.9, 0.99],
      eps: 1e-8,
      weight_decay: 0,
    })
    const lossScale = new LossScale('f32')
    const learner = {
      expert: 'high',
      lora: trained,
      optimizer,
      lossScale,
      average: undefined,
    } as const
    const losses: number[] = []
    for (let step = 1; step <= 25; step++) {
      const { loss } = await trainStep(device, transformer, learner, [makeBatch(1)], step, {
        ...plain,
        learningRate: 0.02,
      })
      losses.push(loss)
    }
    const base = cpu.scope(() => {
      const { prediction } = predictVelocity(device, transformer, makeBatch(1), new Map())
      const target = some(2)
      const values = cpu.readF64(prediction)
      return values.reduce((sum, value, i) => sum + (value - target[i]!) ** 2, 0) / values.length
    })
    // The lengths of a DoRA are rounded to f32.
    expect(losses[0]).toBeCloseTo(base, 6)
    expect(losses.at(-1)! / losses[0]!).toBeLessThan(0.9)
    optimizer.release()
    trained.release()
  })
})

describe('a step', () => {
  it('preserves: the loss is the base model’s distance, and nothing where the LoRA does nothing', async () => {
    const other = text(77)
    const { loss } = await look([makeBatch(1, { preservationText_BLD: other })], {})
    const { loss: alone } = await look([makeBatch(1)], {})
    const distance = cpu.scope(() => {
      const batch = makeBatch(1, { text_BLD: other })
      const upload = (data: Float32Array) => cpu.upload(data, shape, 'f32')
      const { ops } = cpu
      const first = ops.affine(ops.slice(upload(batch.condition_BZFHW), 1, 0, 4), { scale: 0 })
      const given = ops.concat(
        [ops.affine(ops.slice(first, 2, 0, 1), { offset: 1 }), ops.slice(first, 2, 1, 2)],
        2,
      )
      const latents = ops.concat(
        [upload(batch.noisy_BZFHW), given, upload(batch.condition_BZFHW)],
        1,
      )
      const input = {
        latents,
        timesteps: batch.timesteps,
        text: cpu.upload(other, [2, 5, 8], 'f32'),
      }
      const [base, own] = [{}, { adapters: lora.adapters }].map((run) =>
        cpu.readF64(transformer.forward(ops, input, run)),
      )
      return base!.reduce((sum, value, i) => sum + (value - own![i]!) ** 2, 0) / base!.length
    })
    expect(loss - alone).toBeCloseTo(distance, 10)
  })

  it('multiplies the gradient of differential guidance, clips it, and sums where asked', async () => {
    const once = await look([makeBatch(1)], {})
    const three = await look([makeBatch(1)], { gradientFactor: 3 })
    expect(three.gradNorm).toBeCloseTo(3 * once.gradNorm, 9)
    expect(three.loss).toBe(once.loss)
    const clipped = await look([makeBatch(1)], { maxGradNorm: once.gradNorm / 2 })
    const norm = Math.sqrt(
      clipped.gradients.reduce((sum, grad) => sum + grad.reduce((part, g) => part + g * g, 0), 0),
    )
    expect(norm / (once.gradNorm / 2)).toBeCloseTo(1, 4)
    const sum = await look([makeBatch(1), makeBatch(1)], { accumulation: 'sum' })
    expect(sum.gradNorm).toBeCloseTo(2 * once.gradNorm, 9)
  })

  it('masks: the loss is the weighted mean, and what is outside does not reach it', async () => {
    const changed = (where: (cell: number) => boolean) => {
      const target = some(2)
      const [b, z, f, h, w] = shape
      const cells = f * h * w
      return target
        .map((value, i) => {
          const item = Math.floor(i / (z * cells))
          return where(item * cells + (i % cells)) ? value + 3 : value
        })
        .subarray(0, b * z * cells)
    }
    const lossOf = async (target_BZFHW: Float32Array, more = {}) =>
      (await look([makeBatch(1, { ...masked, target_BZFHW })], more)).loss
    const { loss } = await look([makeBatch(1, masked)], {})
    expect(await lossOf(changed((cell) => mask_BFHW[cell] === 0))).toBe(loss)
    expect(await lossOf(changed((cell) => mask_BFHW[cell] === 1))).toBeGreaterThan(loss + 1)
    const whole = mask_BFHW.map(() => 1)
    const { loss: plainLoss } = await look([makeBatch(1)], {})
    const { loss: white } = await look(
      [makeBatch(1, { mask_BFHW: whole, maskWeights_BFHW: whole })],
      { insideMaskOnly: 9 },
    )
    expect(white).toBeCloseTo(plainLoss, 12)
  })

  it.each([false, true])(
    'pushes the target from what it says to another prompt, scaled %s',
    async (zero) => {
      const other = text(77)
      const factors = [3, 1]
      const batch = makeBatch(1, { guidance: { text_BLD: other, factors } })
      const { loss } = await look([batch], { guidanceZero: zero })
      // Its definition, from the predictions for both prompts.
      const predict = (text_BLD: Float32Array): Float64Array =>
        cpu.scope(() => {
          const { prediction } = predictVelocity(
            device,
            transformer,
            makeBatch(1, { text_BLD }),
            lora.adapters,
          )
          return cpu.readF64(prediction)
        })
      const [p, u, v] = [predict(batch.text_BLD), predict(other), some(2)]
      const half = p.length / 2
      let expected = 0
      for (const [b, g] of factors.entries()) {
        const [from, to] = [b * half, (b + 1) * half]
        let [vu, uu] = [0, 0]
        for (let i = from; i < to; i++) {
          vu += v[i]! * u[i]!
          uu += u[i]! ** 2
        }
        const alpha = zero ? vu / uu : 1
        let sum = 0
        for (let i = from; i < to; i++) {
          const pushed = alpha * u[i]! + g * (v[i]! - alpha * u[i]!)
          sum += (p[i]! - pushed) ** 2
        }
        expected += sum / half / 2
      }
      expect(loss).toBeCloseTo(expected, 9)
      // At a factor of 1 it is the plain loss.
      const { loss: plainLoss } = await look([makeBatch(1)], {})
      const same = makeBatch(1, { guidance: { text_BLD: other, factors: [1, 1] } })
      expect((await look([same], { guidanceZero: zero })).loss).toBeCloseTo(plainLoss, 12)
    },
  )

  it('leaves everything as it was above the largest loss', async () => {
    const { loss, gradients } = await look([makeBatch(1)], { maxLoss: 1e-3 })
    expect(loss).toBeGreaterThan(1e-3)
    expect(gradients).toEqual([])
  })

  it.each([
    [
      'the loss of micro-batch 1, t = 940.0, 610.0',
      () => makeBatch(1, { noisy_BZFHW: some(1, NaN) }),
    ],
  ])('stops naming %s', async (what, batch) => {
    await expect(look([batch()], {})).rejects.toMatchObject({
      code: 'TRAINER_NOT_FINITE',
      message: `Step 1 is not finite: ${what}.`,
    })
  })

  it('stops naming the first parameter whose gradient is not finite', async () => {
    // A loss that is finite and gradients that are not: an infinite factor of one item.
    await expect(look([makeBatch(1, { weights: [Infinity, 1] })], {})).rejects.toMatchObject({
      code: 'TRAINER_NOT_FINITE',
      message: 'Step 1 is not finite: the gradient of blocks.0.attn1.to_q.lora_A.',
    })
  })
})
