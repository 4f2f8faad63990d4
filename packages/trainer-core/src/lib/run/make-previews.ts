import { join } from 'node:path'
import { isCodedError, type StageEvent } from '@kinora/stage'
import { isDeviceLost } from './device-lost.ts'
import { readLoras } from './save-run.ts'
import type { TrainingRun } from './training-run.ts'

/** Has previews made of the LoRAs as they are. What goes wrong is a warning: training goes on, where there is a device to do so. */
export async function* makePreviews(run: TrainingRun): AsyncGenerator<StageEvent> {
  const { process, preview, base, room, device, metrics, signal, step, checkpoint, boundary } = run
  const { sample, train } = process
  const chosen = step === 0 ? (process.first_sample ?? sample) : sample
  if (!preview || train.disable_sampling || chosen.samples.length === 0) return
  run.doing = { what: `making previews at step ${step}` }
  yield { type: 'note', message: `Making previews at step ${step}.` }
  try {
    await base.makeRoom()
    await room.makeForOther()
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
    // What went wrong late is the preview's too, not the next step's.
    await device.sync()
    await metrics.append({ type: 'preview', step, ...made })
  } catch (error) {
    signal?.throwIfAborted()
    const lost = isDeviceLost(error) ? error : await device.sync().catch((late: unknown) => late)
    if (isDeviceLost(lost) && step < train.steps) throw lost
    const { message } = error as Error
    const fix = isCodedError(error) ? error.fix : 'Training goes on without this preview.'
    await metrics.append({ type: 'preview', step, failed: message })
    yield { type: 'warning', code: 'TRAINER_PREVIEW_FAILED', message, fix }
    if (isDeviceLost(lost)) return
    // Buffers that the device had no room for must not come back from among the idle ones.
    await base.makeRoom()
    await room.makeForOther()
  }
}
