import { appendFile, cp, mkdir, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Device } from '@kinora/kernel-api'
import { readBucketPlan, readMetrics, type BucketPlan } from '@kinora/config-schema'
import { readLora } from '@kinora/lora-files'
import { writeImage } from '@kinora/media'
import { openSafetensors } from '@kinora/safetensors'
import type { StageEvent } from '@kinora/stage'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { openCheckpoint } from '@kinora/wan'
import {
  cacheDataset,
  cacheDatasetIter,
  checkpointShape,
  computeDtype,
  estimateTraining,
  overheadOf,
  train,
  trainIter,
  trainingSetup,
} from '../src/index.ts'
import type { StepMetrics } from '../src/lib/metrics.ts'
import { openTestDevice } from './open-test-device.ts'
import { hashes, makeTinyRun, type TinyRun } from './tiny-job.ts'

const small = { width: 32, height: 32, numFrames: 5 }

let device: Device
/** A run whose dataset is cached once: entries go by content, so other runs may copy them. */
let made: TinyRun
let run: TinyRun
let liveBytes: number
beforeAll(async () => {
  device = await openTestDevice()
  made = await makeTinyRun(small)
  const { plan, cacheDir } = made
  const counts = await cacheDataset({ job: made.job(), plan, cacheDir }, { device })
  expect(counts).toMatchObject({ latents: { found: 0, made: 3 }, texts: { found: 0, made: 3 } })
}, 120_000)
afterAll(async () => {
  await made[Symbol.asyncDispose]()
  device.destroy()
})
beforeEach(async () => {
  run = await makeTinyRun(small)
  await cp(made.cacheDir, run.cacheDir, { recursive: true })
  liveBytes = device.memory().liveBytes
})
afterEach(async () => {
  await run[Symbol.asyncDispose]()
  expect(device.memory().liveBytes).toBe(liveBytes)
})

async function stepsOf(out: string): Promise<StepMetrics[]> {
  const text = await readFile(join(out, 'metrics.jsonl'), 'utf8')
  const lines = text.trim().split('\n')
  return lines.map((line) => JSON.parse(line) as StepMetrics).filter(({ type }) => type === 'step')
}

const optionsOf = (out: string, overrides: Record<string, unknown> = {}) => ({
  job: run.job(overrides),
  plan: run.plan,
  cacheDir: run.cacheDir,
  out: join(run.folder, out),
})
const runTo = (out: string, overrides: Record<string, unknown> = {}) =>
  train(optionsOf(out, overrides), { device })

describe('cacheDataset', () => {
  it('makes nothing that is there, and again what a change touches', async () => {
    const events: StageEvent[] = []
    const iterator = cacheDatasetIter(optionsOf('a'), { device })
    let next = await iterator.next()
    for (; !next.done; next = await iterator.next()) events.push(next.value)
    expect(next.value).toEqual({
      latents: { found: 3, made: 0 },
      masks: { found: 0, made: 0 },
      texts: { found: 3, made: 0 },
      skipped: [],
    })
    expect(events).toEqual([])

    // Other bytes that show the same frames are still another clip.
    await appendFile(join(run.folder, 'take-1.mp4'), Buffer.alloc(8))
    await writeFile(join(run.folder, 'take-2.txt'), 'something else')
    const { latents, texts } = await cacheDataset(optionsOf('a'), { device })
    expect({ latents, texts }).toEqual({
      latents: { found: 2, made: 1 },
      texts: { found: 2, made: 1 },
    })
  })

  it('makes damaged entries again', async () => {
    for (const kind of ['latents', 'text']) {
      const [entry] = await readdir(join(run.cacheDir, kind))
      await truncate(join(run.cacheDir, kind, entry!), 200)
    }
    const { latents, texts } = await cacheDataset(optionsOf('a'), { device })
    expect({ latents, texts }).toEqual({
      latents: { found: 2, made: 1 },
      texts: { found: 2, made: 1 },
    })
    await expect(hashes(join(run.cacheDir, 'latents'))).resolves.toEqual(
      await hashes(join(made.cacheDir, 'latents')),
    )
  })

  it('leaves an unreadable clip out, says so, and training goes on without it', async () => {
    await writeFile(join(run.folder, 'take-2.mp4'), 'no video')
    const { skipped, latents } = await cacheDataset(optionsOf('a'), { device })
    expect(latents).toEqual({ found: 2, made: 0 })
    expect(skipped).toHaveLength(1)
    expect(skipped[0]!.clip).toContain('take-2.mp4')
    const events: StageEvent[] = []
    for await (const event of trainIter(optionsOf('a', { train: { steps: 1 } }), { device })) {
      events.push(event)
    }
    expect(events.filter(({ type }) => type === 'skipped')).toHaveLength(1)
    await expect(
      cacheDataset(optionsOf('a', { kinora: { max_skipped: 0 } }), { device }),
    ).rejects.toMatchObject({ code: 'TRAINER_TOO_MANY_SKIPPED' })
  })
})

describe('train', () => {
  it('refuses to begin without a cache, naming what is missing', async () => {
    const options = { ...optionsOf('a'), cacheDir: join(run.folder, 'none') }
    await expect(train(options, { device })).rejects.toMatchObject({ code: 'TRAINER_NOT_CACHED' })
  })

  it('trains both experts by turns, saves, prunes, and leaves metrics', async () => {
    const result = await runTo('a', {
      train: { steps: 8 },
      save: { save_every: 2, max_step_saves_to_keep: 2 },
    })
    expect(result.step).toBe(8)
    const out = join(run.folder, 'a')
    expect(Object.keys(await hashes(out))).toEqual([
      'tiny_000000004_high_noise.safetensors',
      'tiny_000000004_low_noise.safetensors',
      'tiny_000000006_high_noise.safetensors',
      'tiny_000000006_low_noise.safetensors',
      'tiny_high_noise.safetensors',
      'tiny_low_noise.safetensors',
    ])
    const steps = await stepsOf(out)
    expect(steps.map(({ expert }) => expert[0]).join('')).toBe('hhllhhll')
    for (const { expert, timesteps, loss, gradNorm } of steps) {
      expect(loss).toBeGreaterThan(0)
      expect(gradNorm).toBeGreaterThan(0)
      for (const t of timesteps) expect(t > 900).toBe(expert === 'high')
    }
    const lora = await readLora(result.files.high!)
    expect(lora.modules.size).toBe(80)
    expect(lora.modules.get('blocks.3.attn1.to_q')!.b.some((value) => value !== 0)).toBe(true)
    expect(JSON.parse(lora.metadata['training_info']!)).toMatchObject({ step: 8 })
  })

  it('gives the same bytes twice, and the same for an expert alone', async () => {
    await runTo('a')
    await runTo('b')
    expect(await hashes(join(run.folder, 'b'))).toEqual(await hashes(join(run.folder, 'a')))
    // Six steps in turns of two: the low-noise expert has two.
    const { model } = run.job().config.process[0]
    await runTo('alone', {
      train: { steps: 2 },
      model: { ...model, model_kwargs: { train_high_noise: false } },
    })
    const [alone, both] = await Promise.all(
      ['alone', 'a'].map((out) => readLora(join(run.folder, out, 'tiny_low_noise.safetensors'))),
    )
    expect(alone!.modules).toEqual(both!.modules)
  })

  it('goes on after aborts to the bytes of the uninterrupted run', async () => {
    const overrides = {
      train: { ema_config: { use_ema: true, ema_decay: 0.9 } },
      kinora: { validation: { fraction: 0.3, bands: 1 } },
    }
    await runTo('a', overrides)
    for (const stopAt of [1, 3, 4]) {
      const controller = new AbortController()
      const context = { device, signal: controller.signal }
      const interrupted = async (): Promise<void> => {
        for await (const event of trainIter(optionsOf('b', overrides), context)) {
          if (event.type === 'progress' && event.done === stopAt) controller.abort()
        }
      }
      await expect(interrupted()).rejects.toMatchObject({ name: 'AbortError' })
    }
    expect((await runTo('b', overrides)).step).toBe(6)
    const [a, b] = [join(run.folder, 'a'), join(run.folder, 'b')]
    expect(await hashes(b)).toEqual(await hashes(a))
    const state = ['state', 'training_state.safetensors'] as const
    const bytes = await Promise.all([a, b].map((out) => readFile(join(out, ...state))))
    expect(bytes[0]!.equals(bytes[1]!)).toBe(true)
    const losses = await Promise.all(
      [a, b].map(async (out) => (await stepsOf(out)).map(({ step, loss }) => [step, loss])),
    )
    expect(losses[1]).toEqual(losses[0])
  })

  it.each(['lion', 'prodigy', 'adafactor', 'schedule_free_adamw', 'adamw8bit'])(
    'goes on with %s to the same bytes, ranks dropped and ranks of their own included',
    async (optimizer) => {
      const overrides = {
        train: {
          steps: 4,
          optimizer,
          // Codes for the larger matrices of this small model, f32 for the others.
          optimizer_params: { min_8bit_size: 128 },
          switch_boundary_every: 1,
        },
        network: { dropout: 0.25 },
        kinora: { low_noise_rank: 2 },
        save: { save_every: 0 },
      }
      await runTo('a', overrides)
      await runTo('b', { ...overrides, train: { ...overrides.train, steps: 3 } })
      await runTo('b', overrides)
      const [a, b] = await Promise.all(['a', 'b'].map((out) => hashes(join(run.folder, out))))
      expect(b).toEqual(a)
      const { modules } = await readLora(join(run.folder, 'a', 'tiny_low_noise.safetensors'))
      const { rank, b: factor } = modules.get('blocks.0.attn1.to_q')!
      expect(rank).toBe(2)
      expect(factor.some((value) => value !== 0)).toBe(true)
    },
  )

  it.each([
    ['dora', {}, ['dora_scale', 'lora_A.weight', 'lora_B.weight']],
    ['lokr', { network_kwargs: { module_dropout: 0.2 } }, ['lokr_w1', 'lokr_w2']],
    ['lokr', { lokr_full_rank: false, linear: 2 }, ['lokr_w1', 'lokr_w2_a', 'lokr_w2_b']],
  ])(
    'trains %s with %j, saves %j, goes on exactly and begins from its file',
    async (type, more, keys) => {
      const overrides = (steps: number, extra = {}) => ({
        train: { steps, switch_boundary_every: 1 },
        network: { type, ...more, ...extra },
        save: { save_every: 0, dtype: 'fp32' },
      })
      const whole = await runTo('a', overrides(2))
      await runTo('b', overrides(1))
      await runTo('b', overrides(2))
      const [a, b] = await Promise.all(['a', 'b'].map((out) => hashes(join(run.folder, out))))
      expect(b).toEqual(a)
      const file = join(run.folder, 'a', 'tiny_low_noise.safetensors')
      await using open = await openSafetensors(file)
      const endings = [...open.tensors.keys()].map((key) =>
        key.replace(/^.*(self_attn\.[qkvo]|cross_attn\.[qkvo]|ffn\.[02])\./, ''),
      )
      expect([...new Set(endings)].sort()).toEqual(keys)
      // Another run that begins with these files, at a rate that changes nothing, writes them again.
      const start = { pretrained_lora_path: file }
      const model = { model_kwargs: { train_high_noise: false } }
      const settings = overrides(1, start)
      const { model: base } = run.job().config.process[0]
      await runTo('c', {
        ...settings,
        model: { ...base, ...model },
        train: { ...settings.train, lr: 1e-30 },
      })
      await using again = await openSafetensors(join(run.folder, 'c', 'tiny_low_noise.safetensors'))
      for (const [key, { shape }] of open.tensors) {
        expect(again.tensors.get(key)?.shape).toEqual(shape)
        expect(await again.readF32(key)).toEqual(await open.readF32(key))
      }
      expect(whole.losses.low).toBeGreaterThan(0)
    },
  )

  it('refuses to begin a LoRA from a file of another kind', async () => {
    await runTo('a', { train: { steps: 1 }, network: { type: 'lokr' } })
    const file = join(run.folder, 'a', 'tiny_high_noise.safetensors')
    const other = runTo('b', { train: { steps: 1 }, network: { pretrained_lora_path: file } })
    await expect(other).rejects.toMatchObject({
      code: 'TRAINER_LORA_SHAPE',
      message: expect.stringMatching(/LoKr, \[8, 8\] ⊗ .*needs LoRA, rank 4/) as string,
    })
  })

  it('gives the same bytes with one expert on the device at a time', async () => {
    const { model } = run.job().config.process[0]
    await runTo('a', { train: { steps: 4 } })
    await runTo('b', { train: { steps: 4 }, model: { ...model, low_vram: true } })
    expect(await hashes(join(run.folder, 'b'))).toEqual(await hashes(join(run.folder, 'a')))
  })

  it('saves when asked to by a file, and goes on from the number of a step', async () => {
    const out = join(run.folder, 'a')
    await mkdir(out)
    await writeFile(join(out, 'save-now'), '')
    await runTo('a', { train: { steps: 3 }, save: { save_every: 0 } })
    expect(Object.keys(await hashes(out))).toContain('tiny_000000001_high_noise.safetensors')
    expect(await readdir(out)).not.toContain('save-now')
    const events: StageEvent[] = []
    const again = { ...optionsOf('a', { train: { steps: 4 } }), resume: 1 }
    for await (const event of trainIter(again, { device })) events.push(event)
    expect(events).toContainEqual(expect.objectContaining({ code: 'TRAINER_RESUME_WITHOUT_STATE' }))
    expect((await stepsOf(out)).map(({ step }) => step)).toEqual([1, 2, 3, 4])
    const missing = train({ ...again, resume: 77 }, { device })
    await expect(missing).rejects.toMatchObject({ code: 'TRAINER_NO_SUCH_SAVE' })
  })

  it('keeps of blocks what it kept before, unless the device has another memory now', async () => {
    const kept = async (): Promise<Record<string, { keep: string[] }>> => {
      await using file = await openSafetensors(
        join(run.folder, 'planned', 'state', 'training_state.safetensors'),
      )
      return (
        JSON.parse(file.metadata['kinora']!) as { recompute: Record<string, { keep: string[] }> }
      ).recompute
    }
    const trainTo = async (steps: number, memoryBytes: number | undefined): Promise<string[]> => {
      const notes: string[] = []
      const options = { ...optionsOf('planned', { train: { steps } }), memoryBytes }
      for await (const event of trainIter(options, { device })) {
        if (event.type === 'note') notes.push(event.message)
      }
      return notes
    }
    // With room for all there is, everything is kept.
    expect((await trainTo(2, 64e9)).join()).toMatch(
      /Each block 32×32×5 .*both attentions, all linears/,
    )
    const [size] = Object.keys(await kept())
    expect(size).toBe('2x4x4')
    const everything = (await kept())[size!]!.keep
    expect(everything.length).toBeGreaterThan(5)
    // Half a gigabyte is set aside; what is left is room for no more than must be.
    const { job, plan } = optionsOf('planned')
    const [process] = job.config.process
    const shape = await checkpointShape(await openCheckpoint(process.model.name_or_path))
    const read = readBucketPlan(await readFile(plan, 'utf8'), { fileName: plan })
    const setup = trainingSetup(process, read, shape, computeDtype(process, device))
    const { deviceBytes } = await estimateTraining(setup, {
      memoryBytes: undefined,
      speed: undefined,
      overhead: overheadOf(device.info),
    })
    const tight = (512 * 2 ** 20 + 1.001 * deviceBytes) / 0.94
    expect((await trainTo(3, tight)).join()).toMatch(/Each block 32×32×5 /)
    const less = (await kept())[size!]!.keep
    expect(less.length).toBeLessThan(everything.length)
    await trainTo(4, tight)
    expect((await kept())[size!]!.keep).toEqual(less)
    await expect(trainTo(5, 0.5e9)).rejects.toMatchObject({ code: 'TRAINER_WOULD_NOT_FIT' })
  })

  it('refuses to go on with another rank, and starts anew when told to', async () => {
    await runTo('a', { train: { steps: 1 } })
    const other = { train: { steps: 1 }, network: { linear: 8 } }
    await expect(runTo('a', other)).rejects.toMatchObject({ code: 'TRAINER_RESUME_MISMATCH' })
    const anew = { ...optionsOf('a', other), resume: 'never' as const }
    expect((await train(anew, { device })).step).toBe(1)
  })

  it('goes on with another learning rate and more steps, and says so', async () => {
    await runTo('a', { train: { steps: 1 } })
    const events: StageEvent[] = []
    for await (const event of trainIter(optionsOf('a', { train: { steps: 2, lr: 5e-4 } }), {
      device,
    })) {
      events.push(event)
    }
    expect(events).toContainEqual({
      type: 'note',
      message: 'Changed since: train.steps 1 → 2, train.lr 0.001 → 0.0005.',
    })
    expect((await stepsOf(join(run.folder, 'a'))).map(({ learningRate }) => learningRate)).toEqual([
      1e-3, 5e-4,
    ])
  })

  it('refuses a folder that another run holds', async () => {
    const iterator = trainIter(optionsOf('a', { train: { steps: 1 } }), { device })
    await iterator.next()
    await expect(runTo('a')).rejects.toMatchObject({ code: 'STAGE_FOLDER_IN_USE' })
    await iterator.return({ step: 0, out: '', files: {}, losses: {}, best: {} })
    expect((await runTo('a', { train: { steps: 1 } })).step).toBe(1)
  })

  it('accumulates gradients, batches, drops captions and takes regularisation sets', async () => {
    await run[Symbol.asyncDispose]()
    run = await makeTinyRun({ ...small, batchSize: 2, regularisation: true })
    await cp(made.cacheDir, run.cacheDir, { recursive: true })
    const options = optionsOf('a', {
      train: {
        steps: 4,
        gradient_accumulation: 2,
        reg_weight: 0.5,
        lr_scheduler: 'cosine',
        loss_type: 'mae',
      },
      kinora: { latents: 'sample' },
    })
    options.job.config.process[0].datasets[0]!.caption_dropout_rate = 0.5
    const { texts } = await cacheDataset(options, { device })
    // The regularisation set has neither caption nor trigger: the empty text. And the trigger alone, for dropout.
    expect(texts).toEqual({ found: 2, made: 2 })
    await train(options, { device })
    const steps = await stepsOf(join(run.folder, 'a'))
    // An expert's first step takes two batches of two clips, its second two of the one regularisation clip.
    expect(steps.map(({ expert, timesteps }) => [expert, timesteps.length])).toEqual([
      ['high', 4],
      ['low', 4],
      ['high', 2],
      ['low', 2],
    ])
    expect(steps[2]!.loss).toBeCloseTo(steps[2]!.unweightedLoss! / 2, 6)
    expect(steps.map(({ learningRate }) => learningRate)).toEqual([1e-3, 1e-3, 5e-4, 5e-4])
  })

  it('weighs the loss by masks: white ones change nothing, half ones do', async () => {
    const masks = join(run.folder, 'masks')
    await mkdir(masks)
    const paint = async (isWhite: (x: number) => boolean): Promise<void> => {
      for (const take of ['take-1', 'take-2', 'take-3']) {
        const data = Uint8Array.from({ length: 32 * 32 * 3 }, (_, i) =>
          isWhite(Math.floor(i / 3) % 32) ? 255 : 0,
        )
        await writeImage(join(masks, `${take}.png`), { width: 32, height: 32, data })
      }
    }
    const [set] = run.job().config.process[0].datasets
    const overrides = {
      train: { steps: 1 },
      datasets: [{ ...set, caption_ext: 'txt', mask_path: masks }],
    }
    const trainMasked = async (out: string): Promise<number> => {
      const { masks: counts } = await cacheDataset(optionsOf(out, overrides), { device })
      // The pictures are alike, and one clip is flipped.
      expect(counts).toEqual({ found: 0, made: 2 })
      await runTo(out, overrides)
      return (await stepsOf(join(run.folder, out)))[0]!.loss
    }
    await runTo('none', { train: { steps: 1 } })
    await paint(() => true)
    const white = await trainMasked('white')
    expect(white).toBe((await stepsOf(join(run.folder, 'none')))[0]!.loss)
    await paint((x) => x < 16)
    expect(await trainMasked('half')).not.toBe(white)
    await rm(join(run.cacheDir, 'masks'), { recursive: true })
    await expect(runTo('again', overrides)).rejects.toMatchObject({ code: 'TRAINER_NOT_CACHED' })
    await rm(join(masks, 'take-1.png'))
    const events: StageEvent[] = []
    for await (const event of cacheDatasetIter(optionsOf('b', overrides), { device })) {
      events.push(event)
    }
    expect(events).toContainEqual(expect.objectContaining({ code: 'TRAINER_NO_MASK' }))
  })

  it('measures held-out clips on fixed noise, and keeps the best LoRA of each expert', async () => {
    const overrides = {
      train: { steps: 4 },
      kinora: { validation: { fraction: 0.3, bands: 2 } },
    }
    const { best } = await runTo('a', overrides)
    const out = join(run.folder, 'a')
    const entries = readMetrics(await readFile(join(out, 'metrics.jsonl'), 'utf8'), {
      fileName: 'metrics',
    })
    const validations = entries.filter((entry) => entry.type === 'validation')
    expect(validations.map(({ step }) => step)).toEqual([0, 2, 4])
    const measured = (expert: 'high' | 'low') =>
      validations.map(({ step, experts }) => ({ step, ...experts[expert]! }))
    expect(measured('high')[0]!.bands).toMatchObject([
      { from: 950, to: 1000 },
      { from: 900, to: 950 },
    ])
    expect(measured('low')[0]!.bands).toMatchObject([
      { from: 450, to: 900 },
      { from: 0, to: 450 },
    ])
    for (const expert of ['high', 'low'] as const) {
      const least = measured(expert)
        .slice(1)
        .reduce((a, b) => (b.loss < a.loss ? b : a))
      expect(best[expert]).toMatchObject({ step: least.step, loss: least.loss })
      const { metadata } = await readLora(best[expert]!.file)
      expect(JSON.parse(metadata['training_info']!)).toMatchObject({ step: least.step })
    }
    // The low-noise expert has not been trained at step 2: its loss on the same noise is the same.
    const low = measured('low').map(({ loss }) => loss)
    expect(low[1]).toBe(low[0])
    expect(low[2]).not.toBe(low[0])
    const again = await train(
      { ...optionsOf('a', { ...overrides, train: { steps: 6 } }), resume: 'best' },
      { device },
    )
    expect(again.step).toBe(6)
  })

  it('trains on a still picture as a clip of one frame, with captions that vary', async () => {
    const data = Uint8Array.from({ length: 40 * 32 * 3 }, (_, i) => (i * 7) % 251)
    await writeImage(join(run.folder, 'still.png'), { width: 40, height: 32, data })
    await writeFile(join(run.folder, 'still.txt'), 'one, two, three')
    const plan = JSON.parse(await readFile(run.plan, 'utf8')) as BucketPlan
    const [bucket] = plan.buckets
    const still = {
      ...bucket!.items[0]!,
      clip: 'still.png',
      frameIndices: [0],
      resize: { width: 40, height: 32 },
      crop: { x: 4, y: 0, width: 32, height: 32 },
    }
    const buckets = [{ ...bucket!, numFrames: 1, items: [still] }]
    await writeFile(run.plan, JSON.stringify({ ...plan, buckets }))
    const [set] = run.job().config.process[0].datasets
    const options = optionsOf('a', {
      train: { steps: 2 },
      kinora: { caption_variants: 4 },
      datasets: [{ ...set, caption_ext: 'txt', num_frames: 1, shuffle_tokens: true }],
    })
    const { latents, texts } = await cacheDataset(options, { device })
    expect(latents).toEqual({ found: 0, made: 1 })
    expect(texts.made).toBeGreaterThan(2)
    expect((await train(options, { device })).step).toBe(2)
    expect((await stepsOf(join(run.folder, 'a')))[0]!.shape).toEqual([1, 16, 1, 4, 4])
  })

  it('saves and previews the moving average where asked, and makes a preview when asked to by a file', async () => {
    const out = join(run.folder, 'a')
    await mkdir(out)
    await writeFile(join(out, 'sample-now'), '')
    const requests: { step: number; b: Float32Array }[] = []
    const decay = 0.5
    const settings = (use_ema: boolean) => ({
      train: { steps: 2, ema_config: { use_ema, ema_decay: decay }, skip_first_sample: true },
      model: {
        ...run.job().config.process[0].model,
        model_kwargs: { train_low_noise: false },
      },
      sample: { sample_every: 0, samples: [{ prompt: 'x' }] },
      save: { save_every: 1 },
    })
    await train(optionsOf('a', settings(true)), {
      device,
      preview({ step, loras }) {
        requests.push({ step, b: loras.high!.modules.get('blocks.0.attn1.to_q')!.b })
        return Promise.resolve()
      },
    })
    expect(requests.map(({ step }) => step)).toEqual([1, 2])
    expect(await readdir(out)).not.toContain('sample-now')
    await runTo('plain', settings(false))
    const factor = async (folder: string, file: string): Promise<Float32Array> =>
      (await readLora(join(run.folder, folder, file))).modules.get('blocks.0.attn1.to_q')!.b
    const [one, two] = [
      await factor('plain', 'tiny_000000001_high_noise.safetensors'),
      await factor('plain', 'tiny_high_noise.safetensors'),
    ]
    const saved = await factor('a', 'tiny_high_noise.safetensors')
    // From zero: s1 = w1 / 2, s2 = (s1 + w2) / 2.
    saved.forEach((value, i) => expect(value).toBeCloseTo(one[i]! / 4 + two[i]! / 2, 7))
    expect(requests[1]!.b).toEqual(saved)
    expect(saved.some((value, i) => Math.abs(value - two[i]!) > 1e-5)).toBe(true)
  })

  it('takes held-out clips from a folder by the plan beside its own', async () => {
    const plan = JSON.parse(await readFile(run.plan, 'utf8')) as BucketPlan
    const [bucket] = plan.buckets
    const planOf = (takes: readonly string[]): string => {
      const items = bucket!.items.filter(({ clip }) => takes.includes(clip))
      return JSON.stringify({ ...plan, buckets: [{ ...bucket, items }] })
    }
    const overrides = {
      train: { steps: 2, switch_boundary_every: 1 },
      kinora: { validation: { folder: 'held-out', bands: 1 } },
    }
    const options = optionsOf('a', overrides)
    await writeFile(run.plan, planOf(['take-1.mp4', 'take-2.mp4']))
    await expect(cacheDataset(options, { device })).rejects.toMatchObject({
      code: 'TRAINER_NO_VALIDATION_PLAN',
    })
    await writeFile(join(run.folder, 'validation-plan.json'), planOf(['take-3.mp4']))
    const { latents } = await cacheDataset(options, { device })
    expect(latents).toEqual({ found: 3, made: 0 })
    await train(options, { device })
    const measured = async (out: string) =>
      readMetrics(await readFile(join(run.folder, out, 'metrics.jsonl'), 'utf8'), {
        fileName: 'metrics',
      }).filter((entry) => entry.type === 'validation')
    const validations = await measured('a')
    expect(validations.map(({ step }) => step)).toEqual([0, 2])
    // Another clip held out has another loss, from the very beginning.
    await writeFile(run.plan, planOf(['take-1.mp4', 'take-3.mp4']))
    await writeFile(join(run.folder, 'validation-plan.json'), planOf(['take-2.mp4']))
    await train(optionsOf('b', overrides), { device })
    const [before] = await measured('b')
    expect(before!.experts.low!.loss).not.toBe(validations[0]!.experts.low!.loss)
  })

  it('writes both experts in one file where asked', async () => {
    const { files } = await runTo('a', {
      train: { steps: 4 },
      network: { split_multistage_loras: false },
      save: { save_every: 1, max_step_saves_to_keep: 2 },
    })
    expect(Object.keys(await hashes(join(run.folder, 'a')))).toEqual([
      'tiny.safetensors',
      'tiny_000000002.safetensors',
      'tiny_000000003.safetensors',
    ])
    const [high, low] = await Promise.all(
      (['high', 'low'] as const).map((expert) => readLora(files[expert]!, { expert })),
    )
    expect(high!.modules).not.toEqual(low!.modules)
  })

  it('goes on without a preview that fails', async () => {
    const events: StageEvent[] = []
    const sample = { sample_every: 1, samples: [{ prompt: 'x' }] }
    const requests: unknown[] = []
    const written: unknown[] = []
    const context = {
      device,
      metrics: {
        write(entry: unknown) {
          written.push(entry)
          // What watches a run has no say in it.
          throw new Error('no room')
        },
      },
      preview(request: { step: number; loras: object }) {
        requests.push([request.step, Object.keys(request.loras)])
        return request.step === 1 ? Promise.reject(new Error('no image')) : Promise.resolve()
      },
    }
    for await (const event of trainIter(optionsOf('a', { train: { steps: 2 }, sample }), context)) {
      events.push(event)
    }
    expect(requests).toEqual([0, 1, 2].map((step) => [step, ['high', 'low']]))
    expect(events.filter(({ type }) => type === 'warning')).toMatchObject([
      { code: 'TRAINER_PREVIEW_FAILED', message: 'no image' },
    ])
    const fileName = join(run.folder, 'a', 'metrics.jsonl')
    const entries = readMetrics(await readFile(fileName, 'utf8'), { fileName })
    expect(written.map((entry) => JSON.parse(JSON.stringify(entry)))).toEqual(entries)
    expect(entries.map(({ type, step }) => [type, step])).toEqual([
      ['run', 0],
      ['preview', 0],
      ['step', 1],
      ['preview', 1],
      ['step', 2],
      ['save', 2],
      ['preview', 2],
    ])
    expect(entries[3]).toMatchObject({ failed: 'no image' })
    expect(entries[2]).toMatchObject({ shape: [1, 16, 2, 4, 4] })
  })
})
