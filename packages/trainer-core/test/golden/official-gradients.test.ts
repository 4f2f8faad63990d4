import { openDevice, type CpuDevice } from '@kinora/cpu-kernels'
import type { Adapter, Ops, Tensor } from '@kinora/kernel-api'
import {
  createTransformer,
  parseTransformerConfig,
  transformerTensors,
  type WanTransformer,
} from '@kinora/wan'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { createTape } from '../../src/index.ts'
import {
  formula,
  formulaWeights,
  originalTransformerName,
} from '../../../wan/test/formula-weights.ts'

// LoRA gradients of the official implementation (Wan-Video/Wan2.2), computed in f64 on a small network with formula weights:
// first element and norm of the gradient of A and of B, by original module name. Ours run in f64 but for the rotary and
// timestep tables, which are f32.

const official: Record<string, readonly [number, number, number, number]> = {
  'blocks.0.self_attn.q': [
    -9.52432124024e-3, 5.273919872005e-2, 1.403542786464e-2, 4.127200096077e-2,
  ],
  'blocks.0.self_attn.k': [
    1.1530049581e-2, 1.302764836454e-1, 1.898238846765e-2, 1.101247728652e-1,
  ],
  'blocks.0.self_attn.v': [
    -2.149680078102e-2, 1.605041171012e-1, 7.569881041799e-2, 2.33197286014e-1,
  ],
  'blocks.0.self_attn.o': [
    3.134622605717e-3, 2.055635343622e-1, -1.294000912532e-2, 1.913885796555e-1,
  ],
  'blocks.0.cross_attn.q': [
    1.173010692229e-4, 8.948466266549e-2, -8.778712550427e-4, 6.694381848531e-2,
  ],
  'blocks.0.cross_attn.k': [
    4.337687334907e-3, 5.992874847005e-2, -2.060240717076e-3, 3.193676000732e-2,
  ],
  'blocks.0.cross_attn.v': [
    8.688839996045e-3, 1.565487340595e-1, -1.288305089095e-2, 7.441377385102e-2,
  ],
  'blocks.0.cross_attn.o': [
    3.064318374689e-2, 2.34899757249e-1, -5.794409405376e-3, 8.930042723929e-2,
  ],
  'blocks.0.ffn.0': [-2.628785611344e-3, 7.320568594116e-2, -1.950649822678e-2, 1.036081749341e-1],
  'blocks.0.ffn.2': [-6.969910111157e-3, 1.003518955867e-1, -4.585271848921e-3, 1.25947369862e-1],
  'blocks.1.self_attn.q': [
    -4.747926255116e-3, 1.197421304547e-1, 5.949190305992e-3, 4.825682796811e-2,
  ],
  'blocks.1.self_attn.k': [
    -1.416455446103e-3, 5.750894800089e-2, -2.336051832099e-3, 7.169524660208e-2,
  ],
  'blocks.1.self_attn.v': [
    -4.249734591085e-3, 7.736145079644e-2, 1.894034770679e-2, 2.780654942992e-1,
  ],
  'blocks.1.self_attn.o': [
    3.294028435247e-3, 4.301797597409e-1, -9.352158413773e-4, 7.146211481583e-2,
  ],
  'blocks.1.cross_attn.q': [
    -9.607019568087e-3, 5.514187506991e-2, 3.858051136508e-3, 9.512452749717e-2,
  ],
  'blocks.1.cross_attn.k': [
    1.092594617298e-2, 7.038411573147e-2, 3.721421820582e-3, 6.92901170009e-2,
  ],
  'blocks.1.cross_attn.v': [
    2.79217244193e-2, 1.162424962202e-1, -6.170108357968e-4, 1.185306923504e-1,
  ],
  'blocks.1.cross_attn.o': [
    4.095365347565e-2, 6.834024059046e-2, -5.424983309803e-3, 1.853823537084e-1,
  ],
  'blocks.1.ffn.0': [-1.512393244952e-2, 1.2546718135e-1, -8.331830135883e-4, 7.702797798558e-2],
  'blocks.1.ffn.2': [2.180386868139e-4, 1.391953512041e-1, -2.774585890932e-3, 2.962618893794e-1],
}

const config = parseTransformerConfig({
  in_channels: 6,
  out_channels: 4,
  num_attention_heads: 2,
  attention_head_dim: 16,
  ffn_dim: 48,
  freq_dim: 16,
  text_dim: 12,
  num_layers: 2,
})

let device: CpuDevice
let transformer: WanTransformer
let target: Tensor
const factors = new Map<string, { a: Float64Array; b: Float64Array }>()
beforeAll(async () => {
  device = await openDevice({ precision: 'f64' })
  transformer = await createTransformer(
    config,
    formulaWeights(transformerTensors(config), originalTransformerName),
    device,
    { compute: 'f32' },
  )
  target = device.upload(formula('target', 4 * 72), [1, 4, 3, 4, 6], 'f32')
  for (const { name, inFeatures, outFeatures } of transformer.loraTargets) {
    const original = originalTransformerName(name)
    const a = formula(`${original}.lora_A.weight`, 2 * inFeatures)
    const b = formula(`${original}.lora_B.weight`, 2 * outFeatures)
    const scaleA = Math.sqrt(3 / inFeatures)
    factors.set(name, { a: a.map((value) => value * scaleA), b: b.map((value) => 0.3 * value) })
  }
})
afterAll(() => device.destroy())

/** The factors on the device, moved by `step` along a direction where one is given. */
function adaptersOf(step = 0): Map<string, [Adapter]> {
  const moved = (values: Float64Array, name: string) => {
    const direction = formula(`direction.${name}`, values.length)
    return values.map((value, i) => value + step * direction[i]!)
  }
  return new Map(
    transformer.loraTargets.map(({ name, inFeatures, outFeatures }) => {
      const { a, b } = factors.get(name)!
      return [
        name,
        [
          {
            a: device.upload(moved(a, `${name}.A`), [2, inFeatures], 'f32'),
            b: device.upload(moved(b, `${name}.B`), [outFeatures, 2], 'f32'),
            scale: 1,
          },
        ],
      ]
    }),
  )
}

function forward(ops: Ops, adapters: Map<string, [Adapter]>): Tensor {
  const text = new Float64Array(8 * 12)
  text.set(formula('context', 5 * 12))
  const input = {
    latents: device.upload(formula('x', 6 * 72), [1, 6, 3, 4, 6], 'f32'),
    timesteps: [437],
    text: device.upload(text, [1, 8, 12], 'f32'),
  }
  return transformer.forward(ops, input, { adapters, keep: ['attn1'] })
}

function gradientsOf(adapters: Map<string, [Adapter]>, checkpoint: boolean) {
  const wanted = [...adapters.values()].flatMap(([{ a, b }]) => [a, b])
  const tape = createTape(device, { watch: wanted, checkpoint })
  const gradients = device.scope(() => {
    const out = forward(tape.ops, adapters)
    const grad = device.ops.lossGrad(out, target, { kind: 'mse', itemScale: [1] })
    return tape.backward([{ tensor: out, grad }], wanted)
  })
  const values = (tensor: Tensor) => device.readF64(gradients.get(tensor)!)
  const read = new Map(
    [...adapters].map(([name, [{ a, b }]]) => [name, { a: values(a), b: values(b) }]),
  )
  tape.dispose()
  return read
}

it.each([true, false])('gives the official gradients (checkpoint %s)', (checkpoint) => {
  const gradients = gradientsOf(adaptersOf(), checkpoint)
  expect(gradients.size).toBe(Object.keys(official).length)
  const norm = (values: Float64Array) => Math.hypot(...values)
  let worst = 0
  for (const [name, { a, b }] of gradients) {
    const [a0, aNorm, b0, bNorm] = official[originalTransformerName(name)]!
    worst = Math.max(
      worst,
      Math.abs(a[0]! - a0) / aNorm,
      Math.abs(norm(a) / aNorm - 1),
      Math.abs(b[0]! - b0) / bNorm,
      Math.abs(norm(b) / bNorm - 1),
    )
  }
  expect(worst).toBeLessThan(2e-6)
})

it('gives the slope of the loss: the whole model against finite differences', () => {
  const lossAt = (step: number) =>
    device.scope(() => {
      const out = forward(device.ops, adaptersOf(step))
      return device.readF64(device.ops.loss(out, target, { kind: 'mse' }))[0]!
    })
  const h = 1e-4
  // Fourth order: what is left is the rounding of f64.
  const slope = (8 * (lossAt(h) - lossAt(-h)) - (lossAt(2 * h) - lossAt(-2 * h))) / (12 * h)
  let expected = 0
  for (const [name, { a, b }] of gradientsOf(adaptersOf(), true)) {
    for (const [values, factor] of [
      [a, 'A'],
      [b, 'B'],
    ] as const) {
      const direction = formula(`direction.${name}.${factor}`, values.length)
      expected += values.reduce((sum, value, i) => sum + value * direction[i]!, 0)
    }
  }
  expect(Math.abs(slope / expected - 1)).toBeLessThan(1e-8)
})
