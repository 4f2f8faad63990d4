import { execFileSync } from 'node:child_process'
import { copyFile, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { lockFolder } from '@kinora/stage'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { makeClip, runKinora, tinyJob, tinyWan } from './run-kinora.ts'

// What goes wrong for users, each through the program itself: the code, the fix, the exit code, and nothing half-written.

const cpu = ['--backend', '@kinora/cpu-kernels']
const sampleArgs = [
  'sample',
  join(tinyWan, 'checkpoint'),
  '--prompt',
  'crane',
  '--num-frames',
  '5',
  '--width',
  '32',
  '--height',
  '32',
  '--steps',
  '1',
  '--guidance',
  '1',
  ...cpu,
]

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-cli-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

async function writeJob(options: Partial<Parameters<typeof tinyJob>[0]> = {}): Promise<string> {
  const file = join(folder, 'job.yaml')
  await writeFile(
    file,
    tinyJob({ folder: join(folder, 'out'), clips: join(folder, 'clips'), ...options }),
  )
  return file
}

/** Every file under a folder, hidden ones too. */
async function listFiles(root: string): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true })
  return entries.filter((entry) => entry.isFile()).map(({ name }) => name)
}

describe('a machine that lacks something', () => {
  it('says that there is no ffmpeg before it does any work', async () => {
    await makeClip(join(folder, 'clips/a.mp4'))
    const env = {
      PATH: dirname(process.execPath),
      FFMPEG_PATH: join(folder, 'none'),
      FFPROBE_PATH: join(folder, 'none'),
    }
    const { exitCode, stderr } = await runKinora(['train', await writeJob(), ...cpu], { env })
    expect(stderr).toContain('error MEDIA_NO_FFMPEG')
    expect(stderr).toContain('Fix: ')
    expect(exitCode).toBe(1)
    expect(await readdir(folder)).toEqual(['clips', 'job.yaml'])
  })

  it('says that ffmpeg cannot write the file before it does any work', async () => {
    const ffmpeg = join(folder, 'ffmpeg')
    const realFfmpeg =
      process.env['FFMPEG_PATH'] ?? execFileSync('which', ['ffmpeg']).toString().trim()
    await writeFile(
      ffmpeg,
      `#!/bin/sh\ncase "$*" in *-encoders*) ${realFfmpeg} "$@" | grep -v libwebp ;; *) exec ${realFfmpeg} "$@" ;; esac\n`,
      { mode: 0o755 },
    )
    const { exitCode, stderr } = await runKinora(
      [...sampleArgs, '--image', join(folder, 'a.png'), '--out', join(folder, 'a.webp')],
      { env: { FFMPEG_PATH: ffmpeg } },
    )
    expect(stderr).toContain('error MEDIA_NO_ENCODER')
    expect(stderr).toContain('libwebp_anim')
    expect(exitCode).toBe(1)
  })

  it('says what a backend says while it opens, and lets it tune where training asks for it', async () => {
    await makeClip(join(folder, 'clips/a.mp4'))
    const backend = join(folder, 'node_modules/loud-kernels')
    await mkdir(backend, { recursive: true })
    await writeFile(join(backend, 'package.json'), '{ "type": "module", "exports": "./index.js" }')
    await writeFile(
      join(backend, 'index.js'),
      `export async function openDevice({ tune, onNote }) {
        onNote('Warming up, tune ' + tune)
        await new Promise((resolve) => setTimeout(resolve, 50))
        onNote('Still warming up')
        throw new Error('It broke.')
      }`,
    )
    const run = async (args: string[]): Promise<string> =>
      (await runKinora([...args, '--backend', 'loud-kernels'], { cwd: folder })).stderr
    const job = await writeJob()
    const train = await run(['train', job, '--tune'])
    expect(train).toMatch(/Warming up, tune true\n[^]*Still warming up\n[^]*It broke\./)
    expect(await run(['train', job])).toContain('tune false')
    expect(await run(['cache', job])).toContain('tune undefined')
  })

  it('says that no adapter opens, and computes on the processor unless a backend was asked for', async () => {
    const none = join(folder, 'no-driver.json')
    const env = { VK_DRIVER_FILES: none, VK_ICD_FILENAMES: none, DAWNNODE_BACKEND: 'vulkan' }
    const asked = await runKinora(['doctor', '--backend', '@kinora/wgpu-kernels'], { env })
    expect(asked.exitCode).toBe(1)
    expect(asked.stderr).toContain('NO  adapter')
    expect(asked.stderr).toContain('WGPU_NO_ADAPTER')
    const auto = await runKinora(['doctor'], { env })
    expect(auto.exitCode, auto.stderr).toBe(0)
    expect(auto.stderr).toContain('@kinora/cpu-kernels')
    expect(auto.stderr).toContain('The processor computes instead')
  })

  it('says that a backend is none', async () => {
    const missing = await runKinora(['doctor', '--backend', 'no-such-kernels'])
    expect(missing.exitCode).toBe(1)
    expect(missing.stderr).toContain('KINORA_NO_BACKEND')
    const other = await runKinora(['doctor', '--backend', '@kinora/stage'])
    expect(other.stderr).toContain('KINORA_BAD_BACKEND')
  })
})

describe('clips that are none', () => {
  it.each([['prep'], ['plan'], ['caption']])(
    'kinora %s says that a folder holds none',
    async (verb) => {
      await mkdir(join(folder, 'empty'))
      const out = verb === 'caption' ? [] : ['--out', join(folder, 'out')]
      const { exitCode, stderr } = await runKinora([verb, join(folder, 'empty'), ...out])
      expect(stderr).toMatch(/error [A-Z_]*NO_(CLIPS|FOOTAGE|VIDEOS)/)
      expect(exitCode).toBe(1)
    },
  )

  it('leaves out an unreadable clip and an image among good ones, says so, and trains on the rest', async () => {
    await makeClip(join(folder, 'clips/a.mp4'))
    await writeFile(join(folder, 'clips/broken.mp4'), 'this is no video')
    await copyFile(join(tinyWan, 'eval/1.png'), join(folder, 'clips/image.mp4'))
    const { exitCode, stderr, events } = await runKinora([
      'train',
      await writeJob(),
      '--json',
      ...cpu,
    ])
    expect(exitCode, stderr).toBe(0)
    const skipped = events.filter(({ type }) => type === 'skipped').map(({ item }) => String(item))
    expect(skipped.some((item) => item.includes('broken.mp4'))).toBe(true)
    expect(skipped.some((item) => item.includes('image.mp4'))).toBe(true)
    expect(events.at(-1)).toMatchObject({ type: 'result', result: { step: 2 } })
    expect(
      events
        .filter(({ type }) => type === 'note')
        .map(({ message }) => message)
        .join(),
    ).toContain('2 clips could not be read')
  })

  it('fails when more clips are unreadable than the job allows', async () => {
    await makeClip(join(folder, 'clips/a.mp4'))
    await writeFile(join(folder, 'clips/broken.mp4'), 'this is no video')
    const job = await writeJob({ kinora: ', max_skipped: 0' })
    const { exitCode, stderr } = await runKinora(['train', job, ...cpu])
    expect(stderr).toContain('error KINORA_TOO_MANY_SKIPPED')
    expect(exitCode).toBe(1)
  })
})

describe('numbers that do not fit', () => {
  const image = ['--image', join(tinyWan, 'eval/1.png')]
  it.each([
    ['frames that are not 4n+1', ['--num-frames', '6', ...image], 'SAMPLER_BAD_FRAMES'],
    ['a size that is no multiple of 16', ['--width', '40', ...image], 'SAMPLER_BAD_SIZE'],
    ['a prompt without its first frame', [], 'SAMPLER_NO_IMAGE'],
    ['a clip for an image', ['--image', join(tinyWan, 'eval/1.mp4')], 'MEDIA_NOT_AN_IMAGE'],
  ])('kinora sample refuses %s', async (_, args, code) => {
    const out = join(folder, 'sample.mp4')
    const { exitCode, stderr } = await runKinora([...sampleArgs, ...args, '--out', out])
    expect(stderr).toContain(`error ${code}`)
    expect(exitCode).toBe(1)
    expect(await readdir(folder)).toEqual([])
  })

  it('kinora plan refuses a number of frames where it would be changed, with --strict', async () => {
    await makeClip(join(folder, 'clips/a.mp4'))
    const args = ['plan', join(folder, 'clips'), '--num-frames', '8', '--strict', '--dry-run']
    const { exitCode, stderr } = await runKinora(args)
    expect(stderr).toMatch(/error BUCKETER_/)
    expect(stderr).toContain('8')
    expect(exitCode).toBe(1)
  })

  it('kinora train refuses a preview without its control image, before any work', async () => {
    await makeClip(join(folder, 'clips/a.mp4'))
    const sample =
      'sample: {width: 32, height: 32, num_frames: 5, format: mp4, samples: [{prompt: crane}]}'
    const { exitCode, stderr } = await runKinora(['train', await writeJob({ sample }), ...cpu])
    expect(stderr).toContain('PREFLIGHT_SAMPLE_NO_CONTROL')
    expect(exitCode).toBe(1)
    expect(await readdir(folder)).toEqual(['clips', 'job.yaml'])
  })

  it('kinora train names an unknown key with its place and a suggestion', async () => {
    const job = await writeJob({ train: ', setps: 4' })
    const { exitCode, stderr } = await runKinora(['train', job, ...cpu])
    expect(stderr).toMatch(/job\.yaml:\d+:\d+/)
    expect(stderr).toContain('Did you mean "steps"?')
    expect(exitCode).toBe(1)
  })
})

describe('an output that cannot be written', () => {
  it('refuses a folder that another run holds', async () => {
    await makeClip(join(folder, 'clips/a.mp4'))
    await using _lock = await lockFolder(join(folder, 'out/tiny'))
    const { exitCode, stderr } = await runKinora(['train', await writeJob(), ...cpu])
    expect(stderr).toContain('error STAGE_FOLDER_IN_USE')
    expect(stderr).toContain(`process ${process.pid}`)
    expect(exitCode).toBe(1)
    const demo = join(folder, 'demo')
    await using _demoLock = await lockFolder(demo)
    const second = await runKinora(['demo', '--out', demo, ...cpu])
    expect(second.stderr).toContain('error STAGE_FOLDER_IN_USE')
    expect(await readdir(demo)).toEqual(['.kinora.lock'])
  })

  const canMount = process.platform === 'linux' && process.getuid?.() === 0
  it.runIf(canMount)(
    'ends with a code on a full disk and leaves nothing half-written',
    async () => {
      const disk = join(folder, 'disk')
      await mkdir(disk)
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', disk])
      try {
        await makeClip(join(folder, 'clips/a.mp4'))
        const job = await writeJob({ folder: join(disk, 'out') })
        const { exitCode, stderr } = await runKinora(['train', job, ...cpu])
        expect(stderr).toMatch(/error [A-Z]+_(DISK_FULL|NOT_ENOUGH_SPACE|NO_SPACE)/)
        expect(exitCode).toBe(1)
        expect((await listFiles(disk)).filter((name) => /^\.\d|\.tmp/.test(name))).toEqual([])
      } finally {
        execFileSync('umount', [disk])
      }
    },
  )
})

describe('Ctrl-C', () => {
  async function interrupt(times: 1 | 2) {
    await makeClip(join(folder, 'clips/a.mp4'))
    const job = await writeJob({ steps: 400 })
    let sent = 0
    const run = await runKinora(['train', job, '--json', ...cpu], {
      onOutput(output, child) {
        const isDue = sent === 0 ? /"phase":"train","done":2\b/ : /Stopping at the next safe point/
        if (sent === times || !isDue.test(output)) return
        sent++
        child.kill('SIGINT')
      },
    })
    expect(sent).toBe(times)
    return { job, run, out: join(folder, 'out/tiny') }
  }

  it('once keeps the work: exit 130, a state, and the same command goes on from there', async () => {
    const { job, run, out } = await interrupt(1)
    expect(run.exitCode, run.stderr).toBe(130)
    expect(run.stderr).toContain('Stopping at the next safe point.')
    const files = await listFiles(out)
    expect(files).toContain('training_state.safetensors')
    expect(files.filter((name) => name.startsWith('.'))).toEqual([])
    let went = ''
    const again = await runKinora(['train', job, '--json', ...cpu], {
      onOutput(output, child) {
        went = output
        if (/"phase":"train","done":\d/.test(output)) child.kill('SIGINT')
      },
    })
    expect(again.exitCode).toBe(130)
    const [, first] = /"phase":"train","done":(\d+)/.exec(went)!
    expect(Number(first)).toBeGreaterThan(2)
  })

  it('twice ends at once, and leaves neither a lock nor a temporary file', async () => {
    const { run, out } = await interrupt(2)
    expect(run.exitCode, run.stderr).toBe(130)
    expect((await listFiles(out)).filter((name) => name.startsWith('.'))).toEqual([])
  })
})
