import type { Device } from '@kinora/kernel-api'

/**
 * The device that tests run on: `KINORA_TEST_DEVICE` (`wgpu` or `cpu`), else WebGPU where an adapter opens, else the processor.
 * With `REQUIRE_GPU=1` a missing adapter is a failure.
 */
export async function openTestDevice(): Promise<Device> {
  const asked = process.env['KINORA_TEST_DEVICE']
  if (asked !== 'cpu') {
    try {
      const { openDevice } = await import('@kinora/wgpu-kernels/node')
      return await openDevice()
    } catch (error) {
      if (asked === 'wgpu' || process.env['REQUIRE_GPU'] === '1') throw error
    }
  }
  const { openDevice } = await import('@kinora/cpu-kernels')
  return openDevice()
}
