import { openDevice, type CpuDevice } from '@kinora/cpu-kernels'
import { normals } from '@kinora/kernel-api'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CopiedCheckpoint, tinyWan } from '../../../test/copied-checkpoint.ts'
import { loadTransformer } from '../checkpoint/load-networks.ts'
import { openCheckpoint, type WanCheckpoint } from '../checkpoint/open-checkpoint.ts'
import { createLora } from '../lora/create-lora.ts'
import { quantizeSchemes, type QuantizeScheme } from '../quantize/schemes.ts'
import { streamedBlocks } from './weight-placement.ts'
import {
  transformerLoraTargets,
  type TransformerOptions,
  type WanTransformer,
} from './transformer.ts'

let device: CpuDevice
let checkpoint: WanCheckpoint
beforeAll(async () => {
  device = await openDevice()
  checkpoint = await openCheckpoint(tinyWan)
})
afterAll(() => device.destroy())

const load = (options: Partial<TransformerOptions> = {}): Promise<WanTransformer> =>
  loadTransformer(checkpoint, 'low', device, { compute: 'f32', ...options })

async function run(transformer: WanTransformer): Promise<Float32Array> {
  const shape = [1, 36, 3, 8, 8]
  const out = device.scope(() =>
    transformer.forward(device.ops, {
      latents: device.upload(normals(5, 0, 36 * 3 * 64), shape, 'f32'),
      timesteps: [300],
      text: device.upload(normals(5, 1, 48 * 128), [1, 48, 128], 'f32'),
    }),
  )
  const values = (await device.read(out)) as Float32Array
  device.release(out)
  return values
}

function relativeError(got: Float32Array, want: Float32Array): number {
  const norm = (values: Float32Array): number => Math.hypot(...values)
  return norm(got.map((value, i) => value - want[i]!)) / norm(want)
}

describe('a packed expert', () => {
  it('takes the memory its format says, and computes what the dense one does but for the error of the format', async () => {
    const dense = await load()
    const want = await run(dense)
    const denseBytes = device.memory().liveBytes
    dense.release()
    const linears = transformerLoraTargets(checkpoint.transformer)
    const numbers = linears.reduce((sum, t) => sum + t.inFeatures * t.outFeatures, 0)
    const errors: Record<string, number> = {}
    for (const quantize of quantizeSchemes) {
      const live = device.memory().liveBytes
      const packed = await load({ quantize })
      const saved = denseBytes - (device.memory().liveBytes - live)
      // The processor holds f16 numbers as f32: scales and zeros of uint4 take twice what they do elsewhere.
      const perNumber = quantize === 'uint4' ? 0.5 + 8 / 64 : 1 + 4 / 128
      expect(saved / numbers).toBeCloseTo(4 - perNumber, 1)
      errors[quantize] = relativeError(await run(packed), want)
      packed.release()
      expect(device.memory().liveBytes).toBe(live)
    }
    // E4M3 has three bits behind the point, uint4 fifteen steps from end to end.
    expect(errors['qfloat8']).toBeLessThan(0.04)
    expect(errors['float8']).toBeLessThan(0.04)
    expect(errors['uint4']).toBeLessThan(0.2)
    expect(errors['uint4']).toBeGreaterThan(errors['float8']!)
  })

  it('has its recovery adapter always on, below any other', async () => {
    const targets = transformerLoraTargets(checkpoint.transformer)
    const recovery = createLora(targets, { rank: 2, seed: 3, stream: 0 })
    const plain = await load({ quantize: 'uint4' })
    const without = await run(plain)
    plain.release()
    const neutral = await load({ quantize: 'uint4', recovery })
    expect(await run(neutral)).toEqual(without)
    neutral.release()
    recovery.modules.get('blocks.3.ffn.net.0.proj')!.b.fill(0.02)
    const changed = await load({ quantize: 'uint4', recovery })
    expect(await run(changed)).not.toEqual(without)
    changed.release()
    await expect(
      load({
        recovery: createLora([{ ...targets[0]!, name: 'blocks.9.attn1.to_q' }], {
          rank: 2,
          seed: 3,
          stream: 0,
        }),
      }),
    ).rejects.toMatchObject({ code: 'WAN_UNKNOWN_MODULE' })
    expect(device.memory().liveBytes).toBe(0)
  })

  it.each([
    ['uint4', 'f32', Number.NaN, 'CHECKPOINT_NOT_FINITE'],
    ['float8', 'f32', Number.POSITIVE_INFINITY, 'CHECKPOINT_NOT_FINITE'],
    ['uint4', 'f16', 70000, 'CHECKPOINT_TOO_LARGE_FOR_F16'],
    ['qfloat8', 'f16', -70000, 'CHECKPOINT_TOO_LARGE_FOR_F16'],
  ] as const)('%s in %s does not hide a weight of %d', async (quantize, compute, bad, code) => {
    await using copy = await CopiedCheckpoint.make()
    const name = 'blocks.7.ffn.net.2.weight'
    await copy.tensors('transformer/diffusion_pytorch_model.safetensors', (all) => {
      const values = new Float32Array(128 * 512)
      values[4321] = bad
      all.set(name, { dtype: 'F32', shape: [128, 512], data: values })
    })
    // The processor computes in f32 only; what it loads for f16 is checked all the same.
    const claiming = new Proxy(device, {
      get: (target, key) => {
        if (key === 'info') return { ...target.info, computeDTypes: ['f32', 'f16'] }
        const value: unknown = Reflect.get(target, key, target)
        return typeof value === 'function' ? (value.bind(target) as unknown) : value
      },
    })
    await expect(
      loadTransformer(await openCheckpoint(copy.dir), 'high', claiming, { compute, quantize }),
    ).rejects.toMatchObject({
      code,
      message: expect.stringContaining(`Element 4321 of tensor ${name}`) as string,
    })
    expect(device.memory().liveBytes).toBe(0)
  })
})

describe('blocks in host memory', () => {
  it.each([undefined, 'uint4', 'float8'] as (QuantizeScheme | undefined)[])(
    'streamed blocks (%s) compute the same with two blocks on the device, some of them the same with some',
    async (quantize) => {
      const { freqDim, textDim, numHeads, headDim } = checkpoint.transformer
      const dim = numHeads * headDim
      const embedderBytes = 4 * dim * (freqDim + dim + 6 * dim + textDim + dim)
      const resident = await load({ quantize })
      const want = await run(resident)
      const residentBytes = device.memory().liveBytes
      resident.release()
      for (const streamedShare of [1, 0.5]) {
        const streamed = await load({ quantize, streamedShare })
        expect(await run(streamed)).toEqual(want)
        // Again, from the other end of the network and back.
        expect(await run(streamed)).toEqual(want)
        const { liveBytes, parkedBytes } = device.memory()
        const numStreamed = 8 * streamedShare
        const ofBlock = (parkedBytes - embedderBytes) / numStreamed
        const saved = embedderBytes + (numStreamed - 2) * ofBlock
        expect(residentBytes - liveBytes).toBeCloseTo(saved, -2)
        streamed.release()
        expect(device.memory()).toMatchObject({ liveBytes: 0, parkedBytes: 0 })
      }
    },
  )

  it('an expert goes to host memory and comes back by itself', async () => {
    const transformer = await load({ quantize: 'uint4' })
    const want = await run(transformer)
    const there = device.memory().liveBytes
    await transformer.toHost()
    const { liveBytes, parkedBytes } = device.memory()
    expect(liveBytes).toBeLessThan(there - 0.9 * parkedBytes)
    expect(parkedBytes).toBeGreaterThan(0)
    expect(await run(transformer)).toEqual(want)
    expect(device.memory().liveBytes).toBe(there)
    // The second way out copies nothing: the weights are in host memory still.
    await transformer.toHost()
    expect(device.memory().parkedBytes).toBe(parkedBytes)
    transformer.toDevice()
    expect(await run(transformer)).toEqual(want)
    await transformer.toHost()
    transformer.release()
    expect(device.memory()).toMatchObject({ liveBytes: 0, parkedBytes: 0 })
  })

  it('spreads a share of the blocks evenly', () => {
    const at = (count: number, share: number): number[] =>
      streamedBlocks(count, share).flatMap((is, n) => (is ? [n] : []))
    expect(at(8, 0.5)).toEqual([1, 3, 5, 7])
    expect(at(40, 0.1)).toEqual([9, 19, 29, 39])
    expect(at(5, 1)).toEqual([0, 1, 2, 3, 4])
    expect(at(5, 0)).toEqual([])
    expect(at(3, 7)).toEqual([0, 1, 2])
  })
})
