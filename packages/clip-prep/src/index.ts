export { prepareClips, prepareClipsIter, type PrepareClipsEvent } from './lib/prepare-clips.ts'
export { mergeShards, mergeShardsIter } from './lib/merge-shards.ts'
export {
  mergeShardsOptions,
  prepareClipsOptions,
  type MergeShardsOptions,
  type PrepareClipsOptions,
} from './lib/options.ts'
export { clipFlags, dropReasons, type ClipFlag, type DropReason } from './lib/clip-flags.ts'
export { clipPrepErrors } from './lib/errors.ts'
export { analyseVideo } from './lib/analyse-video.ts'
export type { DarkBorder, FrameMeasures, VideoAnalysis } from './lib/video-analysis.ts'
export type { MotionStep } from './lib/motion-step.ts'
export type { GradualWindow } from './lib/gradual-scan.ts'
export {
  detectShots,
  shotDetectors,
  type Shot,
  type ShotDetector,
  type ShotList,
  type Transition,
} from './lib/detect-shots.ts'
export { findMovingRange, type MovingRange } from './lib/static-trim.ts'
export { classifyMotion } from './lib/classify-motion.ts'
export { measureMotion } from './lib/measure-motion.ts'
export { findPictureAreas, type PictureArea } from './lib/black-bars.ts'
export {
  planClips,
  type AnalysedFootage,
  type FootagePlan,
  type PlannedClip,
} from './lib/plan-clips.ts'
export {
  openWorkState,
  type StoredAnalysis,
  type StoredClip,
  type WorkState,
} from './lib/work-state.ts'
