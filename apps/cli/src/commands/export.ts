import { stat } from 'node:fs/promises'
import { basename } from 'node:path'
import {
  exporterCommands,
  exportLoraOptions,
  formatLoraReport,
  type ExportedLora,
  type LoraReport,
  type MergedCheckpoint,
} from '@kinora/exporter'
import { parseLoraFileName } from '@kinora/lora-files'
import { parseOptions, type RunContext, type StageEvent } from '@kinora/stage'
import type { BinCommand } from '@kinora/stage/bin'
import { z } from 'zod'
import { exportRunIter, type ExportedRun } from '../export/export-run.ts'
import { findLoras, type RunLoras } from '../export/find-loras.ts'
import { kinoraErrors } from '../lib/errors.ts'
import { readTrainedJob } from '../metrics/read-run.ts'

const exportOptions = z.strictObject({
  ...exportLoraOptions.shape,
  sources: z
    .array(z.string().min(1))
    .min(1)
    .describe('Folder of a run, or LoRA files of any layout; several files are merged into one.'),
  out: z
    .string()
    .min(1)
    .optional()
    .describe('Folder (of a run; <run>/export if not given) or file that receives the LoRA.'),
  step: z
    .union([z.enum(['latest', 'best']), z.int().nonnegative()])
    .default('latest')
    .describe('Of a run: the newest LoRAs, those validation liked best, or those of a step.'),
  push: z
    .string()
    .min(1)
    .optional()
    .describe('Of a run: upload to this repository on the Hub, owner/name; token from HF_TOKEN.'),
  private: z.boolean().default(false).describe('Make a new repository private.'),
  mergeInto: z
    .string()
    .min(1)
    .optional()
    .describe('Base checkpoint: write it to --out with the LoRAs added to its weights.'),
  verify: z
    .boolean()
    .default(false)
    .describe(
      'Write nothing: check each file against the shapes of the base, and say which programs load it.',
    ),
})
type ExportOptions = z.input<typeof exportOptions>

type ExportResult = ExportedLora | ExportedRun | LoraReport[] | MergedCheckpoint

/** `kinora export`: a run for other programs, or exporter's commands on LoRA files. */
export const exportCommand: BinCommand = {
  summary:
    'Hands a run over (LoRAs, ComfyUI workflow, model card, Hub), or converts, merges and checks LoRA files.',
  options: exportOptions,
  positionals: ['sources'],
  async *run(
    options: ExportOptions,
    context: RunContext,
  ): AsyncGenerator<StageEvent, ExportResult> {
    const {
      verify,
      out,
      step,
      push,
      private: isPrivate,
      mergeInto,
      ...convert
    } = parseOptions('KINORA', exportOptions, options)
    const { sources, base, expert, layout, dtype } = convert
    const run = await runFolder(sources)
    if (verify) {
      const files =
        run === undefined
          ? sources
          : [...new Set(Object.values((await lorasOf(run, step)) satisfies RunLoras))]
      const reports: LoraReport[] = []
      for (const file of files) {
        reports.push(yield* exporterCommands.verify.run({ file, base, expert }, context))
      }
      return reports
    }
    if (mergeInto !== undefined) {
      if (out === undefined) throw kinoraErrors.NO_OUT()
      const loras = run === undefined ? byExpert(sources, expert) : await lorasOf(run, step)
      const [weight = 1, weightLow] = convert.weights ?? []
      const merge = { base: mergeInto, out, ...loras, weight, weightLow, deltas: convert.deltas }
      return yield* exporterCommands.merge.run(merge, context)
    }
    if (run !== undefined) {
      return yield* exportRunIter(
        { run, out, choice: step, layout, dtype, push, private: isPrivate },
        context,
      )
    }
    if (push !== undefined) throw kinoraErrors.PUSH_NEEDS_RUN()
    if (out === undefined) throw kinoraErrors.NO_OUT()
    return yield* exporterCommands.convert.run({ ...convert, out }, context)
  },
  report: (result: ExportResult) => {
    if (Array.isArray(result)) return result.map(formatLoraReport).join('\n')
    if ('numMerged' in result) return exporterCommands.merge.report(result)
    if ('card' in result) return formatRun(result)
    return exporterCommands.convert.report(result)
  },
}

/** The source where it is the folder of a run. */
async function runFolder([source, ...more]: readonly string[]): Promise<string | undefined> {
  if (source === undefined || more.length > 0) return undefined
  const isFolder = await stat(source).then(
    (entry) => entry.isDirectory(),
    () => false,
  )
  return isFolder ? source : undefined
}

async function lorasOf(run: string, step: 'latest' | 'best' | number): Promise<RunLoras> {
  const job = await readTrainedJob(run)
  if (!job) throw kinoraErrors.NO_RUN(run)
  return (await findLoras(run, job.config.name, step)).loras
}

/** LoRA files by the expert that they are for, told by the option or by their names. */
function byExpert(files: readonly string[], expert: 'high' | 'low' | undefined): RunLoras {
  const loras: RunLoras = {}
  for (const file of files) {
    const known = expert ?? parseLoraFileName(basename(file))?.expert
    if (known === undefined) throw kinoraErrors.WHICH_EXPERT(file)
    if (loras[known] !== undefined) throw kinoraErrors.TWO_FOR_EXPERT(known, loras[known], file)
    loras[known] = file
  }
  return loras
}

function formatRun({ out, loras, workflow, card, previews, pushed }: ExportedRun): string {
  return [
    ...loras.map((lora) => exporterCommands.convert.report(lora).trimEnd()),
    ...(workflow === null ? [] : [`${workflow}: opens in ComfyUI.`]),
    `${card}: model card with ${previews.length} previews.`,
    pushed === null
      ? `All of it is in ${out}; --push owner/name uploads it.`
      : exporterCommands.push.report(pushed).trimEnd(),
  ].join('\n')
}
