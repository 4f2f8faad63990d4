import {
  exporterCommands,
  exportLoraOptions,
  formatLoraReport,
  type ExportedLora,
  type LoraReport,
} from '@kinora/exporter'
import { parseOptions, type RunContext, type StageEvent } from '@kinora/stage'
import type { BinCommand } from '@kinora/stage/bin'
import { z } from 'zod'
import { kinoraErrors } from '../lib/errors.ts'

const exportOptions = z.strictObject({
  ...exportLoraOptions.shape,
  out: exportLoraOptions.shape.out.optional(),
  verify: z
    .boolean()
    .default(false)
    .describe(
      'Write nothing: check each file against the shapes of the base, and say which programs load it.',
    ),
})

/** `kinora export`: exporter's conversion, or with --verify its check. Its other commands are in the bin `exporter`. */
export const exportCommand: BinCommand = {
  summary: 'Converts a LoRA file for ComfyUI, diffusers or kohya, merges several, or checks them.',
  options: exportOptions,
  positionals: ['sources'],
  async *run(
    options: z.input<typeof exportOptions>,
    context: RunContext,
  ): AsyncGenerator<StageEvent, ExportedLora | LoraReport[]> {
    const { verify, out, ...convert } = options
    const { sources, base, expert } = parseOptions('KINORA', exportOptions, options)
    if (verify) {
      const reports: LoraReport[] = []
      for (const file of sources) {
        reports.push(yield* exporterCommands.verify.run({ file, base, expert }, context))
      }
      return reports
    }
    if (out === undefined) throw kinoraErrors.NO_OUT()
    return yield* exporterCommands.convert.run({ ...convert, out }, context)
  },
  report: (result: ExportedLora | LoraReport[]) =>
    Array.isArray(result)
      ? result.map(formatLoraReport).join('\n')
      : exporterCommands.convert.report(result),
}
