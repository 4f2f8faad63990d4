import { isCodedError } from '@kinora/stage'

import { openDevice, type OpenDawnOptions, type WgpuDevice } from '../src/node.ts'

let announced = false

/**
 * Opens a device for a test file, or gives undefined, with one printed reason, on a machine without an adapter. With
 * REQUIRE_GPU=1 a missing adapter is a failure.
 */
export async function openTestDevice(
  options: OpenDawnOptions = {},
): Promise<WgpuDevice | undefined> {
  try {
    return await openDevice(options)
  } catch (error) {
    const missing = isCodedError(error, 'WGPU_NO_ADAPTER') || isCodedError(error, 'WGPU_NO_DAWN')
    if (!missing || process.env['REQUIRE_GPU'] === '1') throw error
    // oxlint-disable-next-line no-console -- the one line that says why tests are skipped
    if (!announced) console.warn(`GPU tests are skipped: ${error.message}`)
    announced = true
    return undefined
  }
}
