// Training for real, through the ordinary command line: caches made from real clips, steps of both experts, a resumed run, LoRA
// files, a sample. What it prints is read from what kinora left behind.
//
// The clip is trained at its own shape with the area of --size squared, so it need not be larger than that in both directions.
//
//   bench e2e DIR --checkpoint=CHECKPOINT --clips=FOLDER [--phase=cache,train,resume,sample] [--steps=20] [--size=512] [--frames=41]
//             [--quantize=uint4|qfloat8|none] [--quantize-text=float8|none] [--low-vram] [--offload] [--vram=GB] [--sample-steps=4] [--validate] [--json=FILE]
//
// Phases may be run in calls of their own; each goes on from what is in DIR. `train` stops half way, `resume` goes on to the end.
// The first clip of the folder is trained on alone, by one caption: the same batch again and again. `--validate` measures its loss on
// fixed noise before, half way and after, which shows it falling where the losses of steps are of other timesteps each.
import { spawn, spawnSync } from 'node:child_process'
import { cp, mkdir, readFile, readdir, writeFile } from 'node:fs/promises'
import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    checkpoint: { type: 'string' },
    clips: { type: 'string' },
    phase: { type: 'string', default: 'cache,train,resume,sample' },
    steps: { type: 'string', default: '20' },
    size: { type: 'string', default: '512' },
    frames: { type: 'string', default: '41' },
    rank: { type: 'string', default: '16' },
    turn: { type: 'string', default: '5' },
    quantize: { type: 'string', default: 'uint4' },
    'quantize-text': { type: 'string', default: 'none' },
    'low-vram': { type: 'boolean', default: false },
    offload: { type: 'boolean', default: false },
    vram: { type: 'string' },
    validate: { type: 'boolean', default: false },
    'sample-steps': { type: 'string', default: '4' },
    json: { type: 'string' },
  },
})
const [folder] = positionals
if (!folder || !flags.checkpoint || !flags.clips) {
  console.error('Say where, with what and on what: bench e2e DIR --checkpoint=… --clips=…')
  process.exit(2)
}
const dir = resolve(folder)
const checkpoint = resolve(flags.checkpoint)
const require = createRequire(import.meta.url)
const kinora = join(dirname(require.resolve('kinora/package.json')), 'bin', 'kinora.js')
const name = 'proof'
const run = join(dir, 'runs', name)
const report: Record<string, unknown> = {}

/** Runs kinora with its output shown; gives its seconds and the most memory it had. */
async function kinoraRun(
  args: readonly string[],
): Promise<{ seconds: number; hostPeakGiB: number }> {
  console.log(`\n$ kinora ${args.map((arg) => basename(arg)).join(' ')}`)
  const start = performance.now()
  const child = spawn(process.execPath, [kinora, ...args], { stdio: 'inherit', cwd: dir })
  let peak = 0
  const watch = setInterval(() => {
    readFile(`/proc/${child.pid}/status`, 'utf8').then(
      (text) => (peak = Math.max(peak, Number(/VmHWM:\s+(\d+)/.exec(text)?.[1] ?? 0))),
      () => {},
    )
  }, 250)
  const code = await new Promise<number | null>((done) => child.on('close', done))
  clearInterval(watch)
  if (code !== 0) {
    console.error(`kinora ended with ${code}.`)
    process.exit(code ?? 1)
  }
  return {
    seconds: Number(((performance.now() - start) / 1000).toFixed(1)),
    hostPeakGiB: Number((peak / 2 ** 20).toFixed(2)),
  }
}

const clipDir = join(dir, 'clips')
const half = Math.ceil(Number(flags.steps) / 2)
async function writeJob(steps: number): Promise<string> {
  const text = JSON.stringify
  const quantize = flags.quantize === 'none' ? '' : `, quantize: true, qtype: ${flags.quantize}`
  const textScheme = flags['quantize-text']
  const quantizeText = textScheme === 'none' ? '' : `, quantize_te: true, qtype_te: ${textScheme}`
  const vram = flags.vram === undefined ? '' : `\n        vram_gb: ${flags.vram}`
  const validation = flags.validate
    ? `\n        validation: { folder: ${text(clipDir)}, every: ${half}, bands: 1 }`
    : ''
  const file = join(dir, 'kinora.yaml')
  await writeFile(
    file,
    `job: extension
config:
  name: ${name}
  process:
    - type: diffusion_trainer
      training_folder: ${text(join(dir, 'runs'))}
      training_seed: 42
      network: { type: lora, linear: ${flags.rank}, linear_alpha: ${flags.rank} }
      save: { dtype: fp16, save_every: ${Number(flags.steps) / 2}, max_step_saves_to_keep: 2 }
      datasets:
        - folder_path: ${text(clipDir)}
          caption_ext: txt
          resolution: ${flags.size}
          num_frames: ${flags.frames}
          fps: 16
      train:
        steps: ${steps}
        batch_size: 1
        lr: 5.0e-4
        optimizer: adamw
        noise_scheduler: flowmatch
        timestep_type: linear
        switch_boundary_every: ${flags.turn}
        gradient_checkpointing: true
        dtype: bf16
        disable_sampling: true
      model: { name_or_path: ${text(checkpoint)}, arch: wan22_14b_i2v, low_vram: ${flags['low-vram']}, layer_offloading: ${flags.offload}${quantize}${quantizeText} }
      logging: { log_every: 1 }
      kinora:${vram}
        frame_mode: real-time
        cache_dir: ${text(join(dir, 'cache'))}${validation}
`,
  )
  return file
}

interface Entry {
  type: string
  step: number
  expert?: string
  loss?: number
  shape?: number[]
  seconds?: { load: number; data: number; queue: number; device: number; total: number }
  memory?: { peakMiB: number }
  experts?: Record<string, { loss: number }>
}
const phases = new Set(flags.phase.split(','))
await mkdir(clipDir, { recursive: true })
if ((await readdir(clipDir)).length === 0) {
  const found = (await readdir(flags.clips)).filter((file) => /\.(mp4|webm|mov)$/.test(file)).sort()
  const [clip] = found
  if (!clip) {
    console.error(`${flags.clips} holds no clips.`)
    process.exit(2)
  }
  await cp(join(flags.clips, clip), join(clipDir, clip))
  await writeFile(
    join(clipDir, clip.replace(/\.\w+$/, '.txt')),
    'a bike, the camera moves forward\n',
  )
}
if (phases.has('cache')) report['cache'] = await kinoraRun(['cache', await writeJob(half)])
if (phases.has('train')) report['train'] = await kinoraRun(['train', await writeJob(half)])
if (phases.has('resume'))
  report['resume'] = await kinoraRun(['train', await writeJob(Number(flags.steps))])
if (phases.has('sample')) {
  const loras = ['high', 'low'].map((expert) => join(run, `${name}_${expert}_noise.safetensors`))
  const out = join(dir, 'sample.mp4')
  const image = join(dir, 'first-frame.png')
  const [clip] = (await readdir(clipDir)).filter((file) => !file.endsWith('.txt'))
  const ffmpeg = process.env['FFMPEG_PATH'] ?? 'ffmpeg'
  spawnSync(ffmpeg, ['-y', '-v', 'error', '-i', join(clipDir, clip!), '-frames:v', '1', image])
  const size = ['--width', flags.size, '--height', flags.size, '--num-frames', flags.frames]
  const prompt = 'a bike, the camera moves forward'
  const solver = ['--steps', flags['sample-steps'], '--guidance', '1', '--low-memory']
  report['sample'] = await kinoraRun(
    ['sample', checkpoint, '--prompt', prompt].concat(
      size,
      '--image',
      image,
      solver,
      '--out',
      out,
      loras.flatMap((file) => ['--lora', file]),
    ),
  )
}

const metrics = await readFile(join(run, 'metrics.jsonl'), 'utf8').catch(() => '')
const entries = metrics
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line) as Entry)
const steps = entries.filter(({ type }) => type === 'step')
const median = (values: number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN
const bySize: Record<string, number[]> = {}
const switches: number[] = []
for (const [i, { shape, seconds, expert }] of steps.entries()) {
  // Where the expert changes, `load` is the change; the step itself is the rest.
  ;(bySize[shape!.join('x')] ??= []).push(seconds!.total - seconds!.load)
  if (i > 0 && steps[i - 1]!.expert !== expert) switches.push(seconds!.load)
}
report['steps'] = steps.length
report['secondsPerStep'] = Object.fromEntries(
  Object.entries(bySize).map(([size, values]) => [size, Number(median(values).toFixed(3))]),
)
report['loadSeconds'] = steps
  .filter(({ seconds }) => seconds!.load > 0.5)
  .map(({ step, seconds }) => `${step}: ${seconds!.load.toFixed(1)}`)
report['switchSeconds'] = switches.map((value) => Number(value.toFixed(2)))
report['devicePeakGiB'] = Number(
  (Math.max(0, ...steps.map(({ memory }) => memory!.peakMiB)) / 1024).toFixed(2),
)
report['losses'] = Object.fromEntries(
  ['high', 'low'].map((expert) => [
    expert,
    steps.filter((step) => step.expert === expert).map(({ loss }) => Number(loss!.toFixed(4))),
  ]),
)
report['onFixedNoise'] = entries
  .filter(({ type }) => type === 'validation')
  .map(({ step, experts }) => ({
    step,
    ...Object.fromEntries(
      Object.entries(experts!).map(([expert, { loss }]) => [expert, Number(loss.toFixed(5))]),
    ),
  }))
report['files'] = (await readdir(run).catch(() => [])).filter((file) =>
  file.endsWith('.safetensors'),
)
console.log(`\n${JSON.stringify(report, null, 1)}`)
if (flags.json) writeFileSync(flags.json, JSON.stringify(report, null, 2))
