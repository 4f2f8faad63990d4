import { join } from 'node:path'
import { isCodedError, type StageEvent } from '@kinora/stage'
import { readLoras } from './save-run.ts'
import type { TrainingRun } from './training-run.ts'

/** Has previews made of the LoRAs as they are. What goes wrong is a warning: training goes on. */
export async function* makePreviews(run: TrainingRun): AsyncGenerator<StageEvent> {
  const { process, preview, base, metrics, signal, step, checkpoint, boundary } = run
  run.sizeBefore = undefined
  const { sample } = process
  const chosen = step === 0 ? (process.first_sample ?? sample) : sample
  if (!preview || process.train.disable_sampling || chosen.samples.length === 0) return
  await base.makeRoom()
  yield { type: 'note', message: `Making previews at step ${step}.` }
  try {
    const made = await preview(
      {
        step,
        sample: chosen,
        loras: await readLoras(run),
        outDir: join(run.out, 'samples'),
        checkpoint,
        boundary,
        transformers: base.loaded,
      },
      { signal },
    )
    await metrics.append({ type: 'preview', step, ...made })
  } catch (error) {
    signal?.throwIfAborted()
    const { message } = error as Error
    const fix = isCodedError(error) ? error.fix : 'Training goes on without this preview.'
    await metrics.append({ type: 'preview', step, failed: message })
    yield { type: 'warning', code: 'TRAINER_PREVIEW_FAILED', message, fix }
  }
}
