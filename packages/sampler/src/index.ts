export { checkClipSize, sizeForImage } from './lib/clip-size.ts'
export { samplerErrors } from './lib/errors.ts'
export { sampleOptions, type LoraOption, type SampleOptions } from './lib/options.ts'
export {
  openPipeline,
  type EncodedInputs,
  type GeneratedClip,
  type GenerateOptions,
  type PipelineLora,
  type PipelineOptions,
  type WanPipeline,
} from './lib/pipeline.ts'
export { readLoras } from './lib/read-loras.ts'
export { sample, sampleIter, type SampleContext, type SampleResult } from './lib/sample.ts'
export { schedulers, type SchedulerName } from './lib/schedulers/schedulers.ts'
export type {
  CreateSolver,
  Schedule,
  SchedulerOptions,
  Solver,
} from './lib/schedulers/scheduler.ts'
