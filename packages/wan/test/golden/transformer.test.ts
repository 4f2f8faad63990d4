import { readdirSync } from 'node:fs'
import type { Adapter, Device, Tensor } from '@kinora/kernel-api'
import { createTransformer, parseTransformerConfig } from '@kinora/wan'
import { afterAll, beforeAll, describe, it } from 'vitest'
import {
  expectWithin,
  goldenFolder,
  openGolden,
  openTestDevice,
  permuted,
  relativeError,
  take,
  type Golden,
} from './golden.ts'

// Output and every intermediate of the reference transformers: relative L2 error ≤ 1e-4 in f32, ≤ 1e-2 in f16.
// The gradients of the same files are tested with the tape, in trainer-core.

const bars = { f32: 1e-4, f16: 1e-2 } as const

const names = readdirSync(goldenFolder)
  .filter((file) => /^transformer-.*\.safetensors$/.test(file))
  .map((file) => file.replace('.safetensors', ''))

let device: Device
beforeAll(async () => {
  device = await openTestDevice()
})
afterAll(() => device?.destroy())

describe.each(names)('%s', (name) => {
  for (const compute of ['f32', 'f16'] as const) {
    it(`reproduces the reference in ${compute}`, async ({ skip }) => {
      skip(
        !device.info.computeDTypes.includes(compute),
        `the device does not compute in ${compute}`,
      )
      await using golden = await openGolden(name)
      const config = parseTransformerConfig(golden.config)
      const transformer = await createTransformer(config, golden.weights, device, { compute })
      const input = {
        latents: await golden.upload(device, 'in.hidden'),
        timesteps: [...(await golden.f32('in.timestep'))],
        text: await golden.upload(device, 'in.text'),
      }
      const check = async (what: string, actual: ArrayLike<number>, expected: string) =>
        expectWithin(
          `${name} ${compute} ${what}`,
          relativeError(actual, await golden.f32(expected)),
          bars[compute],
        )

      const seen = new Map<string, Tensor>()
      const inspect = (stage: string, value: Tensor) => {
        seen.set(stage, device.retain(value))
      }
      const base = transformer.forward(device.ops, input, { inspect })
      await check('base', await take(device, base), 'out.base')
      for (const [stage, value] of seen) {
        const expected = `mid.${stage}`
        if (!golden.has(expected)) continue
        const actual = await take(device, value)
        await check(stage, stage === 'patch' ? asConvolved(actual, golden) : actual, expected)
      }
      for (const expected of golden.startingWith('mid.')) {
        const stage = expected.slice('mid.'.length)
        if (!seen.has(stage) && !stage.startsWith('rope_'))
          throw new Error(`${expected} was not seen`)
      }

      const withLora = transformer.forward(device.ops, input, {
        adapters: await adaptersOf(golden, device),
      })
      const out = await take(device, withLora)
      await check('lora', out, 'out.lora')
      const target = await golden.f32('in.target')
      const loss = out.reduce((sum, value, i) => sum + (value - target[i]!) ** 2, 0) / out.length
      await check('loss', [loss], 'out.loss')
      transformer.release()
    })
  }

  it('turns by the angles of the reference', async () => {
    await using golden = await openGolden(name)
    const config = parseTransformerConfig(golden.config)
    const { ropeTables } = await import('../../src/lib/transformer/rope.ts')
    const [, , frames, rows, columns] = golden.shape('in.hidden') as [
      number,
      number,
      number,
      number,
      number,
    ]
    const tables = ropeTables(config, [
      frames,
      rows / config.patchSize[1],
      columns / config.patchSize[2],
    ])
    for (const part of ['cos', 'sin'] as const) {
      // The reference stores each angle for both numbers of its pair.
      const twice = Float32Array.from(
        { length: 2 * tables[part].length },
        (_, i) => tables[part][i >> 1]!,
      )
      const expected = await golden.f32(`mid.rope_${part}`)
      expectWithin(`${name} rope ${part}`, relativeError(twice, expected), bars.f32)
    }
  })
})

/** [B, N, C] tokens as the convolution of the reference leaves them, [B, C, F, Y, X]. */
function asConvolved(tokens: Float32Array, golden: Golden): Float32Array {
  const [b, c, f, y, x] = golden.shape('mid.patch') as [number, number, number, number, number]
  return permuted(tokens, [b, f, y, x, c], [0, 4, 1, 2, 3])
}

async function adaptersOf(golden: Golden, device: Device): Promise<Map<string, Adapter[]>> {
  const adapters = new Map<string, Adapter[]>()
  for (const factor of golden.startingWith('lora.').filter((key) => key.endsWith('.A'))) {
    const module = factor.slice('lora.'.length, -'.A'.length)
    const a = await golden.upload(device, factor)
    const b = await golden.upload(device, `lora.${module}.B`)
    adapters.set(module, [{ a, b, scale: 1 }])
  }
  return adapters
}
