import type { Device } from '@kinora/kernel-api'
import { isCodedError, type CodedError } from '@kinora/stage'
import { trainerErrors } from '../errors.ts'
import { describeStep, gib } from '../estimate/tell-estimate.ts'
import { leanPlan } from '../memory/recompute-plan.ts'
import { saveState } from './save-run.ts'
import type { TrainingRun } from './training-run.ts'

/**
 * Keeps what can be kept of a run whose step failed: nothing of the step has been applied, so what came before it is worth keeping.
 *
 * @param size of the step's latents
 * @returns the error to end the run with
 */
export async function tellFailedStep(
  run: TrainingRun,
  size: string,
  error: unknown,
): Promise<unknown> {
  const { device, estimate, recompute, compute, metrics, step } = run
  const tell = isOutOfMemory(error)
    ? trainerErrors.OUT_OF_MEMORY
    : isDeviceLost(error)
      ? trainerErrors.DEVICE_LOST
      : undefined
  const told = tell
    ? tell(
        step + 1,
        ...describeStep(estimate, size, recompute.get(size), heldWhen(device, error as CodedError)),
        { cause: error },
      )
    : error
  // The plan was too bold here: the run that goes on keeps less.
  if (isOutOfMemory(error)) recompute.set(size, leanPlan(compute))
  if (isCodedError(error, 'TRAINER_NOT_FINITE')) await saveState(run)
  // A device out of memory mostly still gives what it holds. One that is lost does not, and the last save stays.
  else if (isOutOfMemory(error)) await saveState(run).catch(() => {})
  if (isCodedError(told)) await metrics.append({ type: 'error', step: step + 1, ...told.toJSON() })
  return told
}

// Whatever backend it was: the codes end alike.
const isOutOfMemory = (error: unknown): error is CodedError =>
  isCodedError(error) && error.code.endsWith('_OUT_OF_MEMORY')
const isDeviceLost = (error: unknown): error is CodedError =>
  isCodedError(error) && error.code.endsWith('_DEVICE_LOST')

/** What a device held when something went wrong, and what that was. */
function heldWhen(device: Device, { message }: Error): string {
  const { liveBytes, pooledBytes } = device.memory()
  return `${gib(liveBytes)} live, ${gib(pooledBytes)} idle: ${message.replace(/\.$/, '')}`
}
