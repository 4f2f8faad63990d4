import type { StageEvent } from '@kinora/stage'
import { adaptersOf } from '../lora-adapters.ts'
import type { Expert } from '../noise/random-streams.ts'
import { bestOf } from '../resume/find-start.ts'
import { writeBestLora } from '../resume/lora-saves.ts'
import { finishedParams } from '../trained-expert.ts'
import { measureValidation, type ValidationLoss } from '../validation.ts'
import { metadataOf, readWeights } from './save-run.ts'
import { expertOf, makeRoomFor, type TrainingRun } from './training-run.ts'

/** Loss of both experts on the clips held out; the best LoRA so far is kept apart. */
export async function* validateRun(run: TrainingRun): AsyncGenerator<StageEvent> {
  const { device, data, process, boundary, validation, step } = run
  const isMeasured = validation[run.turns.trained[0]!]?.at(-1)?.step === step
  if (data.heldOut.length === 0 || isMeasured) return
  const { bands: numBands } = process.kinora.validation
  const found: Partial<Record<Expert, ValidationLoss>> = {}
  const histories: typeof validation = {}
  const doing = { what: `in validation at step ${step}` }
  for (const [expert, learner] of run.learners) {
    run.doing = doing
    const transformer = await expertOf(run, expert)
    const { params, release } = finishedParams(learner)
    const measured = await measureValidation(
      device,
      transformer,
      expert,
      adaptersOf(learner.lora, params),
      data.heldOut,
      run.microBatches,
      {
        boundary,
        numBands,
        makeRoom: async (size) => {
          run.doing = { ...doing, size }
          await makeRoomFor(run, size)
        },
      },
    ).finally(release)
    found[expert] = measured
    const before = bestOf(validation[expert] ?? [])
    const history = [...(validation[expert] ?? []), { step, loss: measured.loss }]
    histories[expert] = history
    const values = { [`${expert}Loss`]: measured.loss }
    yield { type: 'progress', phase: 'validation', done: history.length, item: expert, values }
    if (step === 0 || (before && before.loss <= measured.loss)) continue
    const weights = await readWeights(learner)
    await writeBestLora(run.out, run.name, expert, weights, process, await metadataOf(run))
  }
  // Of both or of none: what is half measured would pass for measured where the run goes on.
  Object.assign(validation, histories)
  await run.metrics.append({ type: 'validation', step, experts: found })
}
