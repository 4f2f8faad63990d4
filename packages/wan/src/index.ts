export {
  parseSchedulerConfig,
  parseTextEncoderConfig,
  parseTransformerConfig,
  parseVaeConfig,
  type SchedulerConfig,
  type TextEncoderConfig,
  type TransformerConfig,
  type VaeConfig,
} from './lib/checkpoint/configs.ts'
export { fingerprintFiles } from './lib/checkpoint/fingerprint.ts'
export type { DownloadProgress, HubOptions } from './lib/checkpoint/hub-snapshot.ts'
export {
  loadTextEncoder,
  loadTokenizer,
  loadTransformer,
  loadVae,
  storedPacking,
  type LoadOptions,
  type TextEncoderOptions,
} from './lib/checkpoint/load-networks.ts'
export {
  openCheckpoint,
  type CheckpointPart,
  type OpenCheckpointOptions,
  type WanCheckpoint,
} from './lib/checkpoint/open-checkpoint.ts'
export type { CheckpointConfigs } from './lib/checkpoint/read-configs.ts'
export { SafetensorsWeights } from './lib/checkpoint/safetensors-weights.ts'
export type { TensorTable } from './lib/checkpoint/tensor-table.ts'
export type { WeightFiles } from './lib/checkpoint/weight-files.ts'
export type { WeightDType, WeightSource } from './lib/checkpoint/weight-source.ts'
export { buildCondition, conditionVideo } from './lib/condition.ts'
export { checkpointErrors, wanErrors } from './lib/errors.ts'
export { createLora, type CreateLoraOptions } from './lib/lora/create-lora.ts'
export {
  checkLoraModules,
  joinAdapters,
  uploadLora,
  type DeviceLora,
  type UploadLoraOptions,
} from './lib/lora/device-lora.ts'
export {
  adaptedLinear,
  type KroneckerAdapter,
  type LowRankAdapter,
  type ModuleAdapter,
} from './lib/lora/module-adapter.ts'
export {
  measureActivationSizes,
  readActivationSizes,
  writeActivationSizes,
  type ActivationSizes,
} from './lib/quantize/activation-sizes.ts'
export { fetchRecoveryAdapter } from './lib/quantize/fetch-recovery-adapter.ts'
export {
  correctError,
  type CorrectionOptions,
  type LowRankCorrection,
} from './lib/quantize/low-rank-error.ts'
export { quantizeOptions, type QuantizeOptions } from './lib/quantize/options.ts'
export {
  quantizeCheckpoint,
  quantizeCheckpointIter,
  type QuantizeContext,
  type QuantizeResult,
} from './lib/quantize/quantize-checkpoint.ts'
export { packedBytes, quantizeSchemes, type QuantizeScheme } from './lib/quantize/schemes.ts'
export { createTextEncoder, type WanTextEncoder } from './lib/text-encoder/text-encoder.ts'
export { createUmt5, umt5Tensors, type Umt5, type Umt5Options } from './lib/text-encoder/umt5.ts'
export { cleanPrompt } from './lib/tokenizer/clean-prompt.ts'
export { createTokenizer, type WanTokenizer } from './lib/tokenizer/tokenizer.ts'
export {
  createTransformer,
  transformerLoraTargets,
  type LoraTarget,
  type TransformerInput,
  type TransformerOptions,
  type TransformerRun,
  type WanTransformer,
} from './lib/transformer/transformer.ts'
export { streamedBlocks } from './lib/transformer/weight-placement.ts'
export { transformerTensors } from './lib/transformer/transformer-tensors.ts'
export { vaeTensors } from './lib/vae/vae-layout.ts'
export { createVae, logvarRange, type ChunkOptions, type WanVae } from './lib/vae/vae.ts'
