export { cpuKernelsErrors } from './lib/errors.ts'
export { openDevice, type CpuDevice, type CpuDeviceOptions } from './lib/open-device.ts'
