import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { openDevice } from '@kinora/cpu-kernels'
import { writeLora } from '@kinora/lora-files'
import { probe, writeImage } from '@kinora/media'
import { openSafetensors, writeSafetensors } from '@kinora/safetensors'
import { runBin } from '@kinora/stage/bin'
import type { StageEvent } from '@kinora/stage'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { sample, sampleIter, type SampleOptions } from '../src/index.ts'
import { samplerCommand } from '../src/lib/sampler-command.ts'

// On cpu-kernels and tiny-wan, in clips of 5 frames of 32 × 32: seconds each.

const checkpoint = fileURLToPath(new URL('../../tiny-wan/checkpoint', import.meta.url))
/** The backend's source, so that no build is needed. */
const cpuKernels = fileURLToPath(new URL('../../cpu-kernels/src/index.ts', import.meta.url))
const folder = await mkdtemp(join(tmpdir(), 'sampler-'))
const path = (name: string) => join(folder, name)
const device = await openDevice()

beforeAll(async () => {
  const [width, height] = [48, 40]
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 7) % 256)
  await writeImage(path('first.png'), { width, height, data })
})
afterAll(async () => {
  device.destroy()
  await rm(folder, { recursive: true })
})

const small = (extra: Partial<SampleOptions> = {}): SampleOptions => ({
  checkpoint,
  prompt: 'a red circle, camera pans left',
  image: path('first.png'),
  out: path('out.mp4'),
  width: 32,
  height: 32,
  numFrames: 5,
  steps: 2,
  ...extra,
})
const sha256 = async (file: string) =>
  createHash('sha256')
    .update(await readFile(file))
    .digest('hex')

describe('sample', { timeout: 180_000 }, () => {
  test('writes a clip, says what it does, and leaves nothing on the device', async () => {
    const events: StageEvent[] = []
    const iterator = sampleIter(small({ saveLatents: path('saved.safetensors') }), { device })
    let next = await iterator.next()
    for (; !next.done; next = await iterator.next()) events.push(next.value)
    expect(next.value).toEqual({
      file: path('out.mp4'),
      width: 32,
      height: 32,
      numFrames: 5,
      fps: 16,
      seed: 42,
      latents: path('saved.safetensors'),
    })
    const phases = events.flatMap((event) => (event.type === 'started' ? [event.phase] : []))
    expect(phases).toEqual(['encode', 'denoise', 'decode', 'write'])
    for (const phase of phases) {
      const progress = events.filter((e) => e.type === 'progress').filter((e) => e.phase === phase)
      const done = progress.map((event) => event.done)
      expect(done).toEqual(done.toSorted((a, b) => a - b))
      expect(progress.at(-1)?.done).toBe(progress.at(-1)?.total)
    }
    const clip = await probe(path('out.mp4'))
    expect([clip.width, clip.height]).toEqual([32, 32])
    expect(device.memory().liveBytes).toBe(0)
  })

  test('the same options give the same bytes, a low-memory run too, and saved noise as well', async () => {
    await sample(small({ saveLatents: path('a.safetensors'), out: path('a.mp4') }), { device })
    await sample(
      small({ saveLatents: path('b.safetensors'), out: path('b.mp4'), lowMemory: true }),
      { device },
    )
    expect(await sha256(path('b.mp4'))).toBe(await sha256(path('a.mp4')))
    expect(await sha256(path('b.safetensors'))).toBe(await sha256(path('a.safetensors')))
    await sample(small({ latents: path('a.safetensors'), seed: 7, out: path('c.mp4') }), { device })
    expect(await sha256(path('c.mp4'))).toBe(await sha256(path('a.mp4')))
    await sample(small({ seed: 7, out: path('d.mp4') }), { device })
    expect(await sha256(path('d.mp4'))).not.toBe(await sha256(path('a.mp4')))
  })

  test('low memory keeps one expert at a time', async () => {
    const peak = async (lowMemory: boolean) => {
      device.resetPeak()
      await sample(small({ lowMemory, out: path('peak.mp4') }), { device })
      return device.memory().peakBytes
    }
    const [all, low] = [await peak(false), await peak(true)]
    // tiny-wan's experts are 9 MB each; steps 999 and 749 at shift 5 ask both.
    expect(all - low).toBeGreaterThan(5e6)
  })

  test('a folder that is missing is made; webp works', async () => {
    const out = path('new/folder/clip.webp')
    await sample(small({ out, steps: 1, guidance: 1 }), { device })
    expect((await readFile(out)).subarray(8, 12).toString()).toBe('WEBP')
  })

  test('an abort between steps ends the run and writes nothing', async () => {
    const controller = new AbortController()
    const iterator = sampleIter(small({ out: path('aborted.mp4'), steps: 4 }), {
      device,
      signal: controller.signal,
    })
    const run = async () => {
      for (;;) {
        const next = await iterator.next()
        if (next.done) return
        if (next.value.type === 'progress' && next.value.phase === 'denoise') controller.abort()
      }
    }
    await expect(run()).rejects.toMatchObject({ name: 'AbortError' })
    expect((await readdir(folder)).filter((name) => name.includes('aborted'))).toEqual([])
    expect(device.memory().liveBytes).toBe(0)
  })
})

describe('bad input is told before anything is loaded', () => {
  const nowhere = { checkpoint: '/no/such/checkpoint' }
  const cases: { what: string; options: Partial<SampleOptions>; code: string }[] = [
    { what: 'no image', options: { image: undefined, ...nowhere }, code: 'SAMPLER_NO_IMAGE' },
    {
      what: 'a missing image',
      options: { image: '/no/image.png', ...nowhere },
      code: 'MEDIA_NO_FILE',
    },
    { what: 'width 30', options: { width: 30, ...nowhere }, code: 'SAMPLER_BAD_SIZE' },
    { what: 'height 40', options: { height: 40, ...nowhere }, code: 'SAMPLER_BAD_SIZE' },
    { what: 'one side', options: { height: undefined, ...nowhere }, code: 'SAMPLER_HALF_SIZE' },
    { what: '6 frames', options: { numFrames: 6, ...nowhere }, code: 'SAMPLER_BAD_FRAMES' },
    { what: 'a gif', options: { out: 'clip.gif', ...nowhere }, code: 'SAMPLER_BAD_OUTPUT' },
    { what: 'no steps', options: { steps: 0, ...nowhere }, code: 'SAMPLER_BAD_OPTIONS' },
    { what: 'guidance 0', options: { guidance: 0, ...nowhere }, code: 'SAMPLER_BAD_OPTIONS' },
    {
      what: 'a missing LoRA',
      options: { lora: ['low:/no/lora'], ...nowhere },
      code: 'SAFETENSORS_CANNOT_OPEN',
    },
    {
      what: 'missing latents',
      options: { latents: '/no/latents', ...nowhere },
      code: 'SAFETENSORS_CANNOT_OPEN',
    },
    {
      what: 'no checkpoint',
      options: { checkpoint: '/no/such/checkpoint' },
      code: 'CHECKPOINT_NOT_FOUND',
    },
  ]
  test.each(cases)('$what: $code', async ({ options, code }) => {
    await expect(sample(small(options), { device })).rejects.toMatchObject({ code })
  })

  test.each(['out', 'saveLatents'] as const)(
    'a folder of %s that cannot be made',
    async (option) => {
      const file = path('a-file')
      await writeFile(file, '')
      const phases: string[] = []
      const run = sampleIter(small({ [option]: join(file, 'folder', 'clip.mp4') }), { device })
      await expect(
        (async () => {
          for await (const event of run) if ('phase' in event) phases.push(event.phase)
        })(),
      ).rejects.toMatchObject({ code: 'STAGE_NOT_A_FOLDER' })
      expect(phases).toEqual([])
    },
  )

  test('latents of another size, or of no clear name', async () => {
    const wrong = path('wrong.safetensors')
    const tensor = { dtype: 'F32', shape: [1, 16, 1, 4, 4], data: new Float32Array(256) } as const
    await writeSafetensors(wrong, [{ name: 'noise', ...tensor }])
    await expect(sample(small({ latents: wrong }), { device })).rejects.toMatchObject({
      code: 'SAMPLER_BAD_LATENTS',
    })
    await writeSafetensors(wrong, [
      { name: 'a', ...tensor },
      { name: 'b', ...tensor },
    ])
    await expect(sample(small({ latents: wrong }), { device })).rejects.toMatchObject({
      code: 'SAMPLER_NO_LATENTS',
    })
  })

  test('a LoRA of another model', async () => {
    const file = path('other_low_noise.safetensors')
    const module = { rank: 1, inFeatures: 4, outFeatures: 4 }
    const weights = { a: new Float32Array(4), b: new Float32Array(4), ...module }
    const refused = (name: string, code: string) =>
      writeLora(
        file,
        { modules: new Map([[name, weights]]), metadata: {} },
        { layout: 'comfyui', dtype: 'f32', metadata: {} },
      ).then(() =>
        expect(sample(small({ lora: [file] }), { device })).rejects.toMatchObject({ code }),
      )
    await refused('blocks.0.attn1.to_q', 'WAN_ADAPTER_SHAPE')
    await refused('blocks.99.attn1.to_q', 'WAN_UNKNOWN_MODULE')
  })

  test('nothing was left on the device or the disk', async () => {
    expect(device.memory().liveBytes).toBe(0)
    expect((await readdir(folder)).filter((name) => name.startsWith('.'))).toEqual([])
  })
})

describe('the bin', { timeout: 180_000 }, () => {
  const run = async (...args: string[]) => {
    let stdout = ''
    let stderr = ''
    const code = await runBin(samplerCommand, {
      args,
      signals: false,
      stdout: { write: (text) => ((stdout += text), true) },
      stderr: { write: (text) => ((stderr += text), true) },
    })
    return { code, stdout, stderr }
  }
  const usual = [
    '--image',
    path('first.png'),
    '--width',
    '32',
    '--height',
    '32',
    '--num-frames',
    '5',
  ]

  test('samples on the backend that is named', async () => {
    const out = path('bin.mp4')
    const { code, stdout, stderr } = await run(
      checkpoint,
      '--prompt',
      'a red circle',
      ...usual,
      '--steps',
      '1',
      '--guidance',
      '1',
      '--out',
      out,
      '--save-latents',
      path('bin.safetensors'),
      '--backend',
      cpuKernels,
    )
    expect(stderr).toContain('denoise')
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${out}: 32×32, 5 frames\n` })
    await using latents = await openSafetensors(path('bin.safetensors'))
    expect([...latents.tensors.keys()]).toEqual(['in.latents', 'out.latents'])
  })

  test('says what is wrong with a backend', async () => {
    await writeFile(path('empty.mjs'), 'export {}')
    const missing = await run(checkpoint, '--prompt', 'x', '--backend', 'no-such-package')
    expect(missing.code).toBe(1)
    expect(missing.stderr).toContain('SAMPLER_NO_BACKEND')
    const empty = await run(checkpoint, '--prompt', 'x', '--backend', path('empty.mjs'))
    expect(empty.code).toBe(1)
    expect(empty.stderr).toContain('SAMPLER_BAD_BACKEND')
  })

  test('a prompt without an image is refused', async () => {
    const { code, stderr } = await run(checkpoint, '--prompt', 'x', '--backend', cpuKernels)
    expect(code).toBe(1)
    expect(stderr).toContain('SAMPLER_NO_IMAGE')
  })
})
