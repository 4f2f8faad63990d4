import { rename } from 'node:fs/promises'
import { join } from 'node:path'
import { openDevice } from '@kinora/cpu-kernels'
import type { Tensor } from '@kinora/kernel-api'
import { f16ToF32, f32ToBf16, f32ToF16 } from '@kinora/safetensors'
import { isCodedError } from '@kinora/stage'
import { describe, expect, it } from 'vitest'
import { CopiedCheckpoint, tinyWan, type StoredTensor } from '../../../test/copied-checkpoint.ts'
import { loadTransformer, loadVae } from './load-networks.ts'
import { openCheckpoint } from './open-checkpoint.ts'
import { SafetensorsWeights } from './safetensors-weights.ts'

const weights = 'transformer/diffusion_pytorch_model.safetensors'
const query = 'blocks.3.attn1.to_q.weight'

/** Opens a changed copy of tiny-wan and returns the error. */
async function refusal(change: (copy: CopiedCheckpoint) => Promise<void>) {
  await using copy = await CopiedCheckpoint.make()
  await change(copy)
  const error: unknown = await openCheckpoint(copy.dir).then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (!isCodedError(error)) throw error ?? new Error('the checkpoint was accepted')
  expect(error.fix.length).toBeGreaterThan(20)
  return { code: error.code, message: error.message.replaceAll(copy.dir, '…') }
}

const halves = (bytes: Uint8Array) =>
  new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)
const asF32 = (tensor: StoredTensor) => f16ToF32(halves(tensor.data as Uint8Array))

describe('a whole checkpoint', () => {
  it('opens with what its configuration says', async () => {
    const checkpoint = await openCheckpoint(tinyWan)
    expect(checkpoint).toMatchObject({
      source: tinyWan,
      dir: tinyWan,
      boundaryRatio: 0.9,
      textLength: 48,
      scheduler: { className: 'UniPCMultistepScheduler', flowShift: 3, solverOrder: 2 },
      transformer: { numHeads: 2, headDim: 64, inChannels: 36, numLayers: 8, ffnDim: 512 },
      vae: { baseDim: 16, numResBlocks: 1, temporalFactor: 4, spatialFactor: 8 },
      textEncoder: { vocabSize: 192, dim: 128, numLayers: 2 },
    })
  })

  it('takes the values of the release for keys that are missing', async () => {
    await using copy = await CopiedCheckpoint.make()
    for (const part of ['transformer', 'transformer_2']) {
      await copy.json(`${part}/config.json`, {
        eps: undefined,
        patch_size: undefined,
        image_dim: undefined,
        added_kv_proj_dim: undefined,
        rope_max_seq_len: null,
      })
    }
    await copy.json('vae/config.json', { is_residual: undefined, patch_size: undefined })
    await copy.json('model_index.json', { boundary_ratio: undefined, image_encoder: undefined })
    await copy.remove('scheduler')
    await copy.remove('tokenizer/tokenizer_config.json')
    const checkpoint = await openCheckpoint(copy.dir)
    expect(checkpoint.transformer).toMatchObject({
      eps: 1e-6,
      patchSize: [1, 2, 2],
      ropeMaxLength: 1024,
    })
    expect(checkpoint).toMatchObject({ boundaryRatio: 0.9, textLength: 512 })
    expect(checkpoint.scheduler.flowShift).toBe(3)
  })

  it('loads the same from shards, and from F32 and BF16 files', async () => {
    await using copy = await CopiedCheckpoint.make()
    const tensors = await copy.readTensors(weights)
    const names = [...tensors.keys()]
    const shardOf = (name: string) =>
      `diffusion_pytorch_model-0000${(names.indexOf(name) % 3) + 1}-of-00003.safetensors`
    for (const shard of new Set(names.map(shardOf))) {
      const part = names.filter((name) => shardOf(name) === shard)
      await copy.writeTensors(
        `transformer/${shard}`,
        new Map(
          part.map((name) => {
            const { shape, ...rest } = tensors.get(name)!
            return [name, { dtype: 'F32', shape, data: asF32({ shape, ...rest }) }]
          }),
        ),
      )
    }
    await copy.remove(weights)
    await copy.write(
      'transformer/diffusion_pytorch_model.safetensors.index.json',
      JSON.stringify({
        metadata: { total_size: 0 },
        weight_map: Object.fromEntries(names.map((name) => [name, shardOf(name)])),
      }),
    )
    await copy.tensors('transformer_2/diffusion_pytorch_model.safetensors', (all) => {
      for (const [name, tensor] of all) {
        all.set(name, { dtype: 'BF16', shape: tensor.shape, data: f32ToBf16(asF32(tensor)) })
      }
    })

    const device = await openDevice()
    const checkpoint = await openCheckpoint(copy.dir)
    const original = await openCheckpoint(tinyWan)
    const load = async (from: typeof checkpoint, part: 'transformer' | 'transformer_2') => {
      await using files = await from.openWeights(part)
      const tensor = await new SafetensorsWeights(files.byTensor).load(query, device, 'f32')
      return (await device.read(tensor)) as Float32Array
    }
    expect(await load(checkpoint, 'transformer')).toEqual(await load(original, 'transformer'))
    const exact = await load(original, 'transformer_2')
    const rounded = await load(checkpoint, 'transformer_2')
    for (const [i, value] of exact.entries()) {
      expect(Math.abs(rounded[i]! - value)).toBeLessThanOrEqual(Math.abs(value) / 256)
    }
    device.destroy()
  })

  it('frees all it loaded, and leaves nothing behind when it is aborted', async () => {
    const device = await openDevice()
    const checkpoint = await openCheckpoint(tinyWan)
    const networks = [
      await loadTransformer(checkpoint, 'high', device, { compute: 'f32' }),
      await loadVae(checkpoint, device),
    ]
    expect(device.memory().liveBytes).toBeGreaterThan(4_000_000)
    for (const network of networks) network.release()
    expect(device.memory().liveBytes).toBe(0)

    const controller = new AbortController()
    const counting = Object.create(device, {
      upload: {
        value: (...args: Parameters<typeof device.upload>): Tensor => {
          controller.abort()
          return device.upload(...args)
        },
      },
      release: { value: (tensor: Tensor) => device.release(tensor) },
      scope: { value: <T>(fn: () => T) => device.scope(fn) },
      retain: { value: (tensor: Tensor) => device.retain(tensor) },
      read: { value: (tensor: Tensor) => device.read(tensor) },
      info: { value: device.info },
      ops: { value: device.ops },
    }) as typeof device
    await expect(
      loadTransformer(checkpoint, 'low', counting, { compute: 'f32', signal: controller.signal }),
    ).rejects.toThrow('aborted')
    expect(device.memory().liveBytes).toBe(0)
    device.destroy()
  })
})

describe('fingerprints', () => {
  it('tell experts apart, are stable, and change with a byte', async () => {
    await using copy = await CopiedCheckpoint.make()
    const original = await openCheckpoint(tinyWan)
    const same = await openCheckpoint(copy.dir)
    const high = await original.fingerprint('transformer')
    expect(high).toMatch(/^[0-9a-f]{64}$/)
    expect(await same.fingerprint('transformer')).toBe(high)
    expect(await original.fingerprint('transformer_2')).not.toBe(high)
    await copy.tensors(weights, (all) => {
      const data = (all.get(query)!.data as Uint8Array).slice()
      data[100]! ^= 1
      all.set(query, { ...all.get(query)!, data })
    })
    expect(await (await openCheckpoint(copy.dir)).fingerprint('transformer')).not.toBe(high)
  })
})

describe('tensors are compared with the architecture before anything is loaded', () => {
  it('names a missing tensor, what it should be and where it was looked for', async () => {
    const { code, message } = await refusal((copy) =>
      copy.tensors(weights, (all) => {
        all.delete(query)
        all.delete('proj_out.bias')
      }),
    )
    expect(code).toBe('CHECKPOINT_MISSING_TENSOR')
    expect(message).toBe(
      `Tensor ${query}, expected with shape [128, 128], is not in …/${weights}, nor are 1 others.`,
    )
  })

  it('names an extra tensor', async () => {
    const { code, message } = await refusal((copy) =>
      copy.tensors(weights, (all) => {
        all.set('blocks.8.attn1.to_q.weight', all.get(query)!)
      }),
    )
    expect(code).toBe('CHECKPOINT_EXTRA_TENSOR')
    expect(message).toContain('blocks.8.attn1.to_q.weight')
    expect(message).toContain(weights)
  })

  it('names a tensor of the wrong shape and both shapes', async () => {
    const { code, message } = await refusal((copy) =>
      copy.tensors(weights, (all) => {
        all.set(query, { ...all.get(query)!, shape: [64, 256] })
      }),
    )
    expect(code).toBe('CHECKPOINT_WRONG_SHAPE')
    expect(message).toBe(
      `Tensor ${query} in …/${weights} has shape [64, 256]; config.json asks for [128, 128].`,
    )
  })

  it('names a tensor of a dtype that is not read', async () => {
    const { code, message } = await refusal((copy) =>
      copy.tensors('vae/diffusion_pytorch_model.safetensors', (all) => {
        const name = 'quant_conv.bias'
        all.set(name, { dtype: 'I32', shape: [32], data: new Int32Array(32) })
      }),
    )
    expect(code).toBe('CHECKPOINT_WRONG_DTYPE')
    expect(message).toContain('quant_conv.bias')
    expect(message).toContain('I32')
  })

  it('names the tensor that a truncated file ends in', async () => {
    const { code, message } = await refusal((copy) => copy.cut(weights, 1000))
    expect(code).toBe('CHECKPOINT_BAD_FILE')
    expect(message).toContain(weights)
    expect(message).toMatch(/tensor \S+ ends at byte/)
  })

  it.each([
    ['a missing file', (copy: CopiedCheckpoint) => copy.remove(weights), 'CHECKPOINT_MISSING_FILE'],
    [
      'a file that is no safetensors',
      (copy: CopiedCheckpoint) => copy.write(weights, 'version https://git-lfs.github.com/spec/v1'),
      'CHECKPOINT_BAD_FILE',
    ],
    [
      'an index that is no JSON',
      (copy: CopiedCheckpoint) => copy.write(`${weights}.index.json`, '{'),
      'CHECKPOINT_BAD_INDEX',
    ],
    [
      'an index of shards that are not there',
      (copy: CopiedCheckpoint) =>
        copy.write(`${weights}.index.json`, '{"weight_map":{"a":"b.safetensors"}}'),
      'CHECKPOINT_MISSING_FILE',
    ],
    [
      'an index that points out of its folder',
      (copy: CopiedCheckpoint) =>
        copy.write(`${weights}.index.json`, '{"weight_map":{"a":"../b.safetensors"}}'),
      'CHECKPOINT_BAD_INDEX',
    ],
    [
      'an index that names a tensor no shard has',
      (copy: CopiedCheckpoint) =>
        copy.write(
          `${weights}.index.json`,
          '{"weight_map":{"a":"diffusion_pytorch_model.safetensors"}}',
        ),
      'CHECKPOINT_BAD_INDEX',
    ],
    [
      'no tokenizer',
      (copy: CopiedCheckpoint) => copy.remove('tokenizer'),
      'CHECKPOINT_MISSING_FILE',
    ],
    [
      'no model_index.json',
      (copy: CopiedCheckpoint) => copy.remove('model_index.json'),
      'CHECKPOINT_MISSING_FILE',
    ],
    [
      'a config that is no JSON',
      (copy: CopiedCheckpoint) => copy.write('vae/config.json', '# hello'),
      'CHECKPOINT_BAD_CONFIG',
    ],
    [
      'a config of another kind of norm',
      (copy: CopiedCheckpoint) => copy.json('transformer/config.json', { qk_norm: 'layer_norm' }),
      'CHECKPOINT_BAD_CONFIG',
    ],
    [
      'experts of two architectures',
      (copy: CopiedCheckpoint) => copy.json('transformer_2/config.json', { num_layers: 4 }),
      'CHECKPOINT_BAD_CONFIG',
    ],
    [
      'a text width that does not fit the text encoder',
      async (copy: CopiedCheckpoint) => {
        await copy.json('transformer/config.json', { text_dim: 64 })
        await copy.json('transformer_2/config.json', { text_dim: 64 })
      },
      'CHECKPOINT_BAD_CONFIG',
    ],
  ])('refuses %s', async (_, change, expected) => {
    expect((await refusal(change)).code).toBe(expected)
  })
})

describe('other models are recognised and refused with the reason', () => {
  it.each([
    [
      'Wan 2.1 by its image projections',
      (copy: CopiedCheckpoint) => copy.json('transformer/config.json', { image_dim: 1280 }),
      'CHECKPOINT_WAN_21',
      'image_dim is 1280',
    ],
    [
      'Wan 2.1 by its image keys',
      (copy: CopiedCheckpoint) => copy.json('transformer/config.json', { added_kv_proj_dim: 5120 }),
      'CHECKPOINT_WAN_21',
      'added_kv_proj_dim is 5120',
    ],
    [
      'Wan 2.1 by its image encoder',
      (copy: CopiedCheckpoint) =>
        copy.json('model_index.json', { image_encoder: ['transformers', 'CLIPVisionModel'] }),
      'CHECKPOINT_WAN_21',
      'CLIPVisionModel',
    ],
    [
      'a text-to-video model',
      async (copy: CopiedCheckpoint) => {
        await copy.json('model_index.json', { _class_name: 'WanPipeline' })
        await copy.json('transformer/config.json', { in_channels: 16 })
      },
      'CHECKPOINT_TEXT_TO_VIDEO',
      '16 input channels',
    ],
    [
      'the 5B model by its VAE',
      (copy: CopiedCheckpoint) => copy.json('vae/config.json', { z_dim: 48 }),
      'CHECKPOINT_WAN_22_5B',
      'z_dim is 48',
    ],
    [
      'the 5B model by its pipeline',
      (copy: CopiedCheckpoint) => copy.json('model_index.json', { expand_timesteps: true }),
      'CHECKPOINT_WAN_22_5B',
      'expand_timesteps',
    ],
    [
      'another transformer',
      (copy: CopiedCheckpoint) =>
        copy.json('transformer/config.json', { _class_name: 'WanAnimateTransformer3DModel' }),
      'CHECKPOINT_OTHER_MODEL',
      'WanAnimateTransformer3DModel',
    ],
    [
      'a model of one expert',
      (copy: CopiedCheckpoint) => copy.remove('transformer_2'),
      'CHECKPOINT_ONE_EXPERT',
      'transformer_2',
    ],
    [
      'float8 weights by their dtype',
      (copy: CopiedCheckpoint) =>
        copy.tensors(weights, (all) => {
          const { shape } = all.get(query)!
          all.set(query, { dtype: 'F8_E4M3', shape, data: new Uint8Array(128 * 128) })
        }),
      'CHECKPOINT_FP8',
      `${query} is F8_E4M3`,
    ],
    [
      'float8 weights by their scales',
      (copy: CopiedCheckpoint) =>
        copy.tensors(weights, (all) => {
          all.set('blocks.0.ffn.0.scale_weight', {
            dtype: 'F32',
            shape: [1],
            data: new Float32Array(1),
          })
        }),
      'CHECKPOINT_FP8',
      'scale_weight',
    ],
    [
      'original names in a folder of diffusers',
      (copy: CopiedCheckpoint) =>
        copy.tensors(weights, (all) => {
          all.set('blocks.0.self_attn.q.weight', all.get(query)!)
        }),
      'CHECKPOINT_ORIGINAL_LAYOUT',
      'blocks.0.self_attn.q.weight',
    ],
    [
      'the original release',
      async (copy: CopiedCheckpoint) => {
        await copy.remove('model_index.json')
        await rename(copy.path('transformer'), copy.path('high_noise_model'))
      },
      'CHECKPOINT_ORIGINAL_LAYOUT',
      'high_noise_model',
    ],
    [
      'a folder of ComfyUI files',
      async (copy: CopiedCheckpoint) => {
        await copy.remove('model_index.json')
        await copy.write('wan2.2_i2v_high_noise_14B_fp16.safetensors', '')
      },
      'CHECKPOINT_COMFYUI_LAYOUT',
      'wan2.2_i2v_high_noise_14B_fp16.safetensors',
    ],
  ])('%s', async (_, change, code, reason) => {
    const refused = await refusal(change)
    expect(refused.code).toBe(code)
    expect(refused.message).toContain(reason)
  })

  it('single files: ComfyUI names, float8, and any other', async () => {
    await using copy = await CopiedCheckpoint.make()
    const single = async (name: string, tensor: StoredTensor) => {
      await copy.writeTensors('single.safetensors', new Map([[name, tensor]]))
      return expect(openCheckpoint(copy.path('single.safetensors'))).rejects
    }
    const f16: StoredTensor = { dtype: 'F16', shape: [2], data: f32ToF16(new Float32Array(2)) }
    await (
      await single('model.diffusion_model.head.modulation', f16)
    ).toMatchObject({
      code: 'CHECKPOINT_COMFYUI_LAYOUT',
    })
    await (
      await single('blocks.0.self_attn.q.weight', f16)
    ).toMatchObject({
      code: 'CHECKPOINT_ORIGINAL_LAYOUT',
    })
    await (
      await single('blocks.0.x', { ...f16, dtype: 'F8_E4M3', data: new Uint8Array(2) })
    ).toMatchObject({
      code: 'CHECKPOINT_FP8',
    })
    await (await single('x', f16)).toMatchObject({ code: 'CHECKPOINT_COMFYUI_LAYOUT' })
  })

  it('a path that is nothing', async () => {
    await expect(openCheckpoint(join(tinyWan, 'no', 'such', 'folder'))).rejects.toMatchObject({
      code: 'CHECKPOINT_NOT_FOUND',
    })
  })
})

describe('numbers are checked while they are loaded', () => {
  async function loadChanged(dtype: 'F32' | 'F16' | 'BF16', to: 'f32' | 'f16', bad: number) {
    await using copy = await CopiedCheckpoint.make()
    await copy.tensors(weights, (all) => {
      const values = new Float32Array(128 * 128)
      values[77] = bad
      const data = dtype === 'F32' ? values : dtype === 'F16' ? f32ToF16(values) : f32ToBf16(values)
      all.set(query, { dtype, shape: [128, 128], data })
    })
    const device = await openDevice()
    const checkpoint = await openCheckpoint(copy.dir)
    await using files = await checkpoint.openWeights('transformer')
    const source = new SafetensorsWeights(files.byTensor)
    const tensor = await source.load(query, device, to)
    await source.settle()
    return ((await device.read(tensor)) as Float32Array)[77]
  }

  it.each([
    ['F32', 'f16', 65504, 65504],
    ['BF16', 'f16', -65280, -65280],
    ['BF16', 'f32', 2 ** 100, 2 ** 100],
    ['F32', 'f16', 2 ** -30, 0],
  ] as const)('%s to %s: %d arrives as %d', async (dtype, to, value, expected) => {
    expect(await loadChanged(dtype, to, value)).toBe(expected)
  })

  it.each([
    ['F32', 'f16', 70000, 'CHECKPOINT_TOO_LARGE_FOR_F16'],
    ['BF16', 'f16', -1e6, 'CHECKPOINT_TOO_LARGE_FOR_F16'],
    ['F16', 'f16', Number.NaN, 'CHECKPOINT_NOT_FINITE'],
    ['BF16', 'f16', Number.NaN, 'CHECKPOINT_NOT_FINITE'],
    ['F32', 'f32', Number.POSITIVE_INFINITY, 'CHECKPOINT_NOT_FINITE'],
    ['F16', 'f32', Number.NaN, 'CHECKPOINT_NOT_FINITE'],
  ] as const)('%s to %s: %d is %s', async (dtype, to, value, code) => {
    await expect(loadChanged(dtype, to, value)).rejects.toMatchObject({
      code,
      message: expect.stringContaining(`Element 77 of tensor ${query}`) as string,
    })
  })
})
