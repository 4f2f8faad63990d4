export { acceptDrafts, acceptDraftsIter, type AcceptResult } from './lib/accept-drafts.ts'
export {
  captionClips,
  captionClipsIter,
  type CaptionedClip,
  type CaptionResult,
} from './lib/caption-clips.ts'
export { formatCaptionResult } from './lib/captioner-commands.ts'
export { composeCaption, templateCaption } from './lib/compose-caption.ts'
export { describeMotion } from './lib/describe-motion.ts'
export {
  captionerErrors,
  type AnswerProblem,
  type CaptionSkipReason,
  type EndpointFailure,
} from './lib/errors.ts'
export type { LintFinding, LintRule, LintSeverity } from './lib/lint/finding.ts'
export { fixCaption, lintCaption, type LintSubject } from './lib/lint/lint-caption.ts'
export {
  formatLintResult,
  lintCaptions,
  lintCaptionsIter,
  type LintContext,
  type LintResult,
} from './lib/lint/lint-captions.ts'
export { loadTokenizer, type CaptionTokenizer } from './lib/lint/load-tokenizer.ts'
export {
  acceptDraftsOptions,
  captionClipsOptions,
  captionGoals,
  lintCaptionsOptions,
  type AcceptDraftsOptions,
  type CaptionClipsOptions,
  type CaptionGoal,
  type LintCaptionsOptions,
} from './lib/options.ts'
export type {
  CaptionContext,
  CaptionOutcome,
  CaptionProvider,
  CaptionUsage,
} from './lib/providers/caption-provider.ts'
export { captionProviders } from './lib/providers/caption-providers.ts'
export type { SelectedFrame, SelectFrames } from './lib/select-frames.ts'
