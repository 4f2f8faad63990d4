export { openDevice, type OpenDawnOptions } from './lib/dawn/open-device.ts'
export type { WgpuDevice } from './lib/device/wgpu-device.ts'
