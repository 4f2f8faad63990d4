import { copyFile, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { goals, readBucketPlan, readMetrics, recipeMemories } from '@kinora/config-schema'
import { openSafetensors } from '@kinora/safetensors'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { FakeHub } from '../../../packages/exporter/test/fake-hub.ts'
import { readEventFile } from '../../../packages/run-log/test/read-event-file.ts'
import { makeClip, runKinora, tinyJob, tinyWan, type FinishedRun } from './run-kinora.ts'

// One small run, watched, explained and handed over, through the program itself.

const cpu = ['--backend', '@kinora/cpu-kernels']

let folder: string
let run: string
let trained: FinishedRun
let posted: { run: string; entry: { type: string; step: number } }[]

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-insight-'))
  run = join(folder, 'out/tiny')
  posted = []
  await makeClip(join(folder, 'clips/a.mp4'))
  await makeClip(join(folder, 'clips/b.mp4'))
  await makeClip(join(folder, 'held/c.mp4'))
  await copyFile(join(tinyWan, 'eval/1.png'), join(folder, 'first.png'))
  const first = JSON.stringify(join(folder, 'first.png'))
  const hook = createServer((request, response) => {
    let text = ''
    request.setEncoding('utf8').on('data', (part) => {
      text += part
    })
    request.on('end', () => {
      posted.push(JSON.parse(text) as (typeof posted)[number])
      response.end()
    })
  })
  await new Promise<void>((done) => hook.listen(0, '127.0.0.1', done))
  await writeFile(
    join(folder, 'job.yaml'),
    tinyJob({
      folder: join(folder, 'out'),
      clips: join(folder, 'clips'),
      steps: 4,
      sample: `log_dir: ${JSON.stringify(join(folder, 'logs'))}
      sample:
        sample_every: 2
        width: 40
        height: 32
        num_frames: 5
        sample_steps: 2
        guidance_scale: 1
        format: mp4
        seed: 7
        walk_seed: true
        samples:
          - {prompt: "[trigger], a square", ctrl_img: ${first}}
          - {prompt: "[trigger], a square", ctrl_img: ${first}, network_multiplier: 0, seed: 7}`,
      kinora: `, webhook: {url: "\${HOOK_URL}", every: 2}, validation: {folder: ${JSON.stringify(join(folder, 'held'))}, every: 2, bands: 2}`,
    }),
  )
  trained = await runKinora(['train', join(folder, 'job.yaml'), '--json', ...cpu], {
    env: { HOOK_URL: `http://127.0.0.1:${(hook.address() as AddressInfo).port}/` },
  })
  hook.closeAllConnections()
  await new Promise((done) => hook.close(done))
}, 240_000)
afterAll(() => rm(folder, { recursive: true, force: true }))

const metricsOf = async () => {
  const fileName = join(run, 'metrics.jsonl')
  return readMetrics(await readFile(fileName, 'utf8'), { fileName })
}

describe('kinora train', () => {
  it('prints what would disappoint before it works, and a verdict after', () => {
    expect(trained.exitCode, trained.stderr).toBe(0)
    const types = trained.events.map(({ type, code, message }) => String(code ?? message ?? type))
    const warned = types.indexOf('PREFLIGHT_TOO_FEW_STEPS')
    expect(warned).toBeGreaterThanOrEqual(0)
    expect(warned).toBeLessThan(types.findIndex((text) => text.startsWith('Computing on')))
    expect(types.some((text) => text.startsWith('High noise (2 updates)'))).toBe(true)
    // 40 is no multiple of 16: told, and brought to 32.
    expect(types).toContain('CONFIG_SNAPPED')
  })

  it('writes metrics that their schema takes, from a run entry to the previews', async () => {
    const entries = await metricsOf()
    expect(entries[0]).toMatchObject({ type: 'run', step: 0, totalSteps: 4, name: 'tiny' })
    expect(entries.filter(({ type }) => type === 'step')).toHaveLength(4)
    const previews = entries.filter((entry) => entry.type === 'preview')
    expect(previews.map(({ step }) => step)).toEqual([0, 2, 4])
  })

  it('measures the clips of a folder that no step trains on', async () => {
    const validations = (await metricsOf()).filter((entry) => entry.type === 'validation')
    expect(validations.map(({ step }) => step)).toEqual([0, 2, 4])
    for (const { experts } of validations) {
      expect(experts.high!.bands).toHaveLength(2)
      expect(experts.low!.loss).toBeGreaterThan(0)
    }
    const planned = async (name: string) =>
      readBucketPlan(await readFile(join(run, name), 'utf8'), { fileName: name }).buckets.flatMap(
        ({ items }) => items.map(({ clip }) => basename(clip)),
      )
    expect(await planned('bucket-plan.json')).toEqual(['a.mp4', 'b.mp4'])
    expect(await planned('validation-plan.json')).toEqual(['c.mp4'])
    expect(await readdir(join(run, 'best'))).toHaveLength(2)
  })

  it('makes previews with the LoRA at the strength asked for, at the same seed', async () => {
    const [, , last] = (await metricsOf()).filter((entry) => entry.type === 'preview')
    const [at1, at0] = last!.files!
    expect(at1!.change).toBeGreaterThan(0)
    // At strength 0 it is the base model: the very preview from before training.
    expect(at0).toMatchObject({ multiplier: 0, change: 0 })
    const files = await readdir(join(run, 'samples'))
    expect(files.filter((name) => name.endsWith('.mp4'))).toHaveLength(6)
    expect(files).toContain('sheet_0.png')
    expect(last!.trained!.numClips).toBe(2)
  })

  it('posts to the webhook: every second step, and all else', () => {
    expect(posted.map(({ entry: { type, step } }) => `${type} ${step}`)).toEqual([
      'run 0',
      'preview 0',
      'validation 0',
      'step 1',
      'validation 2',
      'preview 2',
      'step 3',
      'validation 4',
      'save 4',
      'preview 4',
    ])
    expect(posted[0]!.run).toBe('tiny')
  })

  it('writes event files in which a reader of TensorBoard’s format finds the metrics', async () => {
    const [name, ...more] = await readdir(join(folder, 'logs/tiny'))
    expect(more).toEqual([])
    const events = readEventFile(await readFile(join(folder, 'logs/tiny', name!)))
    expect(events[0]).toMatchObject({ step: 0, fileVersion: 'brain.Event:2' })
    const lossesOf = (expert: 'high' | 'low') =>
      events.flatMap(({ step, scalars }) => {
        const loss = scalars?.[`loss/${expert}_noise`]
        return loss === undefined ? [] : [{ step, loss }]
      })
    const steps = (await metricsOf()).filter((entry) => entry.type === 'step')
    for (const expert of ['high', 'low'] as const) {
      const expected = steps
        .filter((entry) => entry.expert === expert)
        .map(({ step, loss }) => ({ step, loss: Math.fround(loss) }))
      expect(expected).toHaveLength(2)
      expect(lossesOf(expert)).toEqual(expected)
    }
  })

  it('refuses to push at the end without a token, before it works', async () => {
    const job = (await readFile(join(folder, 'job.yaml'), 'utf8'))
      .replace('save: {', 'save: {push_to_hub: true, hf_repo_id: me/tiny, ')
      .replace('name: tiny', 'name: pushed')
    await writeFile(join(folder, 'push.yaml'), job)
    const { exitCode, stderr } = await runKinora(['train', join(folder, 'push.yaml'), ...cpu], {
      env: { HOOK_URL: 'http://127.0.0.1:1/', HF_TOKEN: '', HUGGING_FACE_HUB_TOKEN: '' },
    })
    expect(exitCode).toBe(1)
    expect(stderr).toContain('error EXPORTER_NO_TOKEN')
    expect(await readdir(join(folder, 'out'))).toEqual(['tiny'])
  })
})

describe('kinora explain', () => {
  it('says how a run does, for people and for programs', async () => {
    const { exitCode, stdout } = await runKinora(['explain', run])
    expect(exitCode).toBe(0)
    expect(stdout).toContain('tiny: step 4 of 4 (100 %)')
    expect(stdout).toContain('EXPLAIN_TOO_EARLY')
    const { events } = await runKinora(['explain', run, '--json'])
    expect(events.at(-1)).toMatchObject({
      type: 'result',
      result: { name: 'tiny', step: 4, experts: [{ expert: 'high' }, { expert: 'low' }] },
    })
  })

  it('refuses a folder that is no run', async () => {
    const { exitCode, stderr } = await runKinora(['explain', folder])
    expect(exitCode).toBe(1)
    expect(stderr).toContain('error KINORA_NO_RUN')
  })
})

describe('kinora plan', () => {
  it('draws the timesteps that a job will draw', async () => {
    const { exitCode, stdout } = await runKinora(['plan', join(folder, 'job.yaml')], {
      env: { HOOK_URL: 'http://127.0.0.1:1/' },
    })
    expect(exitCode).toBe(0)
    expect(stdout).toContain('2 at high noise (█), 2 at low noise (▒); the experts meet at 900.')
    expect(stdout.split('\n').filter((line) => /^ *\d+–\d+ /.test(line))).toHaveLength(20)
  })
})

describe('what a job takes of a device', () => {
  const env = (): NodeJS.ProcessEnv => ({
    HOOK_URL: 'http://127.0.0.1:1/',
    XDG_CACHE_HOME: join(folder, 'user-cache'),
  })

  it('is told by kinora plan, and the speed it measured is kept', async () => {
    const args = ['plan', join(folder, 'job.yaml'), '--vram', '12']
    const first = await runKinora(args, { env: env() })
    expect(first.exitCode, first.stderr).toBe(0)
    expect(first.stderr).toContain('Measuring how fast')
    expect(first.stdout).toMatch(/of its 12\.00 GiB can be used/)
    expect(first.stdout).toMatch(/Each block keeps block inputs in f32, .*: \d+×\d+×5\./)
    expect(first.stdout).toMatch(/Device 0\.\d\d GiB at most .*; host 1\.\d\d GiB\./)
    expect(first.stdout).toMatch(/ s a step, .* (minutes|hours) in all/)
    const second = await runKinora([...args, '--json'], { env: env() })
    expect(second.stderr).not.toContain('Measuring how fast')
    expect(second.events.at(-1)).toMatchObject({
      type: 'result',
      result: { estimate: { fits: true, buckets: [{ share: 1 }], remedies: [] } },
    })
  })

  it('ends kinora train before anything is cached, where it is too much', async () => {
    const args = ['train', join(folder, 'job.yaml'), '--name', 'too-large', '--vram', '0.5']
    const { exitCode, stderr } = await runKinora(args, { env: env() })
    expect(exitCode).toBe(1)
    expect(stderr).toContain('error TRAINER_WOULD_NOT_FIT')
    expect(stderr).toContain('Nothing has been loaded.')
    expect(stderr).not.toContain('latents')
  })
})

describe('kinora export', () => {
  const out = (): string => join(folder, 'handed-over')

  it('hands a run over: LoRAs, workflow, card, previews', async () => {
    const { exitCode, stderr } = await runKinora(['export', run, '--out', out()])
    expect(exitCode, stderr).toBe(0)
    expect((await readdir(out())).toSorted()).toEqual([
      'README.md',
      'first-frame.png',
      'previews',
      'tiny-workflow.json',
      'tiny_high_noise.safetensors',
      'tiny_low_noise.safetensors',
    ])
    expect(await readdir(join(out(), 'previews'))).toEqual(['000000004_0.mp4', '000000004_1.mp4'])
    const workflow = await readFile(join(out(), 'tiny-workflow.json'), 'utf8')
    for (const text of ['tiny_high_noise.safetensors', 'first-frame.png', 'crane, a square']) {
      expect(workflow).toContain(text)
    }
    const card = await readFile(join(out(), 'README.md'), 'utf8')
    expect(card).toContain('<video src="previews/000000004_0.mp4"')
    expect(card).toContain('High noise (2 updates)')
    await using file = await openSafetensors(join(out(), 'tiny_low_noise.safetensors'))
    expect([...file.tensors.values()].every(({ dtype }) => dtype === 'F16')).toBe(true)
  })

  it('uploads it to a repository on the Hub', async () => {
    const hub = new FakeHub()
    const HF_ENDPOINT = await hub.open()
    try {
      const { exitCode, stdout, stderr } = await runKinora(
        ['export', run, '--out', out(), '--push', 'me/tiny', '--private'],
        { env: { HF_ENDPOINT, HF_TOKEN: 'hf_secret', HOOK_URL: 'http://127.0.0.1:1/' } },
      )
      expect(exitCode, stderr).toBe(0)
      expect(stdout).toContain(`${HF_ENDPOINT}/me/tiny`)
      expect(stdout + stderr).not.toContain('hf_secret')
      const { private: isPrivate, files } = hub.repos.get('me/tiny')!
      expect(isPrivate).toBe(true)
      expect([...files.keys()].toSorted()).toContain('tiny_high_noise.safetensors')
      expect(files.get('README.md')!.toString()).toContain('lora, rank 4')
    } finally {
      await hub.close()
    }
  })

  it('merges a run into a base checkpoint', async () => {
    const merged = join(folder, 'merged')
    const base = join(tinyWan, 'checkpoint')
    const { exitCode, stderr } = await runKinora([
      'export',
      run,
      '--merge-into',
      base,
      '--out',
      merged,
    ])
    expect(exitCode, stderr).toBe(0)
    const query = 'blocks.0.attn1.to_q.weight'
    const read = async (root: string, part: string): Promise<Float32Array> => {
      const parts = await readdir(join(root, part))
      const file = parts.find((name) => name.endsWith('.safetensors'))!
      await using open = await openSafetensors(join(root, part, file))
      return open.readF32(query)
    }
    for (const part of ['transformer', 'transformer_2']) {
      const [before, after] = [await read(base, part), await read(merged, part)]
      expect(before.some((value, index) => value !== after[index])).toBe(true)
    }
  })

  it('takes one expert out of a run, and names the saves there are for a step that is none', async () => {
    const low = join(folder, 'low.safetensors')
    const one = await runKinora([
      'export',
      join(run, 'tiny_low_noise.safetensors'),
      '--expert',
      'low',
      '--out',
      low,
    ])
    expect(one.exitCode, one.stderr).toBe(0)
    const none = await runKinora(['export', run, '--step', '3'])
    expect(none.stderr).toContain('error KINORA_NO_SUCH_LORA')
    expect(none.exitCode).toBe(1)
    const both = await runKinora(['export', low, '--merge-into', tinyWan, '--out', folder])
    expect(both.stderr).toContain('error KINORA_WHICH_EXPERT')
  })
})

describe('kinora doctor', () => {
  it('prints what would fail and what would disappoint, and exits 1 on errors', async () => {
    const bad = (await readFile(join(folder, 'job.yaml'), 'utf8')).replaceAll(
      /, ctrl_img: "[^"]*"/g,
      '',
    )
    await writeFile(join(folder, 'bad.yaml'), bad)
    const env = { HOOK_URL: 'http://127.0.0.1:1/' }
    const { exitCode, events, stderr } = await runKinora(
      ['doctor', join(folder, 'bad.yaml'), '--json'],
      { env },
    )
    expect(exitCode).toBe(1)
    const findings = events.filter(({ type }) => type === 'finding')
    expect(findings[0]).toMatchObject({
      severity: 'error',
      code: 'PREFLIGHT_SAMPLE_NO_CONTROL',
      fix: expect.stringContaining('ctrl_img') as string,
    })
    expect(findings.some(({ code }) => code === 'PREFLIGHT_TOO_FEW_STEPS')).toBe(true)
    expect(stderr).toContain('error KINORA_JOB_WOULD_FAIL')
  })

  it.each(goals.flatMap((goal) => recipeMemories.map((vram) => [goal, String(vram)] as const)))(
    'passes the job that kinora init writes for a %s on %s GB',
    async (goal, vram) => {
      const job = join(folder, `${goal}-${vram}.yaml`)
      const clips = join(folder, 'clips')
      const checkpoint = join(tinyWan, 'checkpoint')
      const written = ['--trigger', 'ch4r', '--clips', clips, '--checkpoint', checkpoint]
      const init = await runKinora(['init', job, '--recipe', goal, '--vram', vram, ...written])
      expect(init.exitCode, init.stderr).toBe(0)
      expect(await readFile(job, 'utf8')).toContain('trigger_word: ch4r')
      const { exitCode, events, stderr } = await runKinora([
        'doctor',
        job,
        '--vram',
        vram,
        '--json',
      ])
      expect(exitCode, stderr).toBe(0)
      const found = events.filter(({ type }) => type === 'finding')
      expect(found.filter(({ severity }) => severity === 'error')).toEqual([])
      // Two short clips of 64 × 64 are not what a recipe wants, and that is told.
      expect(found.map(({ code }) => code)).toContain('PREFLIGHT_TOO_FEW_CLIPS')
    },
  )

  it('says of a job without errors that nothing would fail', async () => {
    const job = join(folder, 'character-48.yaml')
    const { exitCode, stderr } = await runKinora(['doctor', job, '--vram', '48'])
    expect(exitCode, stderr).toBe(0)
    expect(stderr).toContain('warning PREFLIGHT_TOO_FEW_CLIPS')
    expect(stderr).toContain('nothing that would fail')
  })
})
