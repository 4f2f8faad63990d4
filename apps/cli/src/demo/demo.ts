import { createHash } from 'node:crypto'
import { readdir, readFile, rm } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { basename, dirname, join, relative, resolve, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { captionClipsIter } from '@kinora/captioner'
import { prepareClipsIter } from '@kinora/clip-prep'
import { exportLoraIter } from '@kinora/exporter'
import type { DeviceInfo } from '@kinora/kernel-api'
import type { Expert } from '@kinora/lora-files'
import { checkFfmpeg } from '@kinora/media'
import { openPipeline } from '@kinora/sampler'
import {
  lockFolder,
  requireFreeSpace,
  writeFileAtomic,
  type RunContext,
  type StageEvent,
} from '@kinora/stage'
import { trainIter } from '@kinora/trainer-core'
import { openCheckpoint } from '@kinora/wan'
import { openBackendIter, type BackendChoice } from '../lib/open-backend.ts'
import { readJob } from '../lib/read-job.ts'
import { cacheJobIter, checkJobIter, jobFolders, planJobIter } from '../lib/run-job.ts'
import { writeContactSheet } from './write-contact-sheet.ts'
import { demoCaption, demoJobText, demoTrigger, type DemoSettings } from './demo-job.ts'
import { previewsIter, readEvaluation, type PreviewResult } from './previews.ts'
import { mean } from './psnr.ts'

/** `report.json` of a demo. */
export interface DemoReport {
  version: 1
  adapter: DeviceInfo
  machine: { platform: string; arch: string; cores: number; node: string }
  settings: Omit<DemoSettings, 'out'>
  /** Seconds of each phase, in order; a phase that was found done has those of the run that did it. */
  seconds: Record<string, number>
  /** Phases whose result was there already. */
  reused: string[]
  /** Seconds of this run in all. */
  totalSeconds: number
  losses: { step: number; expert: string; loss: number }[]
  /** Peak signal-to-noise ratio to the true clips, in dB, before and after training. */
  psnr: {
    before: number
    after: number
    gain: number
    clips: { image: string; before: number; after: number }[]
  }
  /** SHA-256 of everything written, by path relative to the report; caches and states left out. */
  files: Record<string, string>
}

const neededBytes = 128 * 2 ** 20

export interface DemoOptions extends DemoSettings, BackendChoice {
  /** Begins anew instead of going on from what is there. */
  fresh: boolean
}

/**
 * The whole way on tiny-wan: raw footage to clips, captions, bucket plan, caches, previews of the base model, both LoRAs,
 * previews with them, export, contact sheet and report. What is there already and still fits is not made again.
 */
export async function* demoIter(
  { backend, adapter, fresh, ...settings }: DemoOptions,
  { signal }: RunContext,
): AsyncGenerator<StageEvent, DemoReport> {
  const startedAt = performance.now()
  const { out } = settings
  const tinyWan = dirname(fileURLToPath(import.meta.resolve('@kinora/tiny-wan/package.json')))
  await checkFfmpeg()
  await using _lock = await lockFolder(out)
  if (fresh) await clearFolder(out)
  await requireFreeSpace(out, neededBytes)

  const device = yield* openBackendIter({ backend, adapter })
  try {
    const phases = new Phases(await previousSeconds(join(out, 'report.json')))

    const clips = join(out, 'dataset')
    yield* phases.run(
      'prep',
      prepareClipsIter({ source: join(tinyWan, 'footage'), out: clips, cutMargin: 0 }, { signal }),
    )
    yield* phases.run(
      'caption',
      captionClipsIter(
        { source: clips, trigger: demoTrigger, defaultCaption: demoCaption },
        { signal },
      ),
    )
    const jobFile = join(out, 'job.yaml')
    const checkpointFolder = join(tinyWan, 'checkpoint')
    await writeFileAtomic(
      jobFile,
      demoJobText(settings, {
        clips: fromHere(clips),
        checkpoint: fromHere(checkpointFolder),
        training: fromHere(join(out, 'training')),
        cacheDir: fromHere(join(out, 'cache')),
      }),
    )
    const job = await readJob(jobFile)
    yield* withoutPreflight(checkJobIter(job, { signal }))
    yield* phases.run('plan', withoutPreflight(planJobIter(job, { signal })))
    const cached = yield* phases.run('cache', cacheJobIter(job, { device, signal }))
    if (cached.latents.made + cached.texts.made === 0) phases.reuse('cache')

    const checkpoint = await openCheckpoint(checkpointFolder, { signal })
    const evaluation = await readEvaluation(tinyWan)
    // One pipeline for both: the second set finds the first frames encoded.
    const pipeline = openPipeline(checkpoint, device, { compute: 'f32' })
    const previews = (name: 'before' | 'after', loras: readonly string[]) =>
      previewsIter(
        { folder: join(out, 'previews', name), settings, evaluation, pipeline, loras },
        { device, signal },
      )
    const before = yield* phases.run('previews before', previews('before', []))
    if (before.reused) phases.reuse('previews before')

    const { plan, cacheDir, out: trained } = jobFolders(job.job)
    const numDone = (await readLosses(trained)).length
    const { files } = yield* phases.run(
      'train',
      trainIter({ job: job.job, plan, cacheDir, out: trained }, { device, signal }),
    )
    const losses = await readLosses(trained)
    if (numDone === losses.length) phases.reuse('train')

    const loras: string[] = []
    for (const [expert, file] of Object.entries(files) as [Expert, string][]) {
      const target = join(out, basename(file))
      yield* phases.run(
        'export',
        exportLoraIter(
          {
            sources: [file],
            out: target,
            layout: 'comfyui',
            dtype: 'f32',
            expert,
            base: checkpointFolder,
          },
          { signal },
        ),
      )
      loras.push(target)
    }
    const after = yield* phases.run('previews after', previews('after', loras))
    if (after.reused) phases.reuse('previews after')

    pipeline.release()
    yield* phases.run(
      'contact sheet',
      writeContactSheet(join(out, 'contact-sheet.png'), { settings, evaluation, before, after }),
    )
    const report: DemoReport = {
      version: 1,
      adapter: device.info,
      machine: describeMachine(),
      settings: withoutOut(settings),
      seconds: phases.seconds,
      reused: phases.reused,
      totalSeconds: secondsSince(startedAt),
      losses,
      psnr: comparePsnr(before, after),
      files: await hashFiles(out),
    }
    await writeFileAtomic(join(out, 'report.json'), `${JSON.stringify(report, null, 2)}\n`)
    return report
  } finally {
    device.destroy()
  }
}

/** Runs phase after phase and keeps the time of each; their own phases are shown under their names. */
class Phases {
  readonly seconds: Record<string, number> = {}
  readonly reused: string[] = []
  readonly #before: Readonly<Record<string, number>>

  constructor(before: Readonly<Record<string, number>>) {
    this.#before = before
  }

  async *run<Result>(
    name: string,
    stage: AsyncGenerator<StageEvent, Result>,
  ): AsyncGenerator<StageEvent, Result> {
    const startedAt = performance.now()
    let next = await stage.next()
    while (!next.done) {
      const event = next.value
      if ((event.type === 'started' || event.type === 'progress') && event.phase !== name) {
        yield { ...event, phase: `${name}: ${event.phase}` }
      } else yield event
      next = await stage.next()
    }
    this.seconds[name] = round((this.seconds[name] ?? 0) + secondsSince(startedAt))
    return next.value
  }

  /** The phase found its work done: its time is that of the run that did it. */
  reuse(name: string): void {
    this.reused.push(name)
    this.seconds[name] = this.#before[name] ?? this.seconds[name]!
  }
}

/** Preflight's advice is for the real model and real footage; what would fail is an error and stays one. */
async function* withoutPreflight<Result>(
  stage: AsyncGenerator<StageEvent, Result>,
): AsyncGenerator<StageEvent, Result> {
  let next = await stage.next()
  while (!next.done) {
    const event = next.value
    if (event.type !== 'warning' || !event.code.startsWith('PREFLIGHT_')) yield event
    next = await stage.next()
  }
  return next.value
}

function secondsSince(startedAt: number): number {
  return round((performance.now() - startedAt) / 1000)
}

function round(value: number): number {
  return Math.round(value * 100) / 100
}

async function previousSeconds(file: string): Promise<Record<string, number>> {
  try {
    return (JSON.parse(await readFile(file, 'utf8')) as DemoReport).seconds
  } catch {
    return {}
  }
}

async function clearFolder(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (name !== '.kinora.lock') await rm(join(folder, name), { recursive: true, force: true })
  }
}

/** As the job spells it: relative where that is shorter, so that a job can be read. */
function fromHere(path: string): string {
  const short = relative('', path)
  return short.startsWith('..') ? resolve(path) : short.split(sep).join('/')
}

function withoutOut({ out: _out, ...settings }: DemoSettings): Omit<DemoSettings, 'out'> {
  return settings
}

function describeMachine(): DemoReport['machine'] {
  const { platform, arch, version } = process
  return { platform, arch, cores: availableParallelism(), node: version }
}

function comparePsnr(before: PreviewResult, after: PreviewResult): DemoReport['psnr'] {
  const clips = before.clips.map(({ image, psnr }, index) => ({
    image,
    before: round(psnr),
    after: round(after.clips[index]!.psnr),
  }))
  const meanBefore = mean(before.clips.map(({ psnr }) => psnr))
  const meanAfter = mean(after.clips.map(({ psnr }) => psnr))
  return {
    before: round(meanBefore),
    after: round(meanAfter),
    gain: round(meanAfter - meanBefore),
    clips,
  }
}

/** One entry a step, from the trainer's metrics. */
async function readLosses(folder: string): Promise<DemoReport['losses']> {
  let text: string
  try {
    text = await readFile(join(folder, 'metrics.jsonl'), 'utf8')
  } catch {
    return []
  }
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as { type: string; step: number; expert: string; loss: number })
    .filter(({ type }) => type === 'step')
    .map(({ step, expert, loss }) => ({ step, expert, loss }))
}

async function hashFiles(folder: string): Promise<Record<string, string>> {
  const left = new Set(['cache', 'training', 'report.json', '.kinora.lock'])
  const hashes: Record<string, string> = {}
  const visit = async (current: string): Promise<void> => {
    const entries = await readdir(current, { withFileTypes: true })
    for (const entry of entries.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
      const path = join(current, entry.name)
      const name = relative(folder, path).split(sep).join('/')
      if (left.has(name) || entry.name.startsWith('.')) continue
      if (entry.isDirectory()) await visit(path)
      else
        hashes[name] = createHash('sha256')
          .update(await readFile(path))
          .digest('hex')
    }
  }
  await visit(folder)
  return hashes
}
