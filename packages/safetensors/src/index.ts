export { bytesPerElement, isSafetensorsDType, type SafetensorsDType } from './lib/dtype.ts'
export {
  bf16ToF32,
  f16ToF32,
  f32ToBf16,
  f32ToF16,
  f32ToF8e4m3,
  f8e4m3ToF32,
  f8e5m2ToF32,
} from './lib/float-formats.ts'
export {
  maxHeaderBytes,
  parseHeader,
  parseHeaderLength,
  type SafetensorsHeader,
  type TensorInfo,
} from './lib/header.ts'
export { openSafetensors, type SafetensorsFile } from './lib/open-safetensors.ts'
export { SafetensorsError, type SafetensorsErrorCode } from './lib/safetensors-error.ts'
export {
  writeSafetensors,
  type TensorArray,
  type TensorSource,
  type TensorToWrite,
} from './lib/write-safetensors.ts'
