import { join } from 'node:path'
import { loraFileName } from '@kinora/lora-files'
import type { StageEvent } from '@kinora/stage'
import { trainerErrors } from '../errors.ts'
import type { Expert } from '../noise/random-streams.ts'
import type { TrainOptions } from '../train-options.ts'
import { listStepSaves } from './lora-saves.ts'
import {
  openTrainingState,
  type SavedState,
  type TrainingState,
  type ValidationHistory,
} from './training-state.ts'

/** Where a run begins. */
export interface Start {
  step: number
  saved: SavedState | undefined
  /** LoRA files to begin from where there is no state. */
  files: Partial<Record<Expert, string>>
  /** Losses on held-out clips up to that step. */
  validation: TrainingState['validation']
}

/** Finds what to go on from, or that there is nothing. */
export async function* findStart(
  stateFile: string,
  out: string,
  name: string,
  trained: readonly Expert[],
  resume: NonNullable<TrainOptions['resume']>,
): AsyncGenerator<StageEvent, Start> {
  const fresh: Start = { step: 0, saved: undefined, files: {}, validation: {} }
  if (resume === 'never') return fresh
  const saved = await openTrainingState(stateFile)
  if (!saved && resume === 'latest') return fresh
  const validation = saved?.state.validation ?? {}
  if (saved && (resume === 'latest' || resume === saved.state.step)) {
    yield { type: 'note', message: `Going on from step ${saved.state.step}.` }
    return { step: saved.state.step, saved, files: {}, validation }
  }
  await saved?.close()

  const files: Partial<Record<Expert, string>> = {}
  let step = 0
  for (const expert of trained) {
    const best = bestOf(validation[expert] ?? [])
    if (resume === 'best' && !best) throw trainerErrors.NO_SUCH_SAVE('best checkpoint', out)
    const wanted = resume === 'best' ? best!.step : (resume as number)
    const file =
      resume === 'best'
        ? join(out, 'best', loraFileName(name, expert))
        : (await listStepSaves(out, name, expert)).find((save) => save.step === wanted)?.file
    if (file === undefined) {
      throw trainerErrors.NO_SUCH_SAVE(`${expert}-noise LoRA of step ${wanted}`, out)
    }
    files[expert] = file
    step = Math.max(step, wanted)
  }
  yield {
    type: 'warning',
    code: 'TRAINER_RESUME_WITHOUT_STATE',
    message: `The LoRAs of step ${step} are there, but not the optimiser's state: its moments begin at zero.`,
    fix: 'Resume from latest to continue exactly.',
  }
  const until = (history: ValidationHistory = []): ValidationHistory =>
    history.filter((each) => each.step <= step)
  return {
    step,
    saved: undefined,
    files,
    validation: { high: until(validation.high), low: until(validation.low) },
  }
}

/** The least loss of a history, and its step; that before training is no checkpoint. */
export function bestOf(history: ValidationHistory): ValidationHistory[number] | undefined {
  const candidates = history.filter(({ step }) => step > 0)
  return candidates.length > 0 ? candidates.reduce((a, b) => (b.loss < a.loss ? b : a)) : undefined
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

/** Settings that differ between two jobs, as `train.lr 0.0001 → 0.00005`; values are plain JSON. */
export function changedSettings(before: unknown, now: unknown, path = ''): string[] {
  const isObject = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null
  if (isObject(before) && isObject(now)) {
    const keys = [...new Set([...Object.keys(before), ...Object.keys(now)])]
    return keys.flatMap((key) =>
      changedSettings(before[key], now[key], path === '' ? key : `${path}.${key}`),
    )
  }
  if (before === now) return []
  const text = (value: unknown): string => JSON.stringify(value) ?? 'nothing'
  return [`${path.replace(/^process\.0\./, '')} ${text(before)} → ${text(now)}`]
}
