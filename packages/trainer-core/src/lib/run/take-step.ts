import { sizeName } from '../estimate/training-setup.ts'
import { leanPlan } from '../memory/recompute-plan.ts'
import type { StepMetrics } from '../metrics.ts'
import type { MicroBatch } from '../noise/prepare-micro-batch.ts'
import { createDropout, learningRateAt, stepOptions } from '../step-settings.ts'
import { trainStep } from '../train-step.ts'
import { stepsOfExperts, turnAt } from '../turns.ts'
import { expertOf, makeRoomFor, type TrainingRun } from './training-run.ts'

/** Trains the step at hand, and counts it. */
export async function takeStep(run: TrainingRun): Promise<StepMetrics> {
  const { process, device, learners, recompute, compute, step, turns } = run
  const { steps } = process.train
  const began = performance.now()
  device.resetPeak()
  const { expert, expertStep } = turnAt(step, turns)
  run.prepared ??= prepareBatches(run, step)
  run.doing = { what: `bringing the ${expert}-noise expert to it for step ${step + 1}` }
  const transformer = await expertOf(run, expert)
  const loaded = performance.now()
  const batches = await run.prepared
  const { shape } = batches[0]!
  const size = sizeName(shape.slice(2))
  run.doing = { what: `in step ${step + 1}`, size, inStep: step + 1 }
  await makeRoomFor(run, size)
  const ready = performance.now()
  // The next step's batches are made while the device works on this one's.
  run.prepared = step + 1 < steps ? prepareBatches(run, step + 1) : undefined
  const learningRate = learningRateAt(expertStep, stepsOfExperts(steps, turns)[expert], process)
  const learner = learners.get(expert)!
  const { seconds, ...numbers } = await trainStep(device, transformer, learner, batches, step + 1, {
    ...stepOptions(
      process,
      learningRate,
      createDropout(process, run.random, learner, expertStep),
      ([, , ...latents]) => recompute.get(sizeName(latents)) ?? leanPlan(compute),
    ),
    beforeUpdate: () => (run.isWhole = false),
  })
  run.isWhole = false
  learner.average?.update(learner.lora.params)
  // An update that waits in one batch with the next step's work would be dropped with it, where that finds no room.
  await device.sync()
  run.step++
  run.isWhole = true
  const memory = device.memory()
  return {
    type: 'step',
    step: run.step,
    expert,
    expertStep: expertStep + 1,
    ...numbers,
    learningRate,
    timesteps: batches.flatMap((batch) => batch.timesteps),
    shape,
    seconds: {
      load: (loaded - began) / 1000,
      data: (ready - loaded) / 1000,
      ...seconds,
      total: (performance.now() - began) / 1000,
    },
    memory: {
      liveMiB: Math.round(memory.liveBytes / 2 ** 20),
      peakMiB: Math.round(memory.peakBytes / 2 ** 20),
    },
  }
}

/** Reads and noises the micro-batches of a step. */
function prepareBatches(
  { turns, process, microBatches, data }: TrainingRun,
  step: number,
): Promise<MicroBatch[]> {
  const { gradient_accumulation: numBatches } = process.train
  const { expert, expertStep } = turnAt(step, turns)
  const prepared = Promise.all(
    Array.from({ length: numBatches }, (_, i) =>
      microBatches.prepare(
        expert,
        data.batchOf(expert, expertStep, i),
        (expertStep * numBatches + i) * data.largestBatch,
      ),
    ),
  )
  // It is awaited a step later; until then its failure is nobody's.
  prepared.catch(() => {})
  return prepared
}
