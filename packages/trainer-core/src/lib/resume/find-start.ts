import type { StageEvent } from '@kinora/stage'
import { trainerErrors } from '../errors.ts'
import type { Expert } from '../noise/random-streams.ts'
import type { TrainOptions } from '../train-options.ts'
import { listStepSaves } from './lora-saves.ts'
import { openTrainingState, type SavedState, type TrainingState } from './training-state.ts'

/** Where a run begins. */
export interface Start {
  step: number
  saved: SavedState | undefined
  /** LoRA files to begin from where there is no state. */
  files: Partial<Record<Expert, string>>
}

/** Finds what to go on from, or that there is nothing. */
export async function* findStart(
  stateFile: string,
  out: string,
  name: string,
  trained: readonly Expert[],
  resume: NonNullable<TrainOptions['resume']>,
): AsyncGenerator<StageEvent, Start> {
  const fresh: Start = { step: 0, saved: undefined, files: {} }
  if (resume === 'never') return fresh
  const saved = await openTrainingState(stateFile)
  if (resume === 'latest') {
    if (!saved) return fresh
    yield { type: 'note', message: `Going on from step ${saved.state.step}.` }
    return { step: saved.state.step, saved, files: {} }
  }
  const step = resume === 'best' ? bestStep(saved) : resume
  if (step === undefined) {
    await saved?.close()
    throw trainerErrors.NO_SUCH_SAVE('best checkpoint', out)
  }
  if (saved?.state.step === step) return { step, saved, files: {} }
  await saved?.close()
  const files: Partial<Record<Expert, string>> = {}
  for (const expert of trained) {
    const save = (await listStepSaves(out, name, expert)).find((each) => each.step === step)
    if (!save) throw trainerErrors.NO_SUCH_SAVE(`${expert}-noise LoRA of step ${step}`, out)
    files[expert] = save.file
  }
  yield {
    type: 'warning',
    code: 'TRAINER_RESUME_WITHOUT_STATE',
    message: `Step ${step} has LoRA files but no optimiser state: its moments begin at zero.`,
    fix: 'Resume from latest to continue exactly.',
  }
  return { step, saved: undefined, files }
}

function bestStep(saved: SavedState | undefined): number | undefined {
  const steps = Object.values(saved?.state.best ?? {}).map(
    (best) => (best as { step: number }).step,
  )
  return steps.length > 0 ? Math.max(...steps) : undefined
}

/** What must not change between the parts of a run. */
export function checkIdentity(
  before: TrainingState | undefined,
  now: { seed: number; checkpoint: string; boundary: number },
): void {
  if (!before) return
  for (const what of ['checkpoint', 'seed', 'boundary'] as const) {
    if (before[what] !== now[what]) {
      throw trainerErrors.RESUME_MISMATCH(what, String(before[what]), String(now[what]))
    }
  }
}
