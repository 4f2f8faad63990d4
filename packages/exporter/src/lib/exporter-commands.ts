import type { RunContext, StageEvent } from '@kinora/stage'
import type { BinCommand, BinDefinition } from '@kinora/stage/bin'
import { exporterErrors } from './errors.ts'
import { exportLoraIter, type ExportedLora } from './export-lora.ts'
import { mergeCheckpointIter, type MergedCheckpoint } from './merge-checkpoint.ts'
import { writeModelCardIter } from './model-card.ts'
import {
  exportLoraOptions,
  exportWorkflowOptions,
  mergeCheckpointOptions,
  pushToHubOptions,
  verifyLoraOptions,
  writeModelCardOptions,
  type VerifyLoraOptions,
} from './options.ts'
import { pushToHubIter, type PushedFolder } from './push-to-hub.ts'
import { verifyLoraIter, type LoraReport } from './verify-lora.ts'
import { exportWorkflowIter } from './workflow/export-workflow.ts'

/** The commands of exporter by name, for its own bin and for a program that holds them. */
export const exporterCommands = {
  convert: {
    summary: 'Converts a LoRA to another layout, format or rank, or merges several into one.',
    options: exportLoraOptions,
    positionals: ['sources'],
    run: exportLoraIter,
    report: formatExported,
  },
  verify: {
    summary: 'Checks a LoRA against the shapes of a base model, and says which programs load it.',
    options: verifyLoraOptions,
    positionals: ['file'],
    run: verifyOrFail,
    report: formatLoraReport,
  },
  merge: {
    summary: 'Adds LoRAs to the weights of a base model, shard by shard.',
    options: mergeCheckpointOptions,
    positionals: ['base', 'out'],
    run: mergeCheckpointIter,
    report: ({ out, numMerged, sizeBytes }: MergedCheckpoint) =>
      `${out}: ${Object.entries(numMerged)
        .map(
          ([expert, count]) =>
            `${count} linears${expert === 'one' ? '' : ` of the ${expert}-noise expert`}`,
        )
        .join(', ')} merged, ${gigabytes(sizeBytes)}.\n`,
  },
  workflow: {
    summary: 'Writes a ComfyUI workflow: image to video with both experts and their LoRAs.',
    options: exportWorkflowOptions,
    positionals: ['out'],
    run: exportWorkflowIter,
  },
  card: {
    summary: 'Writes a model card (README.md) for the Hub.',
    options: writeModelCardOptions,
    run: writeModelCardIter,
  },
  push: {
    summary: 'Uploads a folder to a repository on the Hub; the token comes from HF_TOKEN alone.',
    options: pushToHubOptions,
    positionals: ['folder'],
    run: pushToHubIter,
    report: ({ url, numFiles, commit }: PushedFolder) =>
      commit === null
        ? `${url} has all ${numFiles} files already.\n`
        : `${numFiles} files are at ${url}, commit ${commit.slice(0, 8)}.\n`,
  },
} satisfies Record<string, BinCommand>

/** The program of this package. */
export const exporterProgram: BinDefinition = {
  name: 'exporter',
  summary: 'LoRA files of Wan 2.2: convert, merge, verify, and hand over to ComfyUI and diffusers.',
  options: exporterCommands,
}

/** On the command line a LoRA that does not fit is a failure, after its report is told. */
async function* verifyOrFail(
  options: VerifyLoraOptions,
  context: RunContext,
): AsyncGenerator<StageEvent, LoraReport> {
  const report = yield* verifyLoraIter(options, context)
  const problems = report.experts.flatMap((expert) => expert.problems)
  if (problems.length > 0) {
    const more = problems.length - 10
    const shown = [...problems.slice(0, 10), ...(more > 0 ? [`and ${more} more.`] : [])]
    throw exporterErrors.DOES_NOT_FIT(report.file, report.base, shown)
  }
  return report
}

function formatExported(result: ExportedLora): string {
  const { file, layout, dtype, numModules, rank, kept, sizeBytes } = result
  const ranks = rank.min === rank.max ? `rank ${rank.max}` : `rank ${rank.min} to ${rank.max}`
  const size = sizeBytes === null ? 'not written' : `${(sizeBytes / 1e6).toFixed(1)} MB`
  const lines = [`${file}: ${layout}, ${dtype}, ${numModules} modules, ${ranks}, ${size}.`]
  if (kept !== null) {
    lines.push(
      `The lower rank keeps ${percent(kept.mean)} of the change, ${percent(kept.min)} in the worst module.`,
    )
  }
  return `${lines.join('\n')}\n`
}

/** A report as a person reads it. */
export function formatLoraReport(report: LoraReport): string {
  const lines = [
    `${report.file}: ${report.layout} layout, ${(report.sizeBytes / 1e6).toFixed(1)} MB`,
    '',
  ]
  for (const {
    expert,
    numModules,
    rank,
    dtypes,
    alphas,
    numUntouched,
    problems,
  } of report.experts) {
    const ranks = rank.min === rank.max ? String(rank.max) : `${rank.min} to ${rank.max}`
    lines.push(
      `${expert === null ? 'One expert' : `The ${expert}-noise expert`}: ${numModules} modules, rank ${ranks}, ${dtypes.join(' and ')}, ${alphas === 'none' ? 'scale 1' : alphas === 'all' ? 'alpha stored' : 'alpha stored for some'}`,
      problems.length === 0
        ? `  fits ${report.base}${numUntouched === 0 ? ', every linear of every block' : `, ${numUntouched} linears left alone`}`
        : `  does not fit ${report.base}:`,
      ...problems.map((problem) => `  - ${problem}`),
    )
  }
  const width = Math.max(...report.programs.map(({ program }) => program.length))
  lines.push('')
  for (const { program, loads, why } of report.programs) {
    lines.push(`${program.padEnd(width)}  ${verdicts[loads].padEnd(16)}  ${why}`)
  }
  if (report.notes.length > 0) lines.push('', ...report.notes)
  return `${lines.join('\n')}\n`
}

const verdicts = {
  yes: 'loads',
  no: 'does not load',
  'after-conversion': 'after conversion',
  unknown: 'not known',
} as const

function percent(value: number): string {
  return `${(100 * value).toFixed(1)} %`
}

function gigabytes(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${(bytes / 1e6).toFixed(1)} MB`
}
