export {
  captionClips,
  captionClipsIter,
  type CaptionedClip,
  type CaptionResult,
} from './lib/caption-clips.ts'
export { composeCaption, templateCaption } from './lib/compose-caption.ts'
export { describeMotion } from './lib/describe-motion.ts'
export {
  captionerErrors,
  type AnswerProblem,
  type CaptionSkipReason,
  type EndpointFailure,
} from './lib/errors.ts'
export {
  captionClipsOptions,
  captionGoals,
  type CaptionClipsOptions,
  type CaptionGoal,
} from './lib/options.ts'
export type {
  CaptionContext,
  CaptionOutcome,
  CaptionProvider,
  CaptionUsage,
} from './lib/providers/caption-provider.ts'
export { captionProviders } from './lib/providers/caption-providers.ts'
