export { createTape, type Root, type Tape, type TapeOptions } from './lib/autograd/tape.ts'
export type { OutputGrad } from './lib/autograd/rules.ts'
export {
  cacheDataset,
  cacheDatasetIter,
  type CacheDatasetContext,
  type CacheDatasetOptions,
  type CacheDatasetResult,
} from './lib/cache/cache-dataset.ts'
export {
  calibrate,
  calibrateIter,
  type CalibrateContext,
  type CalibrateOptions,
} from './lib/calibrate.ts'
export { plannedTimesteps } from './lib/noise/planned-timesteps.ts'
export {
  planTrainingMemory,
  type MemoryPlan,
  type MemoryPlanOptions,
} from './lib/memory/plan-training-memory.ts'
export { estimateTraining, type TrainingEstimate } from './lib/estimate/estimate-training.ts'
export { describeRemedy, refuseTooLarge } from './lib/estimate/tell-estimate.ts'
export {
  checkpointShape,
  saidMemory,
  trainingSetup,
  type CheckpointShape,
} from './lib/estimate/training-setup.ts'
export { computeDtype } from './lib/step-settings.ts'
export {
  describePlan,
  leanPlan,
  richerPlans,
  runOptions,
  type RecomputePlan,
} from './lib/memory/recompute-plan.ts'
export {
  deviceMemory,
  limitIdleMemory,
  deviceSpeedSchema,
  knownSpeed,
  measureSpeed,
  overheadOf,
  speedKey,
  type DeviceSpeed,
} from './lib/estimate/device-speed.ts'
export { trainerErrors } from './lib/errors.ts'
export type { MetricsSink } from './lib/metrics.ts'
export type { Expert } from './lib/noise/random-streams.ts'
export { train, trainIter } from './lib/train.ts'
export type {
  PreviewRequest,
  TrainContext,
  TrainOptions,
  TrainResult,
} from './lib/train-options.ts'
