import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { basename, dirname, relative, resolve, sep } from 'node:path'
import {
  parseTrainJob,
  readManifest,
  type DatasetManifest,
  type TrainJob,
} from '@kinora/config-schema'
import { inspectLora, type LoraHeader } from '@kinora/lora-files'
import {
  codeSystemError,
  drain,
  parseOptions,
  writeFileAtomic,
  type RunContext,
  type StageEvent,
} from '@kinora/stage'
import { exporterErrors } from './errors.ts'
import { writeModelCardOptions, type WriteModelCardOptions } from './options.ts'

/** A LoRA file as a card tells of it. */
export interface CardFile {
  name: string
  expert: 'high' | 'low'
  sizeBytes: number
  sha256: string
  layout: LoraHeader['layout']
  rank: number
  step: number | null
}

/** Everything a card is made of. */
export interface CardFacts {
  title: string
  baseModel: string
  license?: string | undefined
  files: readonly CardFile[]
  job?: TrainJob | undefined
  manifest?: DatasetManifest | undefined
  /** Paths relative to the card, with forward slashes. */
  previews: readonly string[]
  /** Sentences on how the run went. */
  notes?: readonly string[] | undefined
}

/** Writes a model card (README.md) for the Hub: recipe, dataset, previews, and how to use the files. */
export async function* writeModelCardIter(
  options: WriteModelCardOptions,
  { signal }: RunContext = {},
): AsyncGenerator<StageEvent, { file: string }> {
  const resolved = parseOptions('EXPORTER', writeModelCardOptions, options)
  const { out } = resolved
  const loras = (['high', 'low'] as const).flatMap((expert) => {
    const file = resolved[expert]
    return file === undefined ? [] : [{ expert, file }]
  })
  if (loras.length === 0) throw exporterErrors.NO_LORA()
  yield { type: 'started', phase: 'card', total: loras.length }
  const files: CardFile[] = []
  for (const [index, { expert, file }] of loras.entries()) {
    files.push(await describeFile(file, expert, signal))
    yield { type: 'progress', phase: 'card', done: index + 1, total: loras.length, item: file }
  }
  const job =
    resolved.job === undefined
      ? undefined
      : parseTrainJob(await readText(resolved.job), {
          fileName: resolved.job,
          env: process.env,
        })
  const manifest =
    resolved.manifest === undefined
      ? undefined
      : readManifest(await readText(resolved.manifest), { fileName: resolved.manifest })
  for (const preview of resolved.previews) {
    await stat(preview).catch((error: unknown) => {
      throw codeSystemError(error, preview)
    })
  }
  const folder = dirname(resolve(out))
  const card = formatModelCard({
    title: resolved.title ?? job?.config.name ?? basename(loras[0]!.file, '.safetensors'),
    baseModel: resolved.baseModel,
    license: resolved.license,
    files,
    job,
    manifest,
    notes: resolved.notes,
    previews: resolved.previews.map((path) => relative(folder, resolve(path)).split(sep).join('/')),
  })
  await writeFileAtomic(out, card)
  yield { type: 'note', message: `The model card is in ${out}.` }
  return { file: out }
}

/** `writeModelCardIter` run to its end. */
export function writeModelCard(
  options: WriteModelCardOptions,
  context?: RunContext,
): Promise<{ file: string }> {
  return drain(writeModelCardIter(options, context))
}

/** The text of a card. The same facts give the same text. */
export function formatModelCard(facts: CardFacts): string {
  const { title, files, job, manifest, previews } = facts
  const trigger = job?.config.process[0].trigger_word ?? undefined
  const sections = [
    frontMatter(facts, trigger),
    `# ${title}`,
    `A LoRA for Wan 2.2 I2V A14B (image to video), ${files.length === 2 ? 'one file for each expert' : `for the ${files[0]!.expert}-noise expert`}.`,
    previews.map(showPreview).join('\n\n'),
    trigger === undefined
      ? ''
      : `## Trigger word\n\nWrite \`${trigger}\` in the prompt; the LoRA was trained on captions that hold it.`,
    useSection(files, facts.baseModel),
    job === undefined ? '' : recipeSection(job),
    notesSection(facts.notes ?? []),
    manifest === undefined ? '' : datasetSection(manifest),
    filesSection(files),
    'Made with Kinora.',
  ]
  return `${sections.filter((section) => section !== '').join('\n\n')}\n`
}

function frontMatter({ baseModel, license }: CardFacts, trigger: string | undefined): string {
  const lines = [
    `base_model: ${JSON.stringify(baseModel)}`,
    ...(license === undefined ? [] : [`license: ${JSON.stringify(license)}`]),
    'library_name: diffusers',
    'pipeline_tag: image-to-video',
    ...(trigger === undefined ? [] : [`instance_prompt: ${JSON.stringify(trigger)}`]),
    'tags:',
    ...['lora', 'wan', 'wan2.2', 'image-to-video', 'kinora'].map((tag) => `  - ${tag}`),
  ]
  return `---\n${lines.join('\n')}\n---`
}

function showPreview(path: string): string {
  const source = path.split('/').map(encodeURIComponent).join('/')
  return /\.(mp4|webm)$/i.test(path)
    ? `<video src="${source}" controls loop muted></video>`
    : `![${basename(path).replaceAll(/[[\]]/g, '')}](${source})`
}

function useSection(files: readonly CardFile[], baseModel: string): string {
  const high = files.find((file) => file.expert === 'high')
  const low = files.find((file) => file.expert === 'low')
  const comfyui = files.every((file) => file.layout !== 'diffusers')
    ? 'Put the files into `models/loras`. Load the high-noise file on the high-noise model and the low-noise file on the low-noise model (`LoraLoaderModelOnly`).'
    : 'ComfyUI does not read diffusers’ names of Wan; convert the files with `exporter convert --layout comfyui`.'
  const lines = [
    'import torch',
    'from diffusers import WanImageToVideoPipeline',
    '',
    `pipe = WanImageToVideoPipeline.from_pretrained(${JSON.stringify(baseModel)}, torch_dtype=torch.bfloat16)`,
    ...(high === undefined
      ? []
      : [`pipe.load_lora_weights(${JSON.stringify(high.name)}, adapter_name="high")`]),
    ...(low === undefined
      ? []
      : [
          `pipe.load_lora_weights(${JSON.stringify(low.name)}, adapter_name="low", load_into_transformer_2=True)`,
        ]),
  ]
  return `## Use\n\n### ComfyUI\n\n${comfyui}\n\n### diffusers\n\n\`\`\`py\n${lines.join('\n')}\n\`\`\``
}

function recipeSection(job: TrainJob): string {
  const [{ network, train, datasets, model, kinora }] = job.config.process
  const rows: [string, string][] = [
    ['Network', `${network.type}, rank ${network.linear}`],
    ['Steps', `${train.steps}, experts by turns of ${train.switch_boundary_every}`],
    ['Batch', `${train.batch_size} × ${train.gradient_accumulation}`],
    [
      'Optimiser',
      `${train.optimizer}, learning rate ${train.lr}, weight decay ${train.optimizer_params.weight_decay}`,
    ],
    ['Timesteps', `${train.timestep_type}, ${train.content_or_style}`],
    [
      'Sizes',
      [...new Set(datasets.flatMap((set) => set.resolution))].map((side) => `${side}²`).join(', '),
    ],
    ['Frames', [...new Set(datasets.map((set) => set.num_frames))].join(', ')],
    ['Base weights', model.quantize ? model.qtype : train.dtype],
    ...(kinora.goal === null ? [] : ([['Goal', kinora.goal]] satisfies [string, string][])),
  ]
  return `## Recipe\n\n${table(['Setting', 'Value'], rows)}`
}

function notesSection(notes: readonly string[]): string {
  return notes.length === 0
    ? ''
    : `## How training went\n\n${notes.map((note) => `- ${note.trim()}`).join('\n')}`
}

function datasetSection({ clips, dropped }: DatasetManifest): string {
  const seconds = clips.reduce((sum, clip) => sum + clip.duration, 0)
  const motions = new Map<string, number>()
  for (const clip of clips) {
    const camera = clip.motion?.camera
    if (camera !== undefined) motions.set(camera, (motions.get(camera) ?? 0) + 1)
  }
  const sizes = [...new Set(clips.map((clip) => `${clip.width}×${clip.height}`))]
  const rows: [string, string][] = [
    ['Clips', `${clips.length} (${dropped.length} left out)`],
    [
      'Length',
      `${seconds.toFixed(1)} s in all, ${(seconds / Math.max(1, clips.length)).toFixed(1)} s a clip`,
    ],
    ['Sizes', sizes.length > 6 ? `${sizes.length} different` : sizes.join(', ')],
    ...(motions.size === 0
      ? []
      : ([
          [
            'Camera',
            [...motions]
              .toSorted((p, q) => q[1] - p[1])
              .map(([camera, count]) => `${camera} ${count}`)
              .join(', '),
          ],
        ] satisfies [string, string][])),
  ]
  return `## Dataset\n\n${table(['', ''], rows)}`
}

function filesSection(files: readonly CardFile[]): string {
  return `## Files\n\n${table(
    ['File', 'Expert', 'Layout', 'Rank', 'Step', 'Size', 'SHA-256'],
    files.map((file) => [
      file.name,
      `${file.expert} noise`,
      file.layout,
      String(file.rank),
      file.step === null ? '' : String(file.step),
      `${(file.sizeBytes / 1e6).toFixed(1)} MB`,
      `\`${file.sha256}\``,
    ]),
  )}`
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

async function describeFile(
  file: string,
  expert: 'high' | 'low',
  signal: AbortSignal | undefined,
): Promise<CardFile> {
  const { layout, experts, metadata } = await inspectLora(file, { deltas: 'skip' })
  const modules = [...experts.values()].flatMap((map) => [...map.values()])
  let step: number | null = null
  try {
    const info = JSON.parse(metadata['training_info'] ?? 'null') as { step?: unknown } | null
    if (typeof info?.step === 'number') step = info.step
  } catch {
    // Metadata of other programs may hold anything; the card goes without.
  }
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file, { signal })) hash.update(chunk as Uint8Array)
  return {
    name: basename(file),
    expert,
    sizeBytes: (await stat(file)).size,
    sha256: hash.digest('hex'),
    layout,
    rank: Math.max(...modules.map((module) => module.rank)),
    step,
  }
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    throw codeSystemError(error, file)
  }
}
