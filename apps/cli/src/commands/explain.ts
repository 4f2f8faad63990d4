import { explainRun, formatDiagnosis, type RunDiagnosis } from '@kinora/run-log'
import { parseOptions, type StageEvent } from '@kinora/stage'
import type { BinCommand } from '@kinora/stage/bin'
import { z } from 'zod'
import { readRun } from '../metrics/read-run.ts'

const explainOptions = z.strictObject({
  run: z.string().min(1).describe('Folder of a run, finished or under way: training_folder/name.'),
})

/** `kinora explain`: what a run's metrics show, in plain words. */
export const explainCommand: BinCommand = {
  summary: 'Says how a run does: improving, flat or overfitting, and what to change.',
  options: explainOptions,
  positionals: ['run'],
  async *run(options: z.input<typeof explainOptions>): AsyncGenerator<StageEvent, RunDiagnosis> {
    const { run } = parseOptions('KINORA', explainOptions, options)
    const files = await readRun(run)
    yield { type: 'note', message: `Read ${files.entries.length} entries of ${run}/metrics.jsonl.` }
    return explainRun(files)
  },
  report: formatDiagnosis,
}
