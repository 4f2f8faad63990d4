export type {
  Device,
  DeviceInfo,
  HostArray,
  MemoryUse,
  OpenDevice,
  OpenDeviceOptions,
  ParkedTensor,
  ParkOptions,
} from './lib/device.ts'
export { blockStateNumbers, stateBlockSize } from './lib/block-state.ts'
export { dropoutHash, dropoutKey } from './lib/dropout-hash.ts'
export { bf16FromF32, f16FromF32, f32FromBf16, f32FromF16 } from './lib/half-floats.ts'
export type {
  AdamW8bitSlot,
  AdamWOptions,
  AdamWSlot,
  Adapter,
  AttentionOptions,
  AttentionResult,
  BlockState,
  CheckpointOptions,
  Conv3dOptions,
  DropoutOptions,
  LayerNormOptions,
  LinearGradOptions,
  LinearGrads,
  LinearOptions,
  LossKind,
  LossOptions,
  NormOptions,
  Ops,
  QuantizeOptions,
} from './lib/ops.ts'
export { normals, uniforms } from './lib/random.ts'
export {
  bytesPerElement,
  defaultGroupSize,
  isPackedWeight,
  numElements,
  type DType,
  type PackedFormat,
  type PackedWeight,
  type Tensor,
  type Weight,
} from './lib/tensor.ts'
