import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDevice, type CpuDevice } from '@kinora/cpu-kernels'
import { normals } from '@kinora/kernel-api'
import { openSafetensors } from '@kinora/safetensors'
import type { StageEvent } from '@kinora/stage'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CopiedCheckpoint, tinyWan } from '../../../test/copied-checkpoint.ts'
import { loadTextEncoder, loadTransformer } from '../checkpoint/load-networks.ts'
import { openCheckpoint } from '../checkpoint/open-checkpoint.ts'
import type {
  TransformerInput,
  TransformerOptions,
  WanTransformer,
} from '../transformer/transformer.ts'
import {
  measureActivationSizes,
  readActivationSizes,
  writeActivationSizes,
} from './activation-sizes.ts'
import { quantizeCheckpoint, quantizeCheckpointIter } from './quantize-checkpoint.ts'

let device: CpuDevice
let folder: string
beforeAll(async () => {
  device = await openDevice()
  folder = await mkdtemp(join(tmpdir(), 'kinora-quantize-'))
})
afterAll(async () => {
  device.destroy()
  await rm(folder, { recursive: true, force: true })
})

function input(seed: number, timestep: number): TransformerInput {
  return {
    latents: device.upload(normals(seed, 0, 36 * 3 * 64), [1, 36, 3, 8, 8], 'f32'),
    timesteps: [timestep],
    text: device.upload(normals(seed, 1, 48 * 128), [1, 48, 128], 'f32'),
  }
}

async function run(transformer: WanTransformer, seed = 5): Promise<Float32Array> {
  const out = device.scope(() => transformer.forward(device.ops, input(seed, 300)))
  const values = (await device.read(out)) as Float32Array
  device.release(out)
  return values
}

async function outputOf(
  dir: string,
  options: Partial<TransformerOptions> = {},
): Promise<Float32Array> {
  const transformer = await loadTransformer(await openCheckpoint(dir), 'low', device, {
    compute: 'f32',
    ...options,
  })
  const out = await run(transformer)
  transformer.release()
  return out
}

const distance = (a: Float32Array, b: Float32Array): number =>
  Math.hypot(...a.map((value, i) => value - b[i]!)) / Math.hypot(...b)

/** Names, sizes and times of all files. */
async function listing(dir: string): Promise<Record<string, string>> {
  const all: Record<string, string> = {}
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const file = join(entry.parentPath, entry.name)
    const { size, mtimeMs } = await stat(file)
    all[file.slice(dir.length + 1)] = `${size} ${mtimeMs}`
  }
  return all
}

// Each writes whole checkpoints, flushed to the disk.
describe('a packed checkpoint', { timeout: 180_000 }, () => {
  it('loads without the original, and gives what packing at load gives', async () => {
    const copy = await CopiedCheckpoint.make()
    const out = join(folder, 'plain')
    const result = await quantizeCheckpoint({ checkpoint: copy.dir, out }, { device })
    await copy[Symbol.asyncDispose]()
    expect(result.scheme).toBe('uint4')
    // Half a byte and a scale in sixty-four for what were two; norms, biases and embedders stay.
    expect(result.bytes.after / result.bytes.before).toBeLessThan(0.45)
    expect(result.recovered).toEqual({})
    expect(await outputOf(out)).toEqual(await outputOf(tinyWan, { quantize: 'uint4' }))
    expect(await outputOf(out, { quantize: 'uint4' })).toEqual(await outputOf(out))
    await expect(outputOf(out, { quantize: 'qfloat8' })).rejects.toMatchObject({
      code: 'CHECKPOINT_PACKED_OTHERWISE',
    })
    await using open = await openSafetensors(
      join(out, 'transformer', 'diffusion_pytorch_model.safetensors'),
    )
    expect(JSON.parse(open.metadata['kinora_packing']!)).toEqual({
      version: 1,
      scheme: 'uint4',
      source: await (await openCheckpoint(tinyWan)).fingerprint('transformer'),
    })
    expect(open.tensors.get('blocks.0.ffn.net.2.weight.codes')).toMatchObject({
      dtype: 'U32',
      shape: [128, 64],
    })
    expect(open.tensors.get('blocks.0.ffn.net.2.weight.zeros')).toMatchObject({
      dtype: 'F16',
      shape: [128, 8],
    })
    // The VAE is the same to caches that go by its content.
    const [before, after] = [await openCheckpoint(tinyWan), await openCheckpoint(out)]
    expect(await after.fingerprint('vae')).toBe(await before.fingerprint('vae'))
    expect(device.memory().liveBytes).toBe(0)
  })

  it('is made shard by shard: a run that was stopped goes on, one that was not changes nothing', async () => {
    const out = join(folder, 'resumed')
    const options = { checkpoint: tinyWan, out, scheme: 'uint4+ara', rank: 4 } as const
    const context = { device, maxShardBytes: 500_000 }
    const controller = new AbortController()
    const until = async (linears: number): Promise<void> => {
      for await (const event of quantizeCheckpointIter(options, {
        ...context,
        signal: controller.signal,
      })) {
        if (event.type === 'progress' && event.done >= linears) controller.abort()
      }
    }
    await expect(until(45)).rejects.toThrow('aborted')
    const stopped = await listing(out)
    const shards = Object.keys(stopped).filter((file) =>
      /model-\d+-of-\d+\.safetensors$/.test(file),
    )
    expect(shards.length).toBeGreaterThanOrEqual(1)
    await expect(openCheckpoint(out)).rejects.toMatchObject({ code: 'CHECKPOINT_MISSING_FILE' })

    const events: StageEvent[] = []
    const going = quantizeCheckpointIter(options, context)
    let step = await going.next()
    for (; !step.done; step = await going.next()) events.push(step.value)
    const items = events.flatMap((event) =>
      event.type === 'progress' && event.phase === 'transformer' ? [event.item!] : [],
    )
    expect(items.filter((item) => item.includes('there already'))).toHaveLength(shards.length)
    expect(step.value.recovered.transformer).toBeGreaterThan(0.05)
    const whole = await listing(out)
    for (const shard of shards) expect(whole[shard]).toBe(stopped[shard])
    expect(Object.keys(whole).filter((file) => file.includes('/.'))).toEqual([])

    expect(await quantizeCheckpoint(options, context)).toEqual(step.value)
    expect(await listing(out)).toEqual(whole)

    // The same bytes as in one go.
    const once = join(folder, 'once')
    await quantizeCheckpoint({ ...options, out: once }, context)
    for (const file of Object.keys(whole)) {
      const [one, other] = [await readFile(join(once, file)), await readFile(join(out, file))]
      expect(one.equals(other), file).toBe(true)
    }

    // Another scheme replaces all of it.
    await quantizeCheckpoint({ checkpoint: tinyWan, out, scheme: 'float8' }, { device })
    expect(await outputOf(out)).toEqual(await outputOf(tinyWan, { quantize: 'float8' }))
    expect(
      Object.keys(await listing(out)).filter(
        (file) => /recovery|-of-|index\.json/.test(file.slice(2)) && file.startsWith('transformer'),
      ),
    ).toEqual([])
  })

  it('with a recovery adapter of its own is nearer to the original, nearer still with calibration', async () => {
    const want = await outputOf(tinyWan)
    const plain = distance(await outputOf(tinyWan, { quantize: 'uint4' }), want)
    const out = join(folder, 'ara')
    const { recovered } = await quantizeCheckpoint(
      { checkpoint: tinyWan, out, scheme: 'uint4+ara', rank: 8 },
      { device },
    )
    expect(recovered.transformer_2).toBeGreaterThan(0.1)
    const withAdapter = distance(await outputOf(out), want)

    const checkpoint = await openCheckpoint(tinyWan)
    const original = await loadTransformer(checkpoint, 'low', device, { compute: 'f32' })
    const sizes = await measureActivationSizes(device, original, [input(6, 200), input(7, 600)])
    original.release()
    expect(sizes.size).toBe(80)
    const statistics = join(folder, 'sizes.safetensors')
    await writeActivationSizes(statistics, { low: sizes })
    const back = await readActivationSizes(statistics, 'low')
    expect([...back.keys()].sort()).toEqual([...sizes.keys()].sort())
    expect(back.get('blocks.7.ffn.net.2')).toEqual(sizes.get('blocks.7.ffn.net.2'))
    const calibrated = join(folder, 'calibrated')
    await quantizeCheckpoint(
      { checkpoint: tinyWan, out: calibrated, scheme: 'uint4+ara', rank: 8, statistics },
      { device },
    )
    const withCalibration = distance(await outputOf(calibrated), want)
    expect(withAdapter).toBeLessThan(0.95 * plain)
    expect(withCalibration).toBeLessThan(withAdapter)
  })

  it('packs the text encoder too where asked', async () => {
    const out = join(folder, 'text')
    await quantizeCheckpoint(
      { checkpoint: tinyWan, out, scheme: 'qfloat8', textEncoder: 'float8' },
      { device },
    )
    const encode = async (dir: string, quantize?: 'float8'): Promise<Float32Array> => {
      const encoder = await loadTextEncoder(await openCheckpoint(dir), device, { quantize })
      const states = await encoder.encode(['a red circle rises'])
      const values = (await device.read(states)) as Float32Array
      device.release(states)
      await encoder.release()
      return values
    }
    expect(await encode(out)).toEqual(await encode(tinyWan, 'float8'))
    expect(await encode(out)).not.toEqual(await encode(tinyWan))
  })

  it('says what it will not do', async () => {
    const out = join(folder, 'plain')
    await expect(
      quantizeCheckpoint({ checkpoint: out, out: join(folder, 'again') }, { device }),
    ).rejects.toMatchObject({ code: 'CHECKPOINT_ALREADY_PACKED' })
    const link = join(folder, 'link')
    await symlink(tinyWan, link)
    await expect(
      quantizeCheckpoint({ checkpoint: link, out: link }, { device }),
    ).rejects.toMatchObject({ code: 'CHECKPOINT_SAME_FOLDER' })
    await expect(
      quantizeCheckpoint({ checkpoint: tinyWan, out, scheme: 'int2' as 'uint4' }, { device }),
    ).rejects.toMatchObject({ code: 'CHECKPOINT_BAD_OPTIONS' })

    // Codes without the word on how they are packed, and a scale no number can have.
    await mkdir(join(folder, 'damaged'), { recursive: true })
    const file = 'transformer_2/diffusion_pytorch_model.safetensors'
    await using copy = await CopiedCheckpoint.make()
    await quantizeCheckpoint({ checkpoint: tinyWan, out: join(folder, 'whole') }, { device })
    for (const name of ['transformer/diffusion_pytorch_model.safetensors', file]) {
      await copy.write(name, await readFile(join(folder, 'whole', name)))
    }
    await openCheckpoint(copy.dir)
    await copy.tensors(file, () => {})
    await expect(openCheckpoint(copy.dir)).rejects.toMatchObject({ code: 'CHECKPOINT_NOT_PACKED' })
  })
})
