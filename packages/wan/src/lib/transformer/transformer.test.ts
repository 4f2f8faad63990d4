import { openDevice } from '@kinora/cpu-kernels'
import type { Tensor } from '@kinora/kernel-api'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { formula, formulaWeights, originalTransformerName } from '../../../test/formula-weights.ts'
import { parseTransformerConfig } from '../checkpoint/configs.ts'
import { createLora } from '../lora/create-lora.ts'
import { uploadLora } from '../lora/device-lora.ts'
import { transformerTensors } from './transformer-tensors.ts'
import { createTransformer, transformerLoraTargets, type WanTransformer } from './transformer.ts'

const config = parseTransformerConfig({
  num_attention_heads: 2,
  attention_head_dim: 16,
  ffn_dim: 48,
  freq_dim: 16,
  text_dim: 12,
  num_layers: 6,
  rope_max_seq_len: 8,
})

let device: Awaited<ReturnType<typeof openDevice>>
let transformer: WanTransformer
beforeAll(async () => {
  device = await openDevice()
  transformer = await createTransformer(
    config,
    formulaWeights(transformerTensors(config), originalTransformerName),
    device,
    { compute: 'f32' },
  )
})
afterAll(() => device.destroy())

function input(grid: readonly [number, number, number] = [2, 4, 4], batch = 1) {
  const count = batch * 36 * grid[0] * grid[1] * grid[2]
  return {
    latents: device.upload(formula('x', count), [batch, 36, ...grid], 'f32'),
    timesteps: Array<number>(batch).fill(437),
    text: device.upload(formula('text', batch * 5 * 12), [batch, 5, 12], 'f32'),
  }
}

const throws = (code: string) => expect.objectContaining({ code }) as Error

describe('the transformer', () => {
  it('has as many parameters and linears as the release at its size', () => {
    const table = transformerTensors(parseTransformerConfig({}))
    let parameters = 0
    for (const shape of table.values()) parameters += shape.reduce((a, b) => a * b, 1)
    expect(table.size).toBe(1095)
    expect(parameters).toBe(14_288_901_184)
    const targets = transformerLoraTargets(parseTransformerConfig({}))
    expect(targets).toHaveLength(400)
    expect(targets.reduce((sum, t) => sum + t.inFeatures + t.outFeatures, 0)).toBe(4_792_320)
    expect(targets.every(({ name }) => table.has(`${name}.weight`))).toBe(true)
  })

  it('computes each item of a batch as if alone', async () => {
    const both = input([2, 4, 4], 2)
    const together = (await device.read(transformer.forward(device.ops, both))) as Float32Array
    const half = together.length / 2
    for (const item of [0, 1]) {
      const alone = transformer.forward(device.ops, {
        latents: device.ops.slice(both.latents, 0, item, item + 1),
        timesteps: [437],
        text: device.ops.slice(both.text, 0, item, item + 1),
      })
      expect(await device.read(alone)).toEqual(together.subarray(item * half, (item + 1) * half))
    }
  })

  it('changes nothing with a new LoRA, and something with a trained one', async () => {
    const run = (adapters?: ReturnType<typeof uploadLora>['adapters']) =>
      device.read(transformer.forward(device.ops, shared, { adapters }))
    const shared = input()
    const lora = createLora(transformer.loraTargets, { rank: 2, seed: 1, stream: 0 })
    const base = await run()
    expect(await run(uploadLora(device, lora).adapters)).toEqual(base)
    lora.modules.get('blocks.5.ffn.net.2')!.b.fill(0.1)
    expect(await run(uploadLora(device, lora).adapters)).not.toEqual(base)
  })

  it('keeps nothing of a pass but its result and the rotary tables, and two blocks at most while it runs', () => {
    const given = input()
    transformer.forward(device.ops, given)
    const before = device.memory().liveBytes
    const out = transformer.forward(device.ops, given)
    expect(device.memory().liveBytes - before).toBe(4 * 16 * 2 * 4 * 4)
    device.release(out)
    const stream = 8 * 32 * 4
    const live: number[] = []
    transformer.forward(device.ops, given, {
      inspect: (name) => {
        if (name.startsWith('block')) live.push(device.memory().liveBytes)
      },
    })
    expect(live).toHaveLength(6)
    expect(Math.max(...live) - Math.min(...live)).toBeLessThanOrEqual(stream)
  })

  it('forgets the tables of sizes long unused', () => {
    const before = device.memory().liveBytes
    device.scope(() => {
      for (let frames = 1; frames <= 8; frames++)
        transformer.forward(device.ops, input([frames, 2, 2]))
    })
    device.scope(() => {
      for (let frames = 1; frames <= 8; frames++)
        transformer.forward(device.ops, input([frames, 2, 4]))
    })
    // The second eight push out the first: what is left is theirs.
    const tables = 2 * 4 * 8 * 2 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8)
    expect(device.memory().liveBytes - before).toBeLessThanOrEqual(tables)
  })

  it('refuses what does not fit, by name', () => {
    const good = input()
    const forward = (changes: object, run = {}) =>
      transformer.forward(device.ops, { ...good, ...changes }, run)
    const zeros = (...shape: number[]): Tensor => device.zeros(shape, 'f32')
    expect(() => forward({ latents: zeros(1, 16, 2, 4, 4) })).toThrowError(throws('WAN_BAD_SHAPE'))
    expect(() => forward({ latents: zeros(1, 36, 2, 3, 4) })).toThrowError(throws('WAN_BAD_SHAPE'))
    expect(() => forward({ timesteps: [1, 2] })).toThrowError(throws('WAN_BAD_SHAPE'))
    expect(() => forward({ text: zeros(1, 5, 13) })).toThrowError(throws('WAN_BAD_SHAPE'))
    expect(() => forward(input([9, 2, 2]))).toThrowError(throws('WAN_TOO_LONG'))
    const adapter = { a: zeros(2, 32), b: zeros(32, 2), scale: 1 }
    expect(() =>
      forward({}, { adapters: new Map([['blocks.6.attn1.to_q', [adapter]]]) }),
    ).toThrowError(throws('WAN_UNKNOWN_MODULE'))
    expect(() =>
      forward({}, { adapters: new Map([['blocks.0.ffn.net.2', [adapter]]]) }),
    ).toThrowError(throws('WAN_ADAPTER_SHAPE'))
  })

  it('refuses a dtype that the device does not compute in', async () => {
    await expect(
      createTransformer(
        config,
        formulaWeights(transformerTensors(config), originalTransformerName),
        device,
        { compute: 'f16' },
      ),
    ).rejects.toMatchObject({ code: 'WAN_COMPUTE_UNSUPPORTED' })
  })
})
