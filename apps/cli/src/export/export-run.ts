import { copyFile, mkdir, readFile, stat } from 'node:fs/promises'
import { basename, extname, join } from 'node:path'
import { readMetrics, type TrainJob, type TrainSampleItem } from '@kinora/config-schema'
import {
  checkPush,
  exportLoraIter,
  exportWorkflowIter,
  numHighNoiseSteps,
  pushToHubIter,
  writeModelCardIter,
  type ExportedLora,
  type PushedFolder,
} from '@kinora/exporter'
import { loraFileName, type Expert } from '@kinora/lora-files'
import { explainRun } from '@kinora/run-log'
import { isCodedError, lockFolder, type RunContext, type StageEvent } from '@kinora/stage'
import { kinoraErrors } from '../lib/errors.ts'
import { readRun, readTrainedJob } from '../metrics/read-run.ts'
import { listPreviews } from '../previews/preview-files.ts'
import { findLoras, type LoraChoice } from './find-loras.ts'

export interface ExportRunOptions {
  /** Folder of the run. */
  run: string
  /** Folder that receives everything; `<run>/export` unless given. */
  out?: string | undefined
  choice: LoraChoice
  layout: 'comfyui' | 'diffusers' | 'kohya'
  dtype: 'f32' | 'f16' | 'bf16'
  /** owner/name on the Hub. */
  push?: string | undefined
  private: boolean
}

/** What was written. */
export interface ExportedRun {
  out: string
  loras: ExportedLora[]
  /** Null where the layout is one that ComfyUI does not read. */
  workflow: string | null
  card: string
  previews: string[]
  pushed: PushedFolder | null
}

const experts = ['high', 'low'] as const
const videoPreviews = new Set(['.mp4', '.webp'])

/**
 * Hands a run over: its LoRA files, a ComfyUI workflow with them, its newest previews, and a model card with the recipe, the
 * dataset and how training went. With `push` the folder goes to the Hub; what that needs is asked for first.
 */
export async function* exportRunIter(
  options: ExportRunOptions,
  { signal }: RunContext,
): AsyncGenerator<StageEvent, ExportedRun> {
  const { run, choice, layout, dtype, push } = options
  if (push !== undefined) checkPush(push)
  const job = await readTrainedJob(run)
  if (!job) throw kinoraErrors.NO_RUN(run)
  const { name } = job.config
  const { loras, step } = await findLoras(run, name, choice)
  const out = options.out ?? join(run, 'export')
  await using _lock = await lockFolder(out)

  const exported: ExportedLora[] = []
  const files: Partial<Record<Expert, string>> = {}
  for (const expert of experts) {
    const source = loras[expert]
    if (source === undefined) continue
    const file = join(out, loraFileName(name, expert, step))
    files[expert] = file
    exported.push(
      yield* exportLoraIter({ sources: [source], out: file, layout, dtype, expert }, { signal }),
    )
  }
  const names = Object.fromEntries(
    Object.entries(files).map(([expert, file]) => [expert, basename(file)]),
  )
  const previews = await copyPreviews(run, out, step)
  const item = job.config.process[0].sample.samples[0]
  const firstFrame = await copyFirstFrame(item, out)

  let workflow: string | null = null
  if (layout === 'diffusers') {
    yield {
      type: 'note',
      message: 'ComfyUI does not read the layout of diffusers, so there is no workflow.',
    }
  } else {
    workflow = join(out, `${name}-workflow.json`)
    const boundary = await trainedBoundary(run, job)
    yield* exportWorkflowIter(
      { ...names, ...workflowOptions(job, item, boundary), image: firstFrame, out: workflow },
      { signal },
    )
  }
  const card = join(out, 'README.md')
  yield* writeCardIter({ job, run, card, files, previews }, { signal })
  const pushed =
    push === undefined
      ? null
      : yield* pushToHubIter(
          { folder: out, repo: push, private: options.private, message: `Add ${name}` },
          { signal },
        )
  return { out, loras: exported, workflow, card, previews, pushed }
}

/** The newest previews up to the step that is exported, and their sheets. */
async function copyPreviews(run: string, out: string, step: number | undefined): Promise<string[]> {
  const all = (await listPreviews(join(run, 'samples'))).filter(
    (preview) => preview.step > 0 && preview.step <= (step ?? Infinity),
  )
  const newest = all.filter((preview) => preview.step === all.at(-1)!.step)
  const copied: string[] = []
  for (const { path } of newest) {
    const target = join(out, 'previews', basename(path))
    await mkdir(join(out, 'previews'), { recursive: true })
    await copyFile(path, target)
    copied.push(target)
  }
  // Clips first: the card shows what moves at its top.
  return copied.toSorted(
    (a, b) => Number(videoPreviews.has(extname(b))) - Number(videoPreviews.has(extname(a))),
  )
}

/** The first frame of the first sample, under the name that the workflow loads; ComfyUI's example where there is none. */
async function copyFirstFrame(item: TrainSampleItem | undefined, out: string): Promise<string> {
  const image = item?.ctrl_img
  if (!image || !(await isFile(image))) return 'example.png'
  const name = `first-frame${extname(image)}`
  await copyFile(image, join(out, name))
  return name
}

/** The previews' settings as a workflow's; those that a workflow cannot have are left at its defaults. */
function workflowOptions(
  job: TrainJob,
  item: TrainSampleItem | undefined,
  boundary: number,
): Omit<Parameters<typeof exportWorkflowIter>[0], 'out'> {
  const { kinora } = job.config.process[0]
  if (!item) return { boundary }
  const { shift } = kinora.sample
  const numHigh = numHighNoiseSteps(item.sample_steps, shift, boundary)
  return {
    prompt: item.prompt,
    negativePrompt: item.neg,
    width: item.width,
    height: item.height,
    // A still picture is made as a clip: the workflow saves one.
    ...(item.num_frames > 1 ? { numFrames: item.num_frames } : {}),
    fps: item.fps,
    seed: item.seed,
    guidance: item.guidance_scale,
    ...(kinora.sample.guidance_scale_2 === null
      ? {}
      : { guidanceLow: kinora.sample.guidance_scale_2 }),
    shift,
    boundary,
    sampler: kinora.sample.scheduler === 'unipc' ? 'uni_pc' : 'euler',
    strengthHigh: item.network_multiplier,
    strengthLow: item.network_multiplier,
    // So few steps that one expert would have none are for trying out, not for handing over.
    ...(numHigh > 0 && numHigh < item.sample_steps ? { steps: item.sample_steps } : {}),
  }
}

/** The boundary that was trained with, as the metrics have it. */
async function trainedBoundary(run: string, job: TrainJob): Promise<number> {
  const file = join(run, 'metrics.jsonl')
  const text = await readFile(file, 'utf8').catch(() => '')
  for (const entry of readMetrics(text, { fileName: file })) {
    if (entry.type === 'run' && typeof entry['boundary'] === 'number') return entry['boundary']
  }
  return job.config.process[0].kinora.boundary ?? 0.9
}

async function* writeCardIter(
  {
    job,
    run,
    card,
    files,
    previews,
  }: {
    job: TrainJob
    run: string
    card: string
    files: Partial<Record<Expert, string>>
    previews: readonly string[]
  },
  { signal }: RunContext,
): AsyncGenerator<StageEvent, void> {
  const { datasets, model } = job.config.process[0]
  const { experts: verdicts, motion } = explainRun(await readRun(run))
  const manifest = datasets
    .map(({ dataset_path }) => join(dataset_path, 'manifest.jsonl'))
    .map(async (file) => ((await isFile(file)) ? file : undefined))
  const common = {
    out: card,
    ...files,
    manifest: (await Promise.all(manifest)).find((file) => file !== undefined),
    previews: [...previews],
    notes: [...verdicts.map(({ sentence }) => sentence), ...(motion ? [motion.sentence] : [])],
    ...(/^[\w.-]+\/[\w.-]+$/.test(model.name_or_path) && !(await isFolder(model.name_or_path))
      ? { baseModel: model.name_or_path }
      : {}),
  }
  try {
    yield* writeModelCardIter({ ...common, job: join(run, 'config.yaml') }, { signal })
  } catch (error) {
    // A job that takes words from another environment: the card does without its recipe.
    if (!isCodedError(error) || !error.code.startsWith('CONFIG_')) throw error
    const { code, message } = error
    yield {
      type: 'warning',
      code,
      message: `The card has no recipe: ${message}`,
      fix: 'Set the variables that the job was trained with, and export again.',
    }
    yield* writeModelCardIter({ ...common, title: job.config.name }, { signal })
  }
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (entry) => entry.isFile(),
    () => false,
  )
}

async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (entry) => entry.isDirectory(),
    () => false,
  )
}
