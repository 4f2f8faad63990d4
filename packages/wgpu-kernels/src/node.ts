export { openDevice, type OpenDawnOptions } from './lib/dawn/open-device.ts'
