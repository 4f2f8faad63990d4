export type { PlanClip, SkipReason } from './lib/assign-clip.ts'
export { formatReport, type BucketReport, type BucketRow } from './lib/bucket-report.ts'
export { aiToolkitBucket, areaBucket, type GridOptions, type Size } from './lib/bucket-grid.ts'
export { bucketerErrors } from './lib/errors.ts'
export {
  longestNumFrames,
  realTimeFrameIndices,
  snapNumFrames,
  uniformFrameIndices,
} from './lib/frame-times.ts'
export {
  bucketRules,
  datasetOptions,
  planBucketsOptions,
  type DatasetOptions,
  type PlanBucketsOptions,
} from './lib/options.ts'
export { planBuckets, type ClipSet } from './lib/plan-buckets.ts'
export type { ClipProbe, ProbeClip, ReadContext } from './lib/read-clips.ts'
export { planBucketsIter, writeBucketPlan, type PlannedBuckets } from './lib/write-plan.ts'
