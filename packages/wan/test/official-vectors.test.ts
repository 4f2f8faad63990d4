import { openDevice, type CpuDevice } from '@kinora/cpu-kernels'
import { numElements, type Adapter, type Tensor } from '@kinora/kernel-api'
import {
  createTransformer,
  createUmt5,
  createVae,
  parseTextEncoderConfig,
  parseTransformerConfig,
  parseVaeConfig,
  transformerTensors,
  umt5Tensors,
  vaeTensors,
} from '@kinora/wan'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  fnv1a,
  formula,
  formulaWeights,
  originalTransformerName,
  originalUmt5Name,
  originalVaeName,
} from './formula-weights.ts'

// Numbers of the official implementation (Wan-Video/Wan2.2), computed in f64 on small networks with formula weights: a second
// reference beside diffusers, of other names and another code. Ours run in f64 too, but for the rotary and timestep tables,
// which are f32.

let device: CpuDevice
beforeAll(async () => {
  device = await openDevice({ precision: 'f64' })
})
afterAll(() => device.destroy())

const sum = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0)
const sumOfSquares = (values: ArrayLike<number>) =>
  Array.from(values).reduce((a, b) => a + b * b, 0)

function expectClose(actual: number | undefined, expected: number): void {
  expect(Math.abs(actual! - expected) / Math.max(1, Math.abs(expected))).toBeLessThan(2e-6)
}

/** Element of a row-major array. */
function at(values: Float64Array, shape: readonly number[], ...index: number[]): number {
  return values[index.reduce((flat, i, axis) => flat * shape[axis]! + i, 0)]!
}

it('hashes names to numbers as the vectors were made', () => {
  expect(fnv1a('x')).toBe(4245442695)
  expect([...formula('x', 3)]).toEqual([
    0.3720392370596528, -0.14164219936355948, 0.5828898907639086,
  ])
})

describe('the transformer', () => {
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
  const weights = formulaWeights(transformerTensors(config), originalTransformerName)
  const grid = [3, 4, 6] as const

  function input() {
    const text = new Float64Array(8 * 12)
    text.set(formula('context', 5 * 12))
    return {
      latents: device.upload(formula('x', 6 * numElements(grid)), [1, 6, ...grid], 'f32'),
      timesteps: [437],
      text: device.upload(text, [1, 8, 12], 'f32'),
    }
  }

  it('gives the official values at every stage', async () => {
    const transformer = await createTransformer(config, weights, device, { compute: 'f32' })
    const seen = new Map<string, Float64Array>()
    const inspect = (name: string, value: Tensor) => {
      seen.set(name, device.readF64(value))
    }
    const out = device.readF64(transformer.forward(device.ops, input(), { inspect }))
    const [temb, e0, patch, block0, block1] = [
      'temb',
      'timestep_proj',
      'patch',
      'block0',
      'block1',
    ].map((name) => seen.get(name)!) as Float64Array[]
    expectClose(sum(temb!), 3.659589967283175)
    expectClose(e0![0], 0.39809202003353344)
    expectClose(e0![1], -0.23329524427555204)
    expectClose(sum(e0!), -4.052424653728836)
    expectClose(patch![0], -0.0593840656003054)
    expectClose(patch![1], -0.26780131383024885)
    expectClose(patch![7 * 32], -0.4408919993739207)
    expectClose(patch![7 * 32 + 1], 0.6575886623273005)
    expectClose(sum(block0!), 26.02439906029068)
    expectClose(sumOfSquares(block0!), 304.5886542255924)
    expectClose(block0![7 * 32], -0.8597727098589261)
    expectClose(block0![7 * 32 + 1], -0.08702573876247799)
    expectClose(sum(block1!), 10.227128355245952)
    expectClose(sumOfSquares(block1!), 466.59125689001974)
    expectClose(sum(out), -25.49404833189893)
    expectClose(sumOfSquares(out), 380.04450032255966)
    const shape = [4, ...grid]
    expectClose(at(out, shape, 0, 0, 0, 0), -0.727996896905791)
    expectClose(at(out, shape, 0, 0, 0, 1), -0.33892044575861924)
    expectClose(at(out, shape, 0, 0, 1, 0), 0.31490260910014456)
    expectClose(at(out, shape, 1, 0, 0, 0), -1.2218391231810752)
    expectClose(at(out, shape, 3, 2, 3, 5), 0.18556924710739103)
    expectClose(at(out, shape, 2, 1, 2, 3), -0.3282076578220237)
    transformer.release()
  })

  it('gives the official loss with a LoRA on every linear', async () => {
    const transformer = await createTransformer(config, weights, device, { compute: 'f32' })
    const adapters = new Map<string, Adapter[]>()
    for (const { name, inFeatures, outFeatures } of transformer.loraTargets) {
      const original = originalTransformerName(name)
      const a = formula(`${original}.lora_A.weight`, 2 * inFeatures)
      const b = formula(`${original}.lora_B.weight`, 2 * outFeatures)
      const scaledA = a.map((value) => value * Math.sqrt(3 / inFeatures))
      const scaledB = b.map((value) => 0.3 * value)
      adapters.set(name, [
        {
          a: device.upload(scaledA, [2, inFeatures], 'f32'),
          b: device.upload(scaledB, [outFeatures, 2], 'f32'),
          scale: 1,
        },
      ])
    }
    const out = device.readF64(transformer.forward(device.ops, input(), { adapters }))
    const target = formula('target', out.length)
    expectClose(sum(out), -24.71791789308479)
    expectClose(
      sumOfSquares(out.map((value, i) => value - target[i]!)) / out.length,
      1.753722785172607,
    )
    transformer.release()
  })
})

it('the VAE gives the official latents and frames', async () => {
  const config = parseVaeConfig({
    base_dim: 8,
    z_dim: 4,
    latents_mean: [0, 0, 0, 0],
    latents_std: [1, 1, 1, 1],
  })
  const vae = await createVae(config, formulaWeights(vaeTensors(config), originalVaeName), device)
  const { ops } = device
  const clip = device.upload(formula('video', 3 * 9 * 16 * 24), [1, 3, 9, 16, 24], 'f32')
  const channelsLast = ops.permute(clip, [0, 2, 3, 4, 1])
  const z = device.readF64(vae.encode(channelsLast).mean)
  expectClose(sum(z), -11.504081933518808)
  expectClose(sumOfSquares(z), 6.899807663554363)
  const zShape = [4, 3, 2, 3]
  expectClose(at(z, zShape, 0, 0, 0, 0), -0.17535674609700996)
  expectClose(at(z, zShape, 0, 1, 0, 0), -0.22797085186555718)
  expectClose(at(z, zShape, 0, 2, 1, 2), -0.169733315385505)
  expectClose(at(z, zShape, 3, 0, 1, 1), 0.21004075103719083)
  expectClose(at(z, zShape, 2, 2, 0, 1), -0.4402705073261699)

  const first = device.readF64(vae.encode(ops.slice(channelsLast, 1, 0, 1)).mean)
  for (let c = 0; c < 4; c++) {
    for (let i = 0; i < 6; i++) expect(first[c * 6 + i]).toBe(z[c * 18 + i])
  }

  const latents = device.upload(formula('latent', 4 * 3 * 2 * 3), [1, 4, 3, 2, 3], 'f32')
  const d = device.readF64(ops.permute(vae.decode(latents), [0, 4, 1, 2, 3]))
  expectClose(sum(d), 1928.5551220669213)
  expectClose(sumOfSquares(d), 2926.4692199328447)
  const dShape = [3, 9, 16, 24]
  expectClose(at(d, dShape, 0, 0, 0, 0), -0.2360851872927746)
  expectClose(at(d, dShape, 1, 0, 7, 9), -0.6482774866805973)
  expectClose(at(d, dShape, 0, 1, 0, 0), 0.0363139048101128)
  expectClose(at(d, dShape, 2, 2, 5, 5), 0.9541329942994093)
  expectClose(at(d, dShape, 0, 4, 8, 8), 0.07839886806021226)
  expectClose(at(d, dShape, 1, 5, 15, 23), 0.6100564756240994)
  expectClose(at(d, dShape, 2, 8, 15, 0), -0.06691903203213832)
  const frameSums = [
    -37.55113096504756, 114.92768425597565, 210.72025123063761, 336.0082670857181,
    244.01279121817726, 253.18183460922484, 253.41895760621765, 254.96807302056354,
    298.8683940054541,
  ]
  for (const [frame, expected] of frameSums.entries()) {
    let actual = 0
    for (let c = 0; c < 3; c++) {
      for (let i = 0; i < 16 * 24; i++) actual += d[(c * 9 + frame) * 16 * 24 + i]!
    }
    expectClose(actual, expected)
  }
  vae.release()
})

it('the text encoder gives the official states', async () => {
  const config = parseTextEncoderConfig({
    vocab_size: 64,
    d_model: 24,
    num_heads: 4,
    d_kv: 8,
    d_ff: 40,
    num_layers: 2,
  })
  const table = new Map([...umt5Tensors(config), ['shared.weight', [64, 24]] as const])
  const encoder = createUmt5(config, formulaWeights(table, originalUmt5Name), device, {
    compute: 'f32',
  })
  const ids = [5, 17, 3, 60, 22, 9, 41, 2, 33, 8, 12, 50, 7, 1]
  const { value: states } = await encoder.encode([ids]).next()
  const out = device.readF64(states!)
  expectClose(sum(out), 12.564692206251928)
  expectClose(sumOfSquares(out), 343.44561614804854)
  const shape = [14, 24]
  for (const [row, values] of [
    [0, [-0.7214066964656144, 1.04523069521368, 1.9175762330976436]],
    [13, [-1.1581448894514874, 0.6124706573575966, 1.7627479386508844]],
  ] as const) {
    for (const [c, expected] of values.entries()) expectClose(at(out, shape, row, c), expected)
  }
  expectClose(at(out, shape, 6, 23), -0.9326968010080967)
})
