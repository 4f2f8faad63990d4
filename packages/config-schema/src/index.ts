export { captionFile, captionTags, resolveCaption, shuffleTags } from './lib/caption.ts'
export {
  bucketPlanSchema,
  bucketSchema,
  frameModes,
  planItemSchema,
  type Bucket,
  type BucketPlan,
  type FrameMode,
  type PlanItem,
} from './lib/bucket-plan.ts'
export {
  cameraMotions,
  clipRecordSchema,
  droppedRecordSchema,
  manifestHeaderSchema,
  manifestRecordSchema,
  motionSchema,
  rectangleSchema,
  type CameraMotion,
  type ClipMotion,
  type ClipRecord,
  type DatasetManifest,
  type DroppedRecord,
  type ManifestHeader,
  type ManifestRecord,
  type Rectangle,
} from './lib/dataset-manifest.ts'
export {
  formatBucketPlan,
  formatManifest,
  formatManifestRecord,
  readBucketPlan,
  readManifest,
  type ReadTextOptions,
} from './lib/dataset-files.ts'
export { ConfigError, formatPosition, type ConfigIssue } from './lib/errors.ts'
export {
  bucketPlanJsonSchema,
  jsonSchemas,
  loraMetadataJsonSchema,
  manifestRecordJsonSchema,
  trainJobJsonSchema,
  type JsonSchema,
} from './lib/json-schema.ts'
export { loraMetadataSchema, type LoraMetadata } from './lib/lora-metadata.ts'
export {
  parseTrainJob,
  type ConfigWarning,
  type ParsedTrainJob,
  type ParseTrainJobOptions,
} from './lib/parse-train-job.ts'
export { preflight, preflightRules } from './lib/preflight/preflight.ts'
export type {
  DatasetFacts,
  PreflightFacts,
  PreflightFinding,
  PreflightRule,
  PreflightSubject,
} from './lib/preflight/rule.ts'
export {
  metricsEntrySchema,
  motionSummarySchema,
  readMetrics,
  type MetricsEntry,
  type MotionSummary,
  type PreviewEntry,
  type StepEntry,
  type ValidationEntry,
} from './lib/run-metrics.ts'
export { recipe, recipeMemories, type RecipeMemory, type RecipeOptions } from './lib/recipe.ts'
export {
  goals,
  lossTypes,
  lrSchedulers,
  optimizers,
  timestepTypes,
  trainJobSchema,
  type Goal,
  type TrainDataset,
  type TrainDtype,
  type TrainJob,
  type TrainJobInput,
  type TrainProcess,
  type TrainSample,
  type TrainSampleItem,
  type TrainSettings,
} from './lib/train-job-schema.ts'
