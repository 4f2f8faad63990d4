export { samplerErrors } from './lib/errors.ts'
export {
  openPipeline,
  type EncodedInputs,
  type GeneratedClip,
  type GenerateOptions,
  type PipelineLora,
  type PipelineOptions,
  type WanPipeline,
} from './lib/pipeline.ts'
export { schedulers, type SchedulerName } from './lib/schedulers/schedulers.ts'
export type {
  CreateSolver,
  Schedule,
  SchedulerOptions,
  Solver,
} from './lib/schedulers/scheduler.ts'
