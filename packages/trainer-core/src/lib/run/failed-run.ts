import { isCodedError, type CodedError } from '@kinora/stage'
import { trainerErrors } from '../errors.ts'
import { knownSpeed, overheadOf } from '../estimate/device-speed.ts'
import { findMilderSettings } from '../estimate/estimate-training.ts'
import { describeBucket, describeRemedy, gib } from '../estimate/tell-estimate.ts'
import { leanPlan } from '../memory/recompute-plan.ts'
import { isDeviceLost } from './device-lost.ts'
import { isDue, saveLoras, saveState } from './save-run.ts'
import type { TrainingRun } from './training-run.ts'

/**
 * Keeps what can be kept of a run that fails, and finds the words for it. Where the device ran out of memory in a step that kept more
 * of its blocks than it must, the run that goes on keeps less.
 *
 * @returns the error to end the run with
 */
export async function failRun(run: TrainingRun, error: unknown): Promise<unknown> {
  // An abort is no failure, and what has no code is a bug: neither is to look like the state of a run.
  if (!isCodedError(error)) return error
  const { device, estimate, recompute, compute, doing } = run
  const { size, inStep } = doing
  const { liveBytes, pooledBytes } = device.memory()
  const held = `${gib(liveBytes)} live, ${gib(pooledBytes)} idle: ${error.message.replace(/\.$/, '')}`
  const planned = describeBucket(estimate, size)
  const whose = outOfMemory(error)
  const keptMore =
    whose === 'device' &&
    inStep !== undefined &&
    (recompute.get(size!)?.keep.length ?? 0) > leanPlan(compute).keep.length
  if (keptMore) recompute.set(size!, leanPlan(compute))
  const isKept = isDeviceLost(error) ? false : await keepState(run)
  let told = error
  if (isDeviceLost(error)) {
    told = trainerErrors.DEVICE_LOST(doing.what, planned, held, { cause: error })
  } else if (whose) {
    const isMilder = keptMore && isKept
    const remedies = whose === 'device' && !isMilder ? await remediesOf(run) : []
    told = trainerErrors.OUT_OF_MEMORY(
      whose,
      doing.what,
      planned,
      held,
      remedies,
      isKept,
      isMilder,
      {
        cause: error,
      },
    )
  }
  if (run.hasBegun) {
    const step = inStep ?? run.step
    await run.metrics.append({ type: 'error', step, ...told.toJSON() }).catch(() => {})
  }
  return told
}

/** Writes what the steps before have come to, unless a step is half applied. A device out of memory mostly gives what it holds. */
async function keepState(run: TrainingRun): Promise<boolean> {
  if (!run.isWhole) return false
  const { device, process, step } = run
  try {
    // What else went wrong is heard out, and idle memory goes: reading takes some.
    await device.sync().catch(() => {})
    await device.makeRoom(Infinity)
    const isMissing = step > run.start.step && step < process.train.steps && step !== run.savedStep
    if (isMissing && isDue(step, process.save.save_every)) await saveLoras(run, { finished: false })
    await saveState(run)
    return true
  } catch {
    return false
  }
}

/** What the run could change and go on with a little less. */
async function remediesOf({ device, setup, estimate }: TrainingRun): Promise<string[]> {
  const milder = await findMilderSettings(setup, estimate, {
    speed: knownSpeed(device.info.adapter),
    overhead: overheadOf(device.info),
  })
  return milder.map(describeRemedy)
}

/** Whose memory an error says is at its end. Whatever backend it was: the codes end alike. */
function outOfMemory({ code }: CodedError): 'device' | 'host' | undefined {
  if (!code.endsWith('_OUT_OF_MEMORY')) return undefined
  return code.endsWith('_HOST_OUT_OF_MEMORY') ? 'host' : 'device'
}
