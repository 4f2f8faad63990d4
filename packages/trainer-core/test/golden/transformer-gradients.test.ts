import type { Adapter, Device } from '@kinora/kernel-api'
import type { SafetensorsFile } from '@kinora/safetensors'
import { createTransformer, parseTransformerConfig, SafetensorsWeights } from '@kinora/wan'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createTape } from '../../src/index.ts'
import { openTestDevice } from '../open-test-device.ts'
import { listGolden, openGolden, printFigure, relativeError } from './golden-files.ts'

// Loss and LoRA gradients of small Wan transformers against PyTorch's, through the tape.

const bars = { f32: { loss: 1e-4, gradients: 5e-4 }, f16: { loss: 1e-2, gradients: 3e-2 } } as const

let device: Device
beforeAll(async () => {
  device = await openTestDevice()
})
afterAll(() => device.destroy())

describe.each(listGolden('transformer-'))('%s', (name) => {
  it.each([
    { compute: 'f32', checkpoint: true, keep: ['attn1'] },
    { compute: 'f32', checkpoint: true, keep: [] },
    { compute: 'f32', checkpoint: false, keep: [] },
    { compute: 'f16', checkpoint: true, keep: ['attn1'] },
    // As a step runs it: inputs of blocks and of cross-attention rounded, and in host memory.
    { compute: 'f16', checkpoint: true, keep: ['attn1'], rounded: true },
    {
      compute: 'f16',
      checkpoint: true,
      keep: ['attn1', 'attn1.to_q', 'ffn.net.0.proj'],
      rounded: true,
    },
  ] as const)('$compute, checkpoint $checkpoint, keeping $keep', async (variant) => {
    const { compute } = variant
    if (!device.info.computeDTypes.includes(compute)) {
      process.stdout.write(`skip ${name} ${compute}: ${device.info.adapter} has none\n`)
      return
    }
    await using golden = await openGolden(name)
    const { loss, gradients } = await lossAndGradients(golden, device, variant)
    const rounded = 'rounded' in variant ? ' rounded' : ''
    const label = `${name} ${compute}${variant.checkpoint ? rounded : ' whole'} on ${device.info.adapter}`
    const lossError = Math.abs(loss / (await golden.readF32('out.loss'))[0]! - 1)
    printFigure(`${label}, loss`, lossError, bars[compute].loss)
    expect(lossError).toBeLessThanOrEqual(bars[compute].loss)

    const expected = [...golden.tensors.keys()].filter((key) => key.startsWith('grad.'))
    expect(expected.length).toBeGreaterThan(0)
    expect([...gradients.keys()].sort()).toEqual(expected.map((key) => key.slice(5)).sort())
    let worst = { key: '', error: -1 }
    for (const [key, values] of gradients) {
      const error = relativeError(values, await golden.readF32(`grad.${key}`))
      if (error > worst.error) worst = { key, error }
    }
    printFigure(
      `${label}, worst of ${expected.length} gradients (${worst.key})`,
      worst.error,
      bars[compute].gradients,
    )
    expect(worst.error).toBeLessThanOrEqual(bars[compute].gradients)
  })
})

async function lossAndGradients(
  golden: SafetensorsFile,
  device: Device,
  variant: {
    compute: 'f32' | 'f16'
    checkpoint: boolean
    keep: readonly string[]
    rounded?: boolean
  },
): Promise<{ loss: number; gradients: Map<string, Float32Array> }> {
  const config = parseTransformerConfig(JSON.parse(golden.metadata['config']!))
  const files = new Map([...golden.tensors.keys()].map((key) => [key, golden]))
  const before = device.memory().liveBytes
  const transformer = await createTransformer(
    config,
    new SafetensorsWeights(files, 'weight.'),
    device,
    { compute: variant.compute },
  )
  const load = async (key: string) =>
    device.upload(await golden.readF32(key), golden.tensors.get(key)!.shape, 'f32')
  const adapters = new Map<string, Adapter[]>()
  for (const { name } of transformer.loraTargets) {
    adapters.set(name, [
      { a: await load(`lora.${name}.A`), b: await load(`lora.${name}.B`), scale: 1 },
    ])
  }
  const input = { latents: await load('in.hidden'), text: await load('in.text') }
  const target = await load('in.target')
  const timesteps = [...(await golden.readF32('in.timestep'))]
  const batch = timesteps.length
  // In f16 a loss scale keeps small gradients from vanishing, as in training.
  const lossScale = variant.compute === 'f16' ? 1024 : 1

  const params = [...adapters.values()].flatMap((list) => list.flatMap(({ a, b }) => [a, b]))
  const tape = createTape(device, { watch: params, checkpoint: variant.checkpoint })
  const items = device.scope(() =>
    tape.ops.loss(
      transformer.forward(
        tape.ops,
        { ...input, timesteps },
        {
          adapters,
          keep: variant.keep,
          ...(variant.rounded ? { blockInputsAs: 'f16', blocksInHostMemory: 1 } : {}),
        },
      ),
      target,
      { kind: 'mse' },
    ),
  )
  await tape.settle()
  const grads = tape.backward(
    [{ tensor: items, grad: Array(batch).fill(lossScale / batch) }],
    params,
  )
  const values = (await device.read(items)) as Float32Array
  const gradients = new Map<string, Float32Array>()
  for (const [name, [adapter]] of adapters) {
    for (const [part, tensor] of [
      ['A', adapter!.a],
      ['B', adapter!.b],
    ] as const) {
      const grad = (await device.read(grads.get(tensor)!)) as Float32Array
      gradients.set(
        `${name}.${part}`,
        grad.map((value) => value / lossScale),
      )
    }
  }

  tape.dispose()
  for (const tensor of [...params, ...Object.values(input), target, items]) device.release(tensor)
  transformer.release()
  expect(device.memory().liveBytes).toBe(before)
  return { loss: values.reduce((sum, value) => sum + value, 0) / batch, gradients }
}
