import { cp, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { recipe } from '@kinora/config-schema'
import {
  loraLayouts,
  readLora,
  writeCombinedLora,
  writeLora,
  type LokrModule,
  type LoraModule,
  type LoraWeights,
} from '@kinora/lora-files'
import { openSafetensors, writeSafetensors, type SafetensorsDType } from '@kinora/safetensors'
import { runBin } from '@kinora/stage/bin'
import { parse as parseYaml } from 'yaml'
import { afterAll, describe, expect, it } from 'vitest'
import { exporterProgram } from './exporter-commands.ts'
import { exportLora, exportLoraIter } from './export-lora.ts'
import { wan22I2vA14b, wanTensors } from './key-maps/wan-tensors.ts'
import { mergeCheckpoint } from './merge-checkpoint.ts'
import { writeModelCard } from './model-card.ts'
import { verifyLora } from './verify-lora.ts'

const folder = await mkdtemp(join(tmpdir(), 'kinora-exporter-'))
afterAll(() => rm(folder, { recursive: true }))
let count = 0
const fresh = (name = 'file.safetensors') => join(folder, `${count++}-${name}`)
const inRepo = (path: string) => fileURLToPath(new URL(`../../../../${path}`, import.meta.url))
const tiny = inRepo('packages/tiny-wan/checkpoint')
const goldenHigh = inRepo('tooling/golden/lora_high_noise.safetensors')
const goldenLow = inRepo('tooling/golden/lora_low_noise.safetensors')

/** (alpha/rank) · B A. */
function product({ a, b, rank, inFeatures, outFeatures, alpha }: LoraModule): Float64Array {
  const out = new Float64Array(outFeatures * inFeatures)
  for (let o = 0; o < outFeatures; o++) {
    for (let r = 0; r < rank; r++) {
      const factor = (b[o * rank + r]! * (alpha ?? rank)) / rank
      for (let i = 0; i < inFeatures; i++)
        out[o * inFeatures + i]! += factor * a[r * inFeatures + i]!
    }
  }
  return out
}

function expectClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  relative: number,
): void {
  let error = 0
  let size = 0
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i]! - expected[i]!) ** 2
    size += expected[i]! ** 2
  }
  expect(Math.sqrt(error / size)).toBeLessThanOrEqual(relative)
}

describe('exportLora', () => {
  it.each(loraLayouts)('converts to %s and back without a change', async (layout) => {
    const there = fresh()
    const back = fresh()
    const result = await exportLora({ sources: [goldenHigh], out: there, layout, dtype: 'f32' })
    expect(result).toMatchObject({ numModules: 80, rank: { min: 4, max: 4 }, kept: null })
    await exportLora({ sources: [there], out: back, dtype: 'f32' })
    const original = await readLora(goldenHigh)
    const { modules } = await readLora(back)
    expect(modules).toEqual(original.modules)
  })

  it('merges with weights exactly, and to a rank nearly', async () => {
    const out = fresh()
    const merged = await exportLora({
      sources: [goldenHigh, goldenLow],
      weights: [1, -0.5],
      out,
      dtype: 'f32',
    })
    expect(merged.rank).toEqual({ min: 8, max: 8 })
    const high = await readLora(goldenHigh)
    const low = await readLora(goldenLow)
    const sum = await readLora(out)
    for (const [name, module] of sum.modules) {
      const expected = product(high.modules.get(name)!)
      product(low.modules.get(name)!).forEach((value, index) => (expected[index]! -= 0.5 * value))
      expectClose(product(module), expected, 1e-6)
    }
    expect(JSON.parse(sum.metadata['merged_from'] ?? '')).toEqual([
      { file: 'lora_high_noise.safetensors', weight: 1 },
      { file: 'lora_low_noise.safetensors', weight: -0.5 },
    ])
    const reduced = fresh()
    const result = await exportLora({ sources: [out], rank: 6, out: reduced, dtype: 'f32' })
    expect(result.rank).toEqual({ min: 6, max: 6 })
    expect(result.kept?.min).toBeGreaterThan(0.5)
    expect(result.kept?.min).toBeLessThan(1)
    const small = await readLora(reduced)
    for (const [name, module] of small.modules) {
      expectClose(
        product(module),
        product(sum.modules.get(name)!),
        Math.sqrt(1 - result.kept!.min) + 1e-6,
      )
    }
  })

  it('scales one LoRA, alpha honoured', async () => {
    const source = fresh()
    const weights = await readLora(goldenHigh)
    for (const module of weights.modules.values()) module.alpha = 2
    await writeLora(source, weights, { layout: 'kohya', dtype: 'f32' })
    const out = fresh()
    await exportLora({ sources: [source], weights: [0.25], out, layout: 'diffusers', dtype: 'f32' })
    const { modules } = await readLora(out)
    for (const [name, module] of modules) {
      expectClose(
        product(module),
        product(weights.modules.get(name)!).map((value) => value / 4),
        1e-6,
      )
    }
  })

  it('takes one expert out of a file of both', async () => {
    const both = fresh()
    const high = await readLora(goldenHigh)
    const low = await readLora(goldenLow)
    await writeCombinedLora(both, { high, low }, { layout: 'comfyui', dtype: 'f32' })
    const out = fresh()
    await exportLora({ sources: [both], expert: 'low', out, dtype: 'f32' })
    expect((await readLora(out)).modules).toEqual(low.modules)
    await expect(exportLora({ sources: [both], out })).rejects.toMatchObject({
      code: 'LORA_EXPERT_NEEDED',
    })
  })

  it('writes nothing on a dry run, nor where the result does not fit the base', async () => {
    const out = fresh()
    const result = await exportLora({ sources: [goldenHigh], out, dryRun: true })
    expect(result.sizeBytes).toBeNull()
    const odd: LoraWeights = await readLora(goldenHigh)
    odd.modules.set('blocks.8.attn1.to_q', odd.modules.get('blocks.0.attn1.to_q')!)
    const source = fresh()
    await writeLora(source, odd, { layout: 'comfyui', dtype: 'f32' })
    await expect(
      exportLora({ sources: [source], out, base: tiny, expert: 'high' }),
    ).rejects.toMatchObject({
      code: 'EXPORTER_DOES_NOT_FIT',
      message: expect.stringContaining('blocks.8.attn1.to_q is not in the base') as string,
    })
    await exportLora({ sources: [goldenHigh], out, base: tiny, expert: 'high' })
    expect(await readdir(folder)).toContain(out.replace(`${folder}/`, ''))
  })

  it('refuses weights that do not match, and stops when told to', async () => {
    await expect(
      exportLora({ sources: [goldenHigh], weights: [1, 2], out: 'x' }),
    ).rejects.toMatchObject({ code: 'EXPORTER_WEIGHTS_MISMATCH' })
    await expect(exportLora({ sources: [], out: 'x' })).rejects.toMatchObject({
      code: 'EXPORTER_BAD_OPTIONS',
    })
    const controller = new AbortController()
    const run = exportLoraIter(
      { sources: [goldenHigh], rank: 2, out: fresh() },
      { signal: controller.signal },
    )
    await run.next()
    controller.abort()
    await expect(
      run
        .next()
        .then(() => run.next())
        .then(() => run.next()),
    ).rejects.toMatchObject({ name: 'AbortError' })
  })
})

describe('verifyLora', () => {
  const a14b = async (layout: (typeof loraLayouts)[number], except: RegExp = /^$/) => {
    const file = fresh('x_high_noise.safetensors')
    const modules = new Map<string, LoraModule>()
    for (const { diffusers, shape } of wanTensors(wan22I2vA14b)) {
      const name = diffusers.replace(/\.weight$/, '')
      if (shape.length !== 2 || !name.startsWith('blocks.') || except.test(name)) continue
      // Rank 1 keeps the file small; the shapes are the real ones.
      modules.set(name, {
        a: new Float32Array(shape[1]!),
        b: new Float32Array(shape[0]!),
        rank: 1,
        inFeatures: shape[1]!,
        outFeatures: shape[0]!,
      })
    }
    await writeLora(file, { modules, metadata: {} }, { layout, dtype: 'bf16' })
    return file
  }

  it.each(loraLayouts)('has the keys and shapes that readers of %s expect', async (layout) => {
    const { blocks, layouts } = JSON.parse(
      await readFile(new URL('../../test/wan22-i2v-lora-keys.json', import.meta.url), 'utf8'),
    ) as { blocks: number; layouts: Record<typeof layout, Record<string, (number | 'r')[]>> }
    const expected = new Map(
      Array.from({ length: blocks }, (_, block) =>
        Object.entries(layouts[layout]).map(
          ([key, shape]) =>
            [
              key.replace(/(blocks[._])N/, `$1${block}`),
              shape.map((extent) => (extent === 'r' ? 1 : extent)),
            ] as const,
        ),
      ).flat(),
    )
    await using open = await openSafetensors(await a14b(layout))
    const found = new Map([...open.tensors].map(([key, { shape }]) => [key, [...shape]]))
    expect(found).toEqual(expected)
  })

  it('finds that a full LoRA fits Wan 2.2 I2V A14B, and who loads it', async () => {
    const verdicts = async (file: string) =>
      Object.fromEntries(
        (await verifyLora({ file })).programs.map(({ program, loads }) => [program, loads]),
      )
    const report = await verifyLora({ file: await a14b('comfyui') })
    expect(report).toMatchObject({
      fits: true,
      base: 'Wan 2.2 I2V A14B',
      experts: [{ expert: 'high', numModules: 400, numUntouched: 0, alphas: 'none' }],
      notes: [],
    })
    // The table of wan22-architecture.md 7.5.
    expect(await verdicts(await a14b('comfyui'))).toEqual({
      ComfyUI: 'yes',
      diffusers: 'yes',
      'AI Toolkit': 'yes',
      'WanVideoWrapper (Kijai)': 'yes',
      'musubi-tuner': 'after-conversion',
      Kinora: 'yes',
    })
    expect(await verdicts(await a14b('diffusers'))).toEqual({
      ComfyUI: 'no',
      diffusers: 'yes',
      'AI Toolkit': 'no',
      'WanVideoWrapper (Kijai)': 'no',
      'musubi-tuner': 'no',
      Kinora: 'yes',
    })
    expect(await verdicts(await a14b('kohya'))).toEqual({
      ComfyUI: 'yes',
      diffusers: 'yes',
      'AI Toolkit': 'no',
      'WanVideoWrapper (Kijai)': 'yes',
      'musubi-tuner': 'yes',
      Kinora: 'yes',
    })
    expect((await verdicts(await a14b('kohya', /blocks\.3\.ffn/)))['diffusers']).toBe('no')
  })

  it('says of a file of both experts that it must be split', async () => {
    const both = fresh('both.safetensors')
    await writeCombinedLora(
      both,
      { high: await readLora(goldenHigh), low: await readLora(goldenLow) },
      { layout: 'comfyui', dtype: 'f32' },
    )
    const report = await verifyLora({ file: both, base: tiny })
    expect(report.fits).toBe(true)
    expect(report.experts.map(({ expert }) => expert)).toEqual(['high', 'low'])
    expect(report.programs.find(({ program }) => program === 'ComfyUI')).toMatchObject({
      loads: 'no',
      why: expect.stringContaining('split') as string,
    })
  })

  it('checks against the headers of a checkpoint, a folder or a file, whatever their spelling', async () => {
    const high = fresh('g_high_noise.safetensors')
    await cp(goldenHigh, high)
    expect(await verifyLora({ file: high, base: tiny })).toMatchObject({
      fits: true,
      base: join(tiny, 'transformer'),
    })
    expect(await verifyLora({ file: high, base: join(tiny, 'transformer_2') })).toMatchObject({
      fits: true,
    })
    const comfy = await comfyuiBase()
    expect(await verifyLora({ file: high, base: comfy })).toMatchObject({ fits: true })
    const empty = fresh('empty')
    await mkdir(empty)
    await expect(verifyLora({ file: goldenHigh, base: empty })).rejects.toMatchObject({
      code: 'EXPORTER_NO_BASE',
    })
    await expect(
      verifyLora({ file: goldenHigh, base: join(folder, 'absent') }),
    ).rejects.toMatchObject({ code: 'STAGE_NO_SUCH_FILE' })
  })

  it('names what does not fit', async () => {
    const report = await verifyLora({ file: goldenHigh })
    expect(report.fits).toBe(false)
    expect(report.experts[0]?.problems[0]).toBe(
      'blocks.0.attn1.to_k is [128, 128] in the LoRA and [5120, 5120] in the base.',
    )
    expect(report.experts[0]?.numUntouched).toBe(320)
  })
})

/** tiny-wan's high-noise expert as ComfyUI keeps it: one file, original names, a prefix. */
async function comfyuiBase(
  prefix = 'model.diffusion_model.',
  more: [string, SafetensorsDType][] = [],
): Promise<string> {
  const file = fresh('comfy.safetensors')
  const names = new Map(
    wanTensors({ ...wan22I2vA14b, numLayers: 8, dim: 128, ffnDim: 512, textDim: 128 }).map(
      ({ diffusers, original }) => [diffusers, original],
    ),
  )
  await using open = await openSafetensors(
    join(tiny, 'transformer', 'diffusion_pytorch_model.safetensors'),
  )
  await writeSafetensors(file, [
    ...[...open.tensors].map(([name, { dtype, shape }]) => ({
      name: `${prefix}${names.get(name)}`,
      dtype,
      shape,
      data: () => open.read(name),
    })),
    ...more.map(([name, dtype]) => ({
      name,
      dtype,
      shape: [1],
      data: new Uint8Array(dtype === 'F32' ? 4 : 1),
    })),
  ])
  return file
}

/** Byte for byte; the runner's own comparison of a million numbers takes seconds. */
function expectSame(actual: Float32Array | undefined, expected: Float32Array | undefined): void {
  expect(Buffer.from(actual!.buffer).equals(Buffer.from(expected!.buffer))).toBe(true)
}

async function readAll(file: string): Promise<Map<string, Float32Array>> {
  await using open = await openSafetensors(file)
  const all = new Map<string, Float32Array>()
  for (const name of open.tensors.keys()) all.set(name, await open.readF32(name))
  return all
}

describe('LoKr and DoRA', () => {
  const values = (length: number, seed: number): Float32Array =>
    Float32Array.from({ length }, (_, i) => Math.sin(1 + i * 1.7 + seed) / 8)
  // tiny-wan: 128 features, 512 in the feed-forward.
  const dora: LoraModule = {
    a: values(2 * 128, 1),
    b: values(128 * 2, 2),
    rank: 2,
    alpha: 3,
    inFeatures: 128,
    outFeatures: 128,
    magnitude: values(128, 3).map((value) => 1 + value),
  }
  const lokr: LokrModule = {
    w1: values(8 * 16, 4),
    w2: { a: values(16 * 3, 5), b: values(3 * 32, 6) },
    rank: 3,
    shape1: [8, 16],
    shape2: [16, 32],
    inFeatures: 512,
    outFeatures: 128,
  }
  const names = ['blocks.0.attn1.to_q', 'blocks.1.ffn.net.2'] as const
  const weights: LoraWeights = {
    modules: new Map([[names[0], dora]]),
    kronecker: new Map([[names[1], lokr]]),
    metadata: {},
  }
  const write = async (some: LoraWeights = weights): Promise<string> => {
    const file = fresh()
    await writeLora(file, some, { layout: 'kohya', dtype: 'f32' })
    return file
  }

  it('merge into a base: columns of new lengths, and a Kronecker product', async () => {
    const weight = 0.5
    const out = fresh('merged')
    const result = await mergeCheckpoint({
      base: tiny,
      out,
      high: await write(),
      weight,
      dtype: 'f32',
    })
    expect(result.numMerged).toEqual({ high: 2 })
    const file = (base: string) => join(base, 'transformer', 'diffusion_pytorch_model.safetensors')
    const [before, after] = await Promise.all([readAll(file(tiny)), readAll(file(out))])
    const changed = [...before].filter(
      ([key, own]) => !Buffer.from(after.get(key)!.buffer).equals(Buffer.from(own.buffer)),
    )
    expect(changed.map(([key]) => key).sort()).toEqual(names.map((name) => `${name}.weight`))

    const w = before.get(`${names[0]}.weight`)!
    const v = product(dora).map((value, i) => value + w[i]!)
    const expected = Float64Array.from(w)
    for (let k = 0; k < 128; k++) {
      let squares = 0
      for (let o = 0; o < 128; o++) squares += v[o * 128 + k]! ** 2
      for (let o = 0; o < 128; o++) {
        const whole = (dora.magnitude![k]! * v[o * 128 + k]!) / Math.sqrt(squares)
        expected[o * 128 + k]! += weight * (whole - w[o * 128 + k]!)
      }
    }
    expectClose(after.get(`${names[0]}.weight`)!, expected, 1e-6)

    const { a, b } = lokr.w2 as { a: Float32Array; b: Float32Array }
    const other = Float64Array.from(before.get(`${names[1]}.weight`)!)
    for (let o = 0; o < 128; o++) {
      for (let k = 0; k < 512; k++) {
        const [p, q, i, j] = [Math.floor(o / 16), o % 16, Math.floor(k / 32), k % 32]
        let inner = 0
        for (let r = 0; r < 3; r++) inner += a[q * 3 + r]! * b[r * 32 + j]!
        other[o * 512 + k]! += weight * lokr.w1[p * 16 + i]! * inner
      }
    }
    expectClose(after.get(`${names[1]}.weight`)!, other, 1e-6)
  })

  it('convert to ComfyUI’s layout, and are not summed, scaled, reduced or given to diffusers', async () => {
    const file = await write()
    const out = fresh()
    const result = await exportLora({ sources: [file], out, dtype: 'f32' })
    expect(result).toMatchObject({ numModules: 2, rank: { min: 2, max: 3 } })
    const { modules, kronecker } = await readLora(out, { kinds: ['dora', 'lokr'] })
    expect(modules.get(names[0])!.magnitude).toEqual(dora.magnitude)
    expectClose(product(modules.get(names[0])!), product(dora), 1e-6)
    expect(kronecker!.get(names[1])).toEqual(lokr)
    for (const options of [{ weights: [0.5] }, { rank: 1 }]) {
      await expect(exportLora({ sources: [file], out: fresh(), ...options })).rejects.toMatchObject(
        {
          code: 'EXPORTER_NOT_ADDITIVE',
          message: expect.stringMatching(/is a LoKr/) as string,
        },
      )
    }
    const { modules: only, metadata } = weights
    await expect(
      exportLora({ sources: [await write({ modules: only, metadata }), goldenHigh], out: fresh() }),
    ).rejects.toMatchObject({ message: expect.stringMatching(/is a DoRA/) as string })
    await expect(
      exportLora({ sources: [file], out: fresh(), layout: 'diffusers' }),
    ).rejects.toMatchObject({ code: 'LORA_NO_SUCH_FORM' })
  })

  it('are verified against a base, with who loads them', async () => {
    const report = await verifyLora({ file: await write(), base: tiny, expert: 'high' })
    expect(report).toMatchObject({ fits: true, experts: [{ kinds: ['dora', 'lokr'] }] })
    const loads = Object.fromEntries(
      report.programs.map(({ program, ...rest }) => [program, rest.loads]),
    )
    expect(loads).toMatchObject({
      ComfyUI: 'yes',
      diffusers: 'no',
      'AI Toolkit': 'no',
      Kinora: 'yes',
    })
    const wrong = new Map([[names[0], { ...lokr, rank: 3 }]])
    const misfit = await write({ modules: new Map(), kronecker: wrong, metadata: {} })
    await expect(
      mergeCheckpoint({ base: tiny, out: fresh('merged'), high: misfit }),
    ).rejects.toMatchObject({ code: 'EXPORTER_DOES_NOT_FIT' })
  })
})

describe('mergeCheckpoint', () => {
  const weightsOf = (base: string, expert = 'transformer') =>
    readAll(join(base, expert, 'diffusion_pytorch_model.safetensors'))

  it('adds the product to every adapted linear, copies the rest, and keeps the layout', async () => {
    const out = fresh('merged')
    const result = await mergeCheckpoint({
      base: tiny,
      out,
      high: goldenHigh,
      weight: 0.5,
      dtype: 'f32',
    })
    expect(result).toMatchObject({ numMerged: { high: 80 } })
    const before = await weightsOf(tiny)
    const after = await weightsOf(out)
    const { modules } = await readLora(goldenHigh)
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort())
    for (const [key, values] of before) {
      const module = modules.get(key.replace(/\.weight$/, ''))
      const expected = Float64Array.from(values)
      if (module !== undefined && key.endsWith('.weight')) {
        product(module).forEach((value, index) => (expected[index]! += value / 2))
        expect(Buffer.from(after.get(key)!.buffer).equals(Buffer.from(values.buffer))).toBe(false)
      }
      expectClose(after.get(key)!, expected, 1e-7)
    }
    const untouched = await weightsOf(out, 'transformer_2')
    for (const [key, values] of await weightsOf(tiny, 'transformer_2')) {
      expectSame(untouched.get(key), values)
    }
    const configs = await readdir(out, { recursive: true })
    expect(configs.sort()).toEqual((await readdir(tiny, { recursive: true })).sort())
    expect(await readFile(join(out, 'model_index.json'))).toEqual(
      await readFile(join(tiny, 'model_index.json')),
    )
    expect(await readFile(join(out, 'transformer', 'config.json'))).toEqual(
      await readFile(join(tiny, 'transformer', 'config.json')),
    )
    expect((await readdir(folder)).filter((name) => name.startsWith('.'))).toEqual([])
  })

  it('keeps the format unless told otherwise, and rounds once', async () => {
    const out = fresh('merged')
    await mergeCheckpoint({ base: tiny, out, high: goldenHigh, low: goldenLow, weightLow: 2 })
    await using open = await openSafetensors(
      join(out, 'transformer', 'diffusion_pytorch_model.safetensors'),
    )
    await using from = await openSafetensors(
      join(tiny, 'transformer', 'diffusion_pytorch_model.safetensors'),
    )
    for (const [name, { dtype }] of from.tensors) expect(open.tensors.get(name)?.dtype).toBe(dtype)
    const name = 'blocks.2.ffn.net.2.weight'
    const low = (await readLora(goldenLow)).modules.get('blocks.2.ffn.net.2')!
    const before = (await weightsOf(tiny, 'transformer_2')).get(name)!
    const after = (await weightsOf(out, 'transformer_2')).get(name)!
    const exact = product(low).map((value, index) => before[index]! + 2 * value)
    // Half a unit in the last of 11 bits.
    after.forEach((value, index) =>
      expect(Math.abs(value - exact[index]!)).toBeLessThanOrEqual(
        Math.abs(exact[index]!) * 2 ** -11 + 2 ** -25,
      ),
    )
  })

  it('goes through shards, and gives the index its new size', async () => {
    const base = fresh('sharded')
    await cp(tiny, base, { recursive: true })
    for (const expert of ['transformer', 'transformer_2']) await shard(join(base, expert), 3)
    const out = fresh('merged')
    await mergeCheckpoint({ base, out, high: goldenHigh, low: goldenLow, dtype: 'f32' })
    const index = JSON.parse(
      await readFile(
        join(out, 'transformer', 'diffusion_pytorch_model.safetensors.index.json'),
        'utf8',
      ),
    ) as { metadata: { total_size: number }; weight_map: Record<string, string> }
    const whole = fresh('merged')
    await mergeCheckpoint({
      base: tiny,
      out: whole,
      high: goldenHigh,
      low: goldenLow,
      dtype: 'f32',
    })
    const expected = await weightsOf(whole)
    let bytes = 0
    for (const name of new Set(Object.values(index.weight_map))) {
      for (const [key, values] of await readAll(join(out, 'transformer', name))) {
        expect(index.weight_map[key]).toBe(name)
        expectSame(values, expected.get(key))
        bytes += values.length * 4
      }
    }
    expect(index.metadata.total_size).toBe(bytes)
    expect(Object.keys(index.weight_map)).toHaveLength(expected.size)
  })

  it('takes a single file of ComfyUI, in its spelling', async () => {
    const base = await comfyuiBase()
    const out = fresh('merged.safetensors')
    await mergeCheckpoint({ base, out, low: goldenLow, dtype: 'bf16' })
    await using open = await openSafetensors(out)
    expect(open.tensors.get('model.diffusion_model.blocks.0.self_attn.q.weight')?.dtype).toBe(
      'BF16',
    )
    expect(open.tensors.size).toBe((await readAll(base)).size)
  })

  it('refuses what it cannot do, and leaves nothing behind', async () => {
    const out = fresh('merged')
    await expect(mergeCheckpoint({ base: tiny, out })).rejects.toMatchObject({
      code: 'EXPORTER_NO_LORA',
    })
    await expect(
      mergeCheckpoint({ base: tiny, out: tiny, high: goldenHigh }),
    ).rejects.toMatchObject({ code: 'EXPORTER_OUT_EXISTS' })
    const comfy = await comfyuiBase()
    await expect(
      mergeCheckpoint({ base: comfy, out, high: goldenHigh, low: goldenLow }),
    ).rejects.toMatchObject({ code: 'EXPORTER_ONE_EXPERT_BASE' })
    const packed = await comfyuiBase('', [
      ['blocks.0.self_attn.q.scale_weight', 'F32'],
      ['scaled_fp8', 'F8_E4M3'],
    ])
    await expect(mergeCheckpoint({ base: packed, out, high: goldenHigh })).rejects.toMatchObject({
      code: 'EXPORTER_BASE_PACKED',
    })
    await expect(
      mergeCheckpoint({ base: tiny, out, high: goldenHigh, weight: 1e9, dtype: 'f16' }),
    ).rejects.toMatchObject({ code: 'EXPORTER_OUT_OF_RANGE' })
    const controller = new AbortController()
    controller.abort()
    await expect(
      mergeCheckpoint({ base: tiny, out, high: goldenHigh }, { signal: controller.signal }),
    ).rejects.toMatchObject({ name: 'AbortError' })
    expect(
      (await readdir(folder)).filter(
        (name) => name.startsWith('.') || name === out.split('/').at(-1),
      ),
    ).toEqual([])
  })

  it('does not follow an index out of its folder', async () => {
    const base = fresh('odd')
    await mkdir(base)
    await writeSafetensors(join(base, 'a.safetensors'), [])
    await writeFile(
      join(base, 'x.safetensors.index.json'),
      '{"weight_map": {"a": "../secret.safetensors"}}',
    )
    await expect(verifyLora({ file: goldenHigh, base })).rejects.toMatchObject({
      code: 'EXPORTER_BASE_BAD_INDEX',
    })
  })
})

/** Splits a transformer folder's file into shards with an index, as diffusers does. */
async function shard(path: string, parts: number): Promise<void> {
  const file = join(path, 'diffusion_pytorch_model.safetensors')
  {
    await using open = await openSafetensors(file)
    const names = [...open.tensors.keys()]
    const map: Record<string, string> = {}
    for (let part = 0; part < parts; part++) {
      const name = `diffusion_pytorch_model-0000${part + 1}-of-0000${parts}.safetensors`
      const mine = names.filter((_, index) => index % parts === part)
      for (const key of mine) map[key] = name
      await writeSafetensors(
        join(path, name),
        mine.map((key) => ({ name: key, ...open.tensors.get(key)!, data: () => open.read(key) })),
      )
    }
    await writeFile(
      `${file}.index.json`,
      JSON.stringify({ metadata: { total_size: 1 }, weight_map: map }),
    )
  }
  await rm(file)
}

describe('writeModelCard', () => {
  it('tells recipe, trigger word, dataset, previews, use and hashes', async () => {
    const job = fresh('config.yaml')
    await writeFile(job, recipe('motion', 24, { name: 'crane', triggerWord: 'cr4ne' }))
    const manifest = fresh('manifest.jsonl')
    const sha = 'b'.repeat(64)
    const clip = (id: string, camera: string) => ({
      type: 'clip',
      id,
      file: `${id}.mp4`,
      sha256: sha,
      width: 640,
      height: 480,
      fps: 16,
      numFrames: 40,
      duration: 2.5,
      source: {
        file: 's.mp4',
        sha256: sha,
        start: 0,
        end: 2.5,
        width: 640,
        height: 480,
        fps: 24,
        shot: { index: 0, start: 0, end: 3 },
      },
      trim: { head: 0, tail: 0, reason: 'Moves throughout.', threshold: 0.01 },
      speed: 1,
      crop: null,
      motion: {
        camera,
        confidence: 0.9,
        panPerSecond: 0,
        tiltPerSecond: 0,
        zoomPerSecond: 0.1,
        rollPerSecond: 0,
        parallax: 0,
        subject: 0,
        curve: [],
      },
      scores: {},
      flags: [],
    })
    await writeFile(
      manifest,
      [
        { type: 'manifest', version: 1, tool: 't', source: 's', options: {} },
        clip('a', 'zoom-in'),
        clip('b', 'zoom-in'),
        clip('c', 'mixed'),
      ]
        .map((line) => `${JSON.stringify(line)}\n`)
        .join(''),
    )
    const preview = fresh('after [1].mp4')
    await writeFile(preview, '')
    const out = fresh('README.md')
    await writeModelCard({
      out,
      high: goldenHigh,
      low: goldenLow,
      job,
      manifest,
      previews: [preview],
      notes: ['High noise (600 updates): overfitting since step 800.'],
      license: 'cc0-1.0',
    })
    const text = await readFile(out, 'utf8')
    const [, front, body] = text.split('---\n', 3)
    expect(parseYaml(front ?? '')).toMatchObject({
      base_model: 'Wan-AI/Wan2.2-I2V-A14B-Diffusers',
      license: 'cc0-1.0',
      pipeline_tag: 'image-to-video',
      instance_prompt: 'cr4ne',
      tags: expect.arrayContaining(['lora']) as string[],
    })
    expect(body).toContain('# crane')
    expect(text).toContain('lora, rank 16')
    expect(text).toContain('- High noise (600 updates): overfitting since step 800.')
    expect(text).toContain('3 (0 left out)')
    expect(text).toContain('zoom-in 2, mixed 1')
    expect(text).toContain('7.5 s in all')
    expect(text).toContain(`<video src="${encodeURIComponent(preview.split('/').at(-1)!)}"`)
    expect(text).toContain('load_into_transformer_2=True')
    expect(text).toMatch(/lora_high_noise\.safetensors \| high noise \| comfyui \| 4 \|/)
    expect(text).not.toContain(folder)
  })

  it('needs a LoRA', async () => {
    await expect(writeModelCard({})).rejects.toMatchObject({ code: 'EXPORTER_NO_LORA' })
  })
})

describe('the program', () => {
  async function run(...args: string[]) {
    let stdout = ''
    let stderr = ''
    const code = await runBin(
      { ...exporterProgram, version: '0' },
      {
        args,
        stdout: { write: (text: string) => ((stdout += text), true) },
        stderr: { write: (text: string) => ((stderr += text), true) },
        signals: false,
      },
    )
    return { code, stdout, stderr }
  }

  it('converts, verifies and writes workflows from the shell', async () => {
    const out = fresh('k_high_noise.safetensors')
    expect(
      await run('convert', goldenHigh, '--out', out, '--layout', 'kohya', '--dtype', 'bf16'),
    ).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('kohya, bf16, 80 modules, rank 4') as string,
    })
    const verified = await run('verify', out, '--base', tiny)
    expect(verified.code).toBe(0)
    expect(verified.stdout).toMatch(/musubi-tuner +loads/)
    expect(verified.stdout).toMatch(/fits .*transformer, every linear of every block/)
    expect((await run('workflow', fresh('w.json'), '--high', 'a.safetensors')).code).toBe(0)
  })

  it('fails on a LoRA that does not fit, naming some of what does not', async () => {
    const { code, stderr } = await run('verify', goldenHigh)
    expect(code).toBe(1)
    expect(stderr).toContain('EXPORTER_DOES_NOT_FIT')
    expect(stderr).toContain('and 70 more.')
  })

  it('explains its commands', async () => {
    const { code, stdout } = await run('--help')
    expect(code).toBe(0)
    for (const name of ['convert', 'verify', 'merge', 'workflow', 'card'])
      expect(stdout).toContain(name)
  })
})
