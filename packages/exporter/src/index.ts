export { exporterErrors } from './lib/errors.ts'
export { exportLora, exportLoraIter, type ExportedLora } from './lib/export-lora.ts'
export { exporterCommands, formatLoraReport } from './lib/exporter-commands.ts'
export {
  loraKeys,
  wan22I2vA14b,
  wanTensors,
  type LoraKeys,
  type WanSizes,
  type WanTensor,
} from './lib/key-maps/wan-tensors.ts'
export { concatenate, reduceRank, type ReducedModule, type WeightedModule } from './lib/low-rank.ts'
export {
  mergeCheckpoint,
  mergeCheckpointIter,
  type MergedCheckpoint,
} from './lib/merge-checkpoint.ts'
export {
  formatModelCard,
  writeModelCard,
  writeModelCardIter,
  type CardFacts,
  type CardFile,
} from './lib/model-card.ts'
export {
  exportLoraOptions,
  exportWorkflowOptions,
  mergeCheckpointOptions,
  pushToHubOptions,
  verifyLoraOptions,
  writeModelCardOptions,
  type ExportLoraOptions,
  type ExportWorkflowOptions,
  type MergeCheckpointOptions,
  type PushToHubOptions,
  type VerifyLoraOptions,
  type WriteModelCardOptions,
} from './lib/options.ts'
export {
  checkPush,
  pushToHub,
  pushToHubIter,
  type PushContext,
  type PushedFolder,
} from './lib/push-to-hub.ts'
export {
  verifyLora,
  verifyLoraIter,
  type ExpertReport,
  type LoraReport,
  type ProgramVerdict,
} from './lib/verify-lora.ts'
export {
  exportWorkflow,
  exportWorkflowIter,
  numHighNoiseSteps,
  type ExportedWorkflow,
} from './lib/workflow/export-workflow.ts'
