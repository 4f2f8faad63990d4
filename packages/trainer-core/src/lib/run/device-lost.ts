import { isCodedError } from '@kinora/stage'

/** Whether there is no device any more. Whatever backend it was: the codes end alike. */
export function isDeviceLost(error: unknown): boolean {
  return isCodedError(error) && error.code.endsWith('_DEVICE_LOST')
}
