import { access, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { loraFileName } from '@kinora/lora-files'
import { drain, lockFolder, type StageEvent } from '@kinora/stage'
import { bestOf } from './resume/find-start.ts'
import { makePreviews } from './run/make-previews.ts'
import { failRun } from './run/failed-run.ts'
import { isDue, saveLoras, saveState } from './run/save-run.ts'
import { takeStep } from './run/take-step.ts'
import { beginRun, closeRun, openRun, type TrainingRun } from './run/training-run.ts'
import { validateRun } from './run/validate-run.ts'
import type { TrainContext, TrainOptions, TrainResult } from './train-options.ts'
import { judgeValidation } from './validation.ts'

/**
 * Trains the LoRAs of a job. Everything is a function of the job, the seed and the step, so a run that was interrupted at any
 * point and goes on leaves the same bytes as one that was not.
 *
 * Aborting the signal ends the run at the next step, after its state is written.
 */
export async function* trainIter(
  options: TrainOptions,
  context: TrainContext,
): AsyncGenerator<StageEvent, TrainResult> {
  const {
    name,
    process: [process],
  } = options.job.config
  const { train, save, sample, logging, kinora } = process
  const out = options.out ?? join(process.training_folder, name)
  await using _lock = await lockFolder(out)
  const run = yield* openRun(options, context, out)
  const losses: TrainResult['losses'] = {}
  try {
    yield* beginRun(run)
    yield { type: 'started', phase: 'train', total: train.steps }
    if ((run.step <= 1 && !train.skip_first_sample) || train.force_first_sample) {
      yield* makePreviews(run)
    }
    if (run.step === 0) yield* validateRun(run)

    while (run.step < train.steps) {
      const taken = await takeStep(run)
      const { step, expert, loss, gradNorm, learningRate } = taken
      losses[expert] = loss
      yield {
        type: 'progress',
        phase: 'train',
        done: step,
        total: train.steps,
        item: `${expert} noise`,
        values: { loss, gradNorm, learningRate },
      }
      const isLast = step === train.steps
      if (isDue(step, logging.log_every) || step === 1 || isLast) await run.metrics.append(taken)
      if (isLast) break
      if (isDue(step, kinora.validation.every ?? save.save_every)) yield* validateRun(run)
      if (isDue(step, save.save_every) || (await takeRequest(out, 'save-now'))) {
        // The state comes last: a run killed in between does this step, and so its files, once more.
        await saveLoras(run, { finished: false })
        await saveState(run)
      }
      const previewDue = isDue(step, sample.sample_every) && step >= sample.sample_start_step
      if (previewDue || (await takeRequest(out, 'sample-now'))) yield* makePreviews(run)
      if (context.signal?.aborted) {
        await saveState(run)
        const message = `Stopped at step ${step}; the same command goes on from there.`
        yield { type: 'note', message }
        context.signal.throwIfAborted()
      }
    }

    yield* validateRun(run)
    const files = await saveLoras(run, { finished: true })
    await saveState(run)
    if (run.start.step < train.steps) yield* makePreviews(run)
    return { step: run.step, out, files, losses, best: yield* judgeRun(run) }
  } catch (error) {
    throw await failRun(run, error)
  } finally {
    await closeRun(run)
  }
}

/** What validation says of the run, and each expert's best step. */
function* judgeRun({
  turns,
  validation,
  out,
  name,
}: TrainingRun): Generator<StageEvent, TrainResult['best']> {
  const best: TrainResult['best'] = {}
  for (const expert of turns.trained) {
    const history = validation[expert] ?? []
    const verdict = judgeValidation(expert, history)
    if (verdict) yield { type: 'note', message: verdict }
    const found = bestOf(history)
    if (found) best[expert] = { ...found, file: join(out, 'best', loraFileName(name, expert)) }
  }
  return best
}

/** `trainIter` without its events. */
export function train(options: TrainOptions, context: TrainContext): Promise<TrainResult> {
  return drain(trainIter(options, context))
}

/** A file of this name in the output folder asks for something after the step at hand. */
async function takeRequest(out: string, request: 'save-now' | 'sample-now'): Promise<boolean> {
  const file = join(out, request)
  try {
    await access(file)
  } catch {
    return false
  }
  await rm(file, { force: true })
  return true
}
