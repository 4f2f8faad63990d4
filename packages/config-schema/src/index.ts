export { captionFile, captionTags, resolveCaption, shuffleTags } from './lib/caption.ts'
export * from './lib/bucket-plan.ts'
export * from './lib/dataset-manifest.ts'
export { ConfigError, formatPosition, type ConfigIssue } from './lib/errors.ts'
export {
  parseTrainJob,
  type ConfigWarning,
  type ParsedTrainJob,
  type ParseTrainJobOptions,
} from './lib/parse-train-job.ts'
export {
  lossTypes,
  lrSchedulers,
  optimizers,
  timestepTypes,
  trainJobSchema,
  type TrainDataset,
  type TrainDtype,
  type TrainJob,
  type TrainJobInput,
  type TrainProcess,
  type TrainSample,
  type TrainSampleItem,
  type TrainSettings,
} from './lib/train-job-schema.ts'
