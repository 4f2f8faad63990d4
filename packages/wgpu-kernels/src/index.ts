export type {
  AdapterDescription,
  AdapterProfile,
  ProfileOverrides,
  SubgroupMatrixConfig,
} from './lib/device/adapter-profile.ts'
export type { KernelTime } from './lib/device/command-queue.ts'
export { createDevice, WgpuDevice, type CreateDeviceOptions } from './lib/device/wgpu-device.ts'
export type { PrepareOptions } from './lib/self-test/prove-units.ts'
export type { AdapterRecord, TuningCache } from './lib/tuning/tuning-cache.ts'
export { wgpuErrors } from './lib/errors.ts'
export { requiredFeatures, requiredLimits } from './lib/device/device-request.ts'
