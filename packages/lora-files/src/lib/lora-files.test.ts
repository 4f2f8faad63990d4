import { createHash } from 'node:crypto'
import { mkdtemp, readFile, readdir, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openSafetensors, writeSafetensors, type TensorToWrite } from '@kinora/safetensors'
import fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import { loraLayouts } from './layouts.ts'
import {
  blockLinearNames,
  diffusersName,
  diffusersNameOfFlat,
  originalName,
} from './key-maps/wan-names.ts'
import { loraFileName, parseLoraFileName, trainingMetadata } from './lora-metadata.ts'
import {
  adapterKinds,
  loraScale,
  type LokrModule,
  type LoraModule,
  type LoraWeights,
} from './lora-weights.ts'
import { inspectLora, readLora, type ReadLoraOptions } from './read-lora.ts'
import { loraDtypes, writeCombinedLora, writeLora, type LoraDtype } from './write-lora.ts'

const folder = await mkdtemp(join(tmpdir(), 'kinora-lora-'))
afterAll(() => rm(folder, { recursive: true }))
let count = 0
const newFile = () => join(folder, `${count++}.safetensors`)

function randomModule(
  rank: number,
  inFeatures: number,
  outFeatures: number,
  seed: number,
): LoraModule {
  let state = seed >>> 0
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    // 8 bits of fraction, so that f16 and bf16 hold every value.
    return ((state >>> 24) - 128) / 128
  }
  return {
    a: Float32Array.from({ length: rank * inFeatures }, next),
    b: Float32Array.from({ length: outFeatures * rank }, next),
    rank,
    inFeatures,
    outFeatures,
  }
}

function sampleWeights(): LoraWeights {
  const names = [0, 1, 10].flatMap((block) =>
    blockLinearNames.map((name) => `blocks.${block}.${name}`),
  )
  return {
    modules: new Map(names.map((name, index) => [name, randomModule(2, 6, 4, index)])),
    metadata: { format: 'pt', ss_base_model_version: 'wan_2.2_14b' },
  }
}

/** scale · B A, in f64. */
function product(module: LoraModule): Float64Array {
  const { a, b, rank, inFeatures, outFeatures } = module
  const out = new Float64Array(outFeatures * inFeatures)
  for (let row = 0; row < outFeatures; row++) {
    for (let column = 0; column < inFeatures; column++) {
      let sum = 0
      for (let k = 0; k < rank; k++) sum += b[row * rank + k]! * a[k * inFeatures + column]!
      out[row * inFeatures + column] = sum * loraScale(module)
    }
  }
  return out
}

const f32 = (name: string, shape: number[], value = 0.5): TensorToWrite => ({
  name,
  dtype: 'F32',
  shape,
  data: new Float32Array(shape.reduce((p, q) => p * q, 1)).fill(value),
})

async function written(
  tensors: TensorToWrite[],
  metadata: Record<string, string> = {},
): Promise<string> {
  const file = newFile()
  await writeSafetensors(file, tensors, metadata)
  return file
}

describe('names', () => {
  it('go both ways for every linear of a block and outside the blocks', () => {
    const names = [
      ...blockLinearNames.map((name) => `blocks.39.${name}`),
      'condition_embedder.time_embedder.linear_1',
      'condition_embedder.time_embedder.linear_2',
      'condition_embedder.time_proj',
      'condition_embedder.text_embedder.linear_1',
      'condition_embedder.text_embedder.linear_2',
      'proj_out',
    ]
    for (const name of names) {
      const original = originalName(name)
      expect(original).toBeDefined()
      expect(diffusersName(original!)).toBe(name)
      expect(diffusersNameOfFlat(original!.replaceAll('.', '_'))).toBe(name)
    }
    expect(new Set(names.map(originalName)).size).toBe(names.length)
  })

  it.each([
    'blocks.0.attn1.norm_q',
    'blocks.0.proj_out',
    'attn1.to_q',
    'blocks.01.attn1.to_q',
    'blocks.0',
    '',
  ])('are not invented for %j', (name) => expect(originalName(name)).toBeUndefined())

  it('of files carry step and expert as in AI Toolkit', () => {
    expect(loraFileName('my_lora', 'high', 250)).toBe('my_lora_000000250_high_noise.safetensors')
    expect(loraFileName('my_lora', 'low')).toBe('my_lora_low_noise.safetensors')
    expect(parseLoraFileName('my_lora_000000250_high_noise.safetensors')).toEqual({
      name: 'my_lora',
      expert: 'high',
      step: 250,
    })
    expect(parseLoraFileName('a_b_low_noise.safetensors')).toEqual({ name: 'a_b', expert: 'low' })
    expect(parseLoraFileName('my_lora.safetensors')).toBeUndefined()
  })
})

describe('round trips', () => {
  it.each(
    loraLayouts.flatMap((layout) =>
      (Object.keys(loraDtypes) as LoraDtype[]).map((dtype) => [layout, dtype] as const),
    ),
  )('%s in %s gives back the same numbers', async (layout, dtype) => {
    const weights = sampleWeights()
    const file = newFile()
    await writeLora(file, weights, { layout, dtype })
    const back = await readLora(file)
    expect([...back.modules.keys()].sort()).toEqual([...weights.modules.keys()].sort())
    for (const [name, module] of weights.modules) {
      expect(back.modules.get(name)).toEqual(
        layout === 'kohya' ? { ...module, alpha: module.rank } : module,
      )
    }
    expect(await inspectLora(file)).toMatchObject({ layout, canonical: true, skipped: [] })
  })

  it('keep the effective weights through any chain of layouts, whatever rank and alpha', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom(...loraLayouts), { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 1, max: 5 }),
        fc.option(fc.double({ min: 0.01, max: 64, noNaN: true }), { nil: undefined }),
        fc.integer(),
        async (chain, rank, alpha, seed) => {
          const module = randomModule(rank, 5, 3, seed)
          if (alpha !== undefined) module.alpha = Math.fround(alpha)
          const expected = product(module)
          let weights: LoraWeights = {
            modules: new Map([['blocks.3.ffn.net.2', module]]),
            metadata: {},
          }
          const file = newFile()
          for (const layout of chain) {
            await writeLora(file, weights, { layout, dtype: 'f32' })
            weights = await readLora(file)
          }
          const actual = product(weights.modules.get('blocks.3.ffn.net.2')!)
          expected.forEach((value, index) =>
            expect(Math.abs(actual[index]! - value)).toBeLessThanOrEqual(
              1e-6 * rank * Math.max(1, loraScale(module)),
            ),
          )
        },
      ),
      { numRuns: 60 },
    )
  })

  it('of a file of both experts give each expert its own', async () => {
    const high = sampleWeights()
    const low = sampleWeights()
    for (const module of low.modules.values()) module.b = module.b.map((value) => -value)
    for (const layout of ['comfyui', 'diffusers'] as const) {
      const file = newFile()
      await writeCombinedLora(file, { high, low }, { layout, dtype: 'f32' })
      expect(
        (await readLora(file, { expert: 'low' })).modules.get('blocks.0.attn1.to_q')?.b,
      ).toEqual(low.modules.get('blocks.0.attn1.to_q')?.b)
      expect(
        (await readLora(file, { expert: 'high' })).modules.get('blocks.0.attn1.to_q')?.b,
      ).toEqual(high.modules.get('blocks.0.attn1.to_q')?.b)
      await expect(readLora(file)).rejects.toMatchObject({ code: 'LORA_EXPERT_NEEDED' })
    }
  })
})

describe('LoKr and DoRA', () => {
  const q = 'diffusion_model.blocks.0.self_attn.q'
  const values = (length: number, seed: number): Float32Array => randomModule(1, length, 1, seed).a
  const whole: LokrModule = {
    w1: values(6, 1),
    w2: values(8, 2),
    shape1: [2, 3],
    shape2: [4, 2],
    inFeatures: 6,
    outFeatures: 8,
  }
  const factored: LokrModule = { ...whole, w2: { a: values(8, 3), b: values(4, 4) }, rank: 2 }
  const dora: LoraModule = { ...randomModule(2, 6, 8, 5), magnitude: values(6, 6) }
  const weights: LoraWeights = {
    modules: new Map([['blocks.0.attn1.to_k', dora]]),
    kronecker: new Map([
      ['blocks.0.attn1.to_q', whole],
      ['blocks.1.ffn.net.2', factored],
    ]),
    metadata: {},
  }

  it.each(['comfyui', 'kohya'] as const)('come back from %s as they were', async (layout) => {
    for (const dtype of ['f32', 'bf16'] as const) {
      const file = newFile()
      await writeLora(file, weights, { layout, dtype, hashes: false })
      const back = await readLora(file, { kinds: adapterKinds })
      expect(back.kronecker!.get('blocks.0.attn1.to_q')).toEqual(whole)
      expect(back.kronecker!.get('blocks.1.ffn.net.2')).toEqual(
        layout === 'kohya' ? { ...factored, alpha: 2 } : factored,
      )
      expect(back.modules.get('blocks.0.attn1.to_k')).toEqual(
        layout === 'kohya' ? { ...dora, alpha: 2 } : dora,
      )
      const { experts, canonical } = await inspectLora(file)
      expect(canonical).toBe(true)
      expect([...experts.get(undefined)!.values()].map(({ kind, rank }) => [kind, rank])).toEqual([
        ['dora', 2],
        ['lokr', 2],
        ['lokr', 2],
      ])
    }
  })

  it('have the keys and shapes that LyCORIS writes and ComfyUI looks for', async () => {
    const file = newFile()
    await writeLora(file, weights, { layout: 'comfyui', dtype: 'f32' })
    await using open = await openSafetensors(file)
    expect(Object.fromEntries([...open.tensors].map(([key, { shape }]) => [key, shape]))).toEqual({
      [`${q}.lokr_w1`]: [2, 3],
      [`${q}.lokr_w2`]: [4, 2],
      'diffusion_model.blocks.1.ffn.2.lokr_w1': [2, 3],
      'diffusion_model.blocks.1.ffn.2.lokr_w2_a': [4, 2],
      'diffusion_model.blocks.1.ffn.2.lokr_w2_b': [2, 2],
      'diffusion_model.blocks.0.self_attn.k.lora_A.weight': [2, 6],
      'diffusion_model.blocks.0.self_attn.k.lora_B.weight': [8, 2],
      'diffusion_model.blocks.0.self_attn.k.dora_scale': [1, 6],
    })
  })

  it('fold the scale of a factored w2, and take no account of alpha where both are whole', async () => {
    const scaled: LoraWeights = {
      modules: new Map(),
      kronecker: new Map([['blocks.0.attn1.to_q', { ...factored, alpha: 1 }]]),
      metadata: {},
    }
    const file = newFile()
    await writeLora(file, scaled, { layout: 'comfyui', dtype: 'f32' })
    const { w2, ...rest } = (await readLora(file, { kinds: ['lokr'] })).kronecker!.get(
      'blocks.0.attn1.to_q',
    )!
    expect(rest).not.toHaveProperty('alpha')
    expect((w2 as { a: Float32Array }).a).toEqual(
      (factored.w2 as { a: Float32Array }).a.map((value) => value / 2),
    )
    // AI Toolkit stores an alpha of 1e10 beside whole factors.
    const huge = await written([
      f32(`${q}.lokr_w1`, [2, 3]),
      f32(`${q}.lokr_w2`, [4, 2]),
      f32(`${q}.alpha`, [], 1e10),
    ])
    expect(
      (await readLora(huge, { kinds: ['lokr'] })).kronecker!.get('blocks.0.attn1.to_q'),
    ).not.toHaveProperty('alpha')
  })

  it('take a w1 in two factors multiplied out', async () => {
    const file = await written([
      f32(`${q}.lokr_w1_a`, [2, 1], 3),
      f32(`${q}.lokr_w1_b`, [1, 3], 0.5),
      f32(`${q}.lokr_w2`, [4, 2]),
      f32(`${q}.alpha`, [], 4),
    ])
    const { w1, shape1 } = (await readLora(file, { kinds: ['lokr'] })).kronecker!.get(
      'blocks.0.attn1.to_q',
    )!
    expect([...w1]).toEqual(Array<number>(6).fill(6))
    expect(shape1).toEqual([2, 3])
  })

  it('are refused for diffusers, and where their factors do not fit', async () => {
    const write = (some: Partial<LoraWeights>, layout: 'diffusers' | 'comfyui' = 'diffusers') =>
      writeLora(newFile(), { modules: new Map(), metadata: {}, ...some }, { layout, dtype: 'f32' })
    const { kronecker, modules } = weights
    await expect(write({ kronecker: kronecker! })).rejects.toMatchObject({
      code: 'LORA_NO_SUCH_FORM',
      message: expect.stringMatching(/diffusers.*LoKr.*attn1\.to_q/) as string,
    })
    await expect(write({ modules })).rejects.toMatchObject({
      code: 'LORA_NO_SUCH_FORM',
      message: expect.stringMatching(/DoRA/) as string,
    })
    for (const wrong of [
      { ...whole, inFeatures: 7 },
      { ...whole, w1: values(5, 1) },
      { ...factored, rank: 3 },
    ]) {
      const odd = new Map([['blocks.0.attn1.to_q', wrong]])
      await expect(write({ kronecker: odd }, 'comfyui')).rejects.toMatchObject({
        code: 'LORA_BAD_WEIGHTS',
      })
    }
    const short = new Map([['blocks.0.attn1.to_q', { ...dora, magnitude: values(5, 1) }]])
    await expect(write({ modules: short }, 'comfyui')).rejects.toMatchObject({
      code: 'LORA_BAD_WEIGHTS',
    })
  })
})

describe('layouts as other programs write them', () => {
  const A = 'blocks.0.self_attn.q'
  it.each([
    ['diffusion_model.', '.lora_A.weight', '.lora_B.weight'],
    ['diffusion_model.', '.lora_down.weight', '.lora_up.weight'],
    ['diffusion_model.', '.lora_A.default.weight', '.lora_B.default.weight'],
    ['diffusion_model.', '.lora.down.weight', '.lora.up.weight'],
    ['diffusion_model.', '_lora.down.weight', '_lora.up.weight'],
    ['diffusion_model.', '.lora_A', '.lora_B'],
    ['', '.lora_A.weight', '.lora_B.weight'],
  ])('%s…%s, %s is read', async (prefix, down, up) => {
    const file = await written([
      f32(`${prefix}${A}${down}`, [2, 6]),
      f32(`${prefix}${A}${up}`, [4, 2]),
    ])
    const { modules } = await readLora(file)
    expect(modules.get('blocks.0.attn1.to_q')).toMatchObject({
      rank: 2,
      inFeatures: 6,
      outFeatures: 4,
    })
    expect(modules.get('blocks.0.attn1.to_q')).not.toHaveProperty('alpha')
  })

  it('takes the alpha of a ComfyUI file, scalar or of one element, and folds it on writing', async () => {
    for (const shape of [[], [1]]) {
      const file = await written([
        f32(`diffusion_model.${A}.lora_down.weight`, [2, 6]),
        f32(`diffusion_model.${A}.lora_up.weight`, [4, 2]),
        f32(`diffusion_model.${A}.alpha`, shape, 8),
      ])
      const weights = await readLora(file)
      expect((await inspectLora(file)).canonical).toBe(false)
      expect(weights.modules.get('blocks.0.attn1.to_q')?.alpha).toBe(8)
      const out = newFile()
      await writeLora(out, weights, { layout: 'comfyui', dtype: 'f32' })
      await using open = await openSafetensors(out)
      expect([...open.tensors.keys()]).toEqual([
        `diffusion_model.${A}.lora_A.weight`,
        `diffusion_model.${A}.lora_B.weight`,
      ])
      expect((await open.readF32(`diffusion_model.${A}.lora_B.weight`))[0]).toBe(2)
    }
  })

  it.each([
    [{ r: 2, lora_alpha: 6, target_modules: ['to_q'] }, 6],
    [{ 'transformer.r': 2, 'transformer.lora_alpha': 3 }, 3],
    [{ r: 2, lora_alpha: 4, alpha_pattern: { 'attn1.to_q': 1 } }, 1],
    [{ r: 4, lora_alpha: 4, use_rslora: true }, 4 * Math.SQRT2],
  ])('takes the alpha of diffusers’ metadata %j', async (settings, alpha) => {
    const file = await written(
      [
        f32('transformer.blocks.0.attn1.to_q.lora_A.weight', [2, 6]),
        f32('transformer.blocks.0.attn1.to_q.lora_B.weight', [4, 2]),
      ],
      { lora_adapter_metadata: JSON.stringify(settings), format: 'pt' },
    )
    const weights = await readLora(file)
    expect(weights.modules.get('blocks.0.attn1.to_q')?.alpha).toBeCloseTo(alpha, 12)
    // Folded on writing, so it must not be there to be applied twice.
    expect(weights.metadata).toEqual({ format: 'pt' })
  })

  it('leaves out the image branch of Wan 2.1 and says so', async () => {
    const skipped: string[] = []
    const file = await written([
      f32(`diffusion_model.${A}.lora_A.weight`, [2, 6]),
      f32(`diffusion_model.${A}.lora_B.weight`, [4, 2]),
      f32('diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight', [2, 6]),
      f32('diffusion_model.img_emb.proj.1.lora_A.weight', [2, 6]),
    ])
    const { modules } = await readLora(file, { onSkipped: (keys) => skipped.push(...keys) })
    expect([...modules.keys()]).toEqual(['blocks.0.attn1.to_q'])
    expect(skipped).toHaveLength(2)
  })

  it('leaves full deltas out only where asked to', async () => {
    const file = await written([
      f32(`diffusion_model.${A}.lora_A.weight`, [2, 6]),
      f32(`diffusion_model.${A}.lora_B.weight`, [4, 2]),
      f32('diffusion_model.blocks.0.norm3.diff', [4]),
      f32(`diffusion_model.${A}.diff_b`, [4]),
    ])
    await expect(readLora(file)).rejects.toMatchObject({ code: 'LORA_FULL_DELTA' })
    expect((await readLora(file, { deltas: 'skip' })).modules.size).toBe(1)
  })

  it('takes the low-noise expert of a diffusers file that names only that one', async () => {
    const key = 'transformer_2.blocks.0.attn1.to_q'
    const file = await written([
      f32(`${key}.lora_A.weight`, [2, 6]),
      f32(`${key}.lora_B.weight`, [4, 2]),
    ])
    expect((await readLora(file)).modules.size).toBe(1)
    await expect(readLora(file, { expert: 'high' })).rejects.toMatchObject({
      code: 'LORA_EXPERT_ABSENT',
    })
  })
})

describe('what AI Toolkit writes', () => {
  it('is what the comfyui layout writes, key for key', async () => {
    const file = newFile()
    await writeLora(file, sampleWeights(), { layout: 'comfyui', dtype: 'f16' })
    await using open = await openSafetensors(file)
    const grammar =
      /^diffusion_model\.blocks\.\d+\.((self_attn|cross_attn)\.[qkvo]|ffn\.[02])\.lora_[AB]\.weight$/
    expect(open.tensors.size).toBe(60)
    for (const [key, info] of open.tensors) {
      expect(key).toMatch(grammar)
      expect(info.dtype).toBe('F16')
      expect(info.shape).toEqual(key.includes('lora_A') ? [2, 6] : [4, 2])
    }
  })

  it('has the metadata of a run, all strings', () => {
    const metadata = trainingMetadata({
      name: 'orbit',
      step: 250,
      epoch: 3,
      triggerWord: '0rbit',
      meta: { name: 'orbit', version: '1.0', tags: ['a'] },
      softwareVersion: '0.1.0',
    })
    expect(metadata).toEqual({
      format: 'pt',
      name: 'orbit',
      version: '1.0',
      tags: '["a"]',
      training_info: '{"step":250,"epoch":3}',
      ss_base_model_version: 'wan_2.2_14b',
      ss_output_name: 'orbit',
      ss_tag_frequency: '{"1_0rbit":{"0rbit":1}}',
      software: '{"name":"kinora","version":"0.1.0"}',
    })
  })

  it('hashes the data, and 64 KiB of the file as it is with only the ss_ metadata', async () => {
    // Large enough to reach past 1 MiB.
    const weights: LoraWeights = {
      modules: new Map([['blocks.0.attn1.to_q', randomModule(64, 3000, 3000, 7)]]),
      metadata: { ss_output_name: 'x' },
    }
    const plain = newFile()
    await writeLora(plain, weights, { layout: 'comfyui', dtype: 'f32', hashes: false })
    const bytes = await readFile(plain)
    const headerEnd = 8 + Number(bytes.readBigUInt64LE(0))
    const sha = (part: Uint8Array) => createHash('sha256').update(part).digest('hex')
    const hashed = newFile()
    await writeLora(
      hashed,
      { ...weights, metadata: { ...weights.metadata, more: 'y'.repeat(999) } },
      { layout: 'comfyui', dtype: 'f32' },
    )
    const { metadata } = await readLora(hashed)
    expect(metadata['sshs_model_hash']).toBe(sha(bytes.subarray(headerEnd)))
    expect(metadata['sshs_legacy_hash']).toBe(sha(bytes.subarray(0x100000, 0x110000)).slice(0, 8))
  })

  it('drops the hashes of the file it came from', async () => {
    const file = newFile()
    await writeLora(file, sampleWeights(), { layout: 'comfyui', dtype: 'f32' })
    const first = await readLora(file)
    await writeLora(file, first, { layout: 'kohya', dtype: 'f16' })
    const second = await readLora(file)
    expect(second.metadata['sshs_model_hash']).not.toBe(first.metadata['sshs_model_hash'])
  })
})

describe('bad files', () => {
  const q = 'diffusion_model.blocks.0.self_attn.q'
  const pair = [f32(`${q}.lora_A.weight`, [2, 6]), f32(`${q}.lora_B.weight`, [4, 2])]
  it.each<[string, TensorToWrite[], string, RegExp, ReadLoraOptions?]>([
    ['nothing', [], 'LORA_EMPTY', /no LoRA module/],
    [
      'another model',
      [f32('unet.down.0.weight', [2])],
      'LORA_UNKNOWN_LAYOUT',
      /unet\.down\.0\.weight/,
    ],
    [
      'another module',
      [...pair, f32('diffusion_model.blocks.0.mlp.lora_A.weight', [2, 6])],
      'LORA_UNKNOWN_KEY',
      /blocks\.0\.mlp/,
    ],
    ['a foreign key', [...pair, f32('zzz', [1])], 'LORA_UNKNOWN_KEY', /zzz/],
    ['only A', pair.slice(0, 1), 'LORA_MISSING_PART', /self_attn\.q\.lora_B\.weight/],
    ['only B', pair.slice(1), 'LORA_MISSING_PART', /self_attn\.q\.lora_A\.weight/],
    [
      'two spellings',
      [...pair, f32(`${q}.lora_down.weight`, [2, 6])],
      'LORA_DUPLICATE',
      /lora_down/,
    ],
    [
      'ranks that differ',
      [f32(`${q}.lora_A.weight`, [2, 6]), f32(`${q}.lora_B.weight`, [4, 3])],
      'LORA_BAD_SHAPE',
      /lora_B\.weight.*\[4, 3\].*\[outFeatures, 2\]/,
    ],
    [
      'a convolution',
      [f32(`${q}.lora_A.weight`, [2, 6, 1, 1]), f32(`${q}.lora_B.weight`, [4, 2])],
      'LORA_BAD_SHAPE',
      /\[2, 6, 1, 1\]/,
    ],
    [
      'rank 0',
      [f32(`${q}.lora_A.weight`, [0, 6]), f32(`${q}.lora_B.weight`, [4, 0])],
      'LORA_BAD_SHAPE',
      /\[0, 6\]/,
    ],
    [
      'an alpha of many',
      [...pair, f32(`${q}.alpha`, [2])],
      'LORA_BAD_SHAPE',
      /alpha.*\[2\].*single/,
    ],
    ['an alpha of 0', [...pair, f32(`${q}.alpha`, [], 0)], 'LORA_BAD_ALPHA', /alpha.*is 0/],
    [
      'NaN',
      [pair[0]!, f32(`${q}.lora_B.weight`, [4, 2], Number.NaN)],
      'LORA_NOT_FINITE',
      /lora_B.*element 0/,
    ],
    ['half a LoKr', [f32(`${q}.lokr_w1`, [2, 2])], 'LORA_MISSING_PART', /lokr_w2/],
    [
      'LoKr that was not asked for',
      [f32(`${q}.lokr_w1`, [2, 2]), f32(`${q}.lokr_w2`, [2, 3])],
      'LORA_OTHER_ADAPTER',
      /LoKr.*lokr_w1/,
    ],
    [
      'half a factor',
      [f32(`${q}.lokr_w1`, [2, 2]), f32(`${q}.lokr_w2_a`, [2, 3])],
      'LORA_MISSING_PART',
      /lokr_w2_b/,
    ],
    [
      'LoKr of a convolution',
      [f32(`${q}.lokr_w1`, [2, 2]), f32(`${q}.lokr_t2`, [2, 2, 1, 1])],
      'LORA_OTHER_ADAPTER',
      /convolution.*lokr_t2/,
    ],
    ['LoHa', [f32(`${q}.hada_w1_a`, [2, 2])], 'LORA_OTHER_ADAPTER', /LoHa/],
    [
      'DoRA that was not asked for',
      [...pair, f32(`${q}.dora_scale`, [1, 6])],
      'LORA_OTHER_ADAPTER',
      /DoRA.*dora_scale/,
    ],
    [
      'DoRA by rows',
      [...pair, f32(`${q}.dora_scale`, [4, 1])],
      'LORA_OTHER_ADAPTER',
      /DoRA by rows/,
      { kinds: ['dora'] },
    ],
    [
      'DoRA of another size',
      [...pair, f32(`${q}.dora_scale`, [1, 5])],
      'LORA_BAD_SHAPE',
      /dora_scale.*\[1, 6\]/,
      { kinds: ['dora'] },
    ],
    [
      'a text encoder',
      [f32('lora_te_text_model.lora_down.weight', [2, 2])],
      'LORA_TEXT_ENCODER',
      /lora_te/,
    ],
  ])('with %s end in a code that names the key', async (_, tensors, code, words, options) => {
    const file = await written(tensors)
    await expect(readLora(file, options)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(words) as string,
    })
  })

  it('of diffusers with metadata that is no JSON, or DoRA, are refused', async () => {
    const tensors = [
      f32('transformer.blocks.0.attn1.to_q.lora_A.weight', [2, 6]),
      f32('transformer.blocks.0.attn1.to_q.lora_B.weight', [4, 2]),
    ]
    for (const [text, code] of [
      ['{', 'LORA_BAD_ADAPTER_METADATA'],
      ['[]', 'LORA_BAD_ADAPTER_METADATA'],
      ['{"lora_alpha":"8"}', 'LORA_BAD_ADAPTER_METADATA'],
      ['{"use_dora":true}', 'LORA_OTHER_ADAPTER'],
    ] as const) {
      await expect(
        readLora(await written(tensors, { lora_adapter_metadata: text })),
      ).rejects.toMatchObject({ code })
    }
  })

  it('that are cut or missing keep the code of the codec', async () => {
    const file = newFile()
    await writeLora(file, sampleWeights(), { layout: 'comfyui', dtype: 'f32' })
    await truncate(file, 5000)
    await expect(readLora(file)).rejects.toMatchObject({
      code: expect.stringMatching(/^SAFETENSORS_/) as string,
    })
    await writeFile(file, 'not a LoRA')
    await expect(readLora(file)).rejects.toMatchObject({
      code: expect.stringMatching(/^SAFETENSORS_/) as string,
    })
    await expect(readLora(join(folder, 'absent'))).rejects.toMatchObject({
      code: 'SAFETENSORS_CANNOT_OPEN',
    })
  })

  it('are not written: numbers out of range, and matrices that do not fit', async () => {
    const big = sampleWeights()
    big.modules.get('blocks.0.attn1.to_q')!.b[3] = 1e6
    const file = newFile()
    await expect(writeLora(file, big, { layout: 'comfyui', dtype: 'f16' })).rejects.toMatchObject({
      code: 'LORA_OUT_OF_RANGE',
      message: expect.stringMatching(/self_attn\.q\.lora_B\.weight reaches 1000000/) as string,
    })
    await writeLora(file, big, { layout: 'comfyui', dtype: 'bf16' })
    const odd = sampleWeights()
    odd.modules.get('blocks.0.attn1.to_q')!.inFeatures = 7
    await expect(writeLora(file, odd, { layout: 'kohya', dtype: 'f32' })).rejects.toMatchObject({
      code: 'LORA_BAD_WEIGHTS',
    })
    const foreign: LoraWeights = {
      modules: new Map([['mlp', randomModule(1, 2, 2, 1)]]),
      metadata: {},
    }
    await expect(writeLora(file, foreign, { layout: 'kohya', dtype: 'f32' })).rejects.toMatchObject(
      { code: 'LORA_BAD_WEIGHTS' },
    )
    expect((await readLora(file)).modules.size).toBe(30)
    expect((await readdir(folder)).filter((name) => name.endsWith('.tmp'))).toEqual([])
  })
})
