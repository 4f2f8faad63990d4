import { trainingMetadata, type LoraWeights } from '@kinora/lora-files'
import { readLoraWeights } from '../lora-adapters.ts'
import type { Expert } from '../noise/random-streams.ts'
import { optimizerIdentity } from '../optim/optimizers.ts'
import { packageVersion } from '../package-version.ts'
import { pruneStepSaves, writeLoras } from '../resume/lora-saves.ts'
import { writeTrainingState } from '../resume/training-state.ts'
import {
  describeTrainedExpert,
  finishedParams,
  stateTensors,
  type TrainedExpert,
} from '../trained-expert.ts'
import { stepsOfExperts } from '../turns.ts'
import { stateFileOf, type TrainingRun } from './training-run.ts'

/** Writes all that going on from this step needs. */
export function saveState(run: TrainingRun): Promise<void> {
  const { device, identity, step, recompute, validation, process } = run
  run.doing = { what: `saving step ${step}` }
  const eachLearner = <T>(value: (learner: TrainedExpert) => T): Partial<Record<Expert, T>> =>
    Object.fromEntries(Array.from(run.learners, ([expert, learner]) => [expert, value(learner)]))
  return writeTrainingState(
    stateFileOf(run.out),
    device,
    {
      version: 1,
      step,
      ...identity,
      recompute: Object.fromEntries(recompute),
      validation,
      experts: eachLearner((learner) =>
        describeTrainedExpert(learner, optimizerIdentity(process.train)),
      ),
    },
    eachLearner(stateTensors),
  )
}

/** Writes the LoRA files of this step, or the finished ones. */
export async function saveLoras(
  run: TrainingRun,
  { finished }: { finished: boolean },
): Promise<Partial<Record<Expert, string>>> {
  const { out, name, process, step } = run
  run.doing = { what: `saving step ${step}` }
  const files = await writeLoras(
    out,
    name,
    await readLoras(run),
    process,
    await metadataOf(run),
    finished ? undefined : step,
  )
  for (const expert of run.turns.trained) {
    await pruneStepSaves(out, name, expert, process.save.max_step_saves_to_keep)
  }
  run.savedStep = step
  await run.metrics.append({ type: 'save', step, files: Object.values(files) })
  return files
}

/** The LoRAs as they are saved and previewed. */
export async function readLoras(run: TrainingRun): Promise<Partial<Record<Expert, LoraWeights>>> {
  const loras: Partial<Record<Expert, LoraWeights>> = {}
  for (const [expert, learner] of run.learners) loras[expert] = await readWeights(learner)
  return loras
}

/** One of them. */
export async function readWeights(learner: TrainedExpert): Promise<LoraWeights> {
  const { params, release } = finishedParams(learner)
  try {
    return await readLoraWeights(learner.lora.device, learner.lora, params)
  } finally {
    release()
  }
}

export const isDue = (step: number, every: number): boolean => every > 0 && step % every === 0

/** What a LoRA file of this step says of itself. */
export async function metadataOf({
  name,
  step,
  process,
  job,
  turns,
  data,
}: TrainingRun): Promise<Record<string, string>> {
  const epoch = stepsOfExperts(step, turns)[turns.trained[0]!] / data.normal.batchesPerEpoch
  return trainingMetadata({
    name,
    step,
    epoch: Math.floor(epoch * process.train.gradient_accumulation),
    triggerWord: process.trigger_word,
    meta: job.meta,
    softwareVersion: await packageVersion(),
  })
}
