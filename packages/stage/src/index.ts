export { CodedError, isCodedError } from './lib/coded-error.ts'
export { defineErrors, type ErrorCatalogue, type ErrorEntry } from './lib/define-errors.ts'
export { drain } from './lib/drain.ts'
export type { RunContext } from './lib/run-context.ts'
export type {
  NoteEvent,
  ProgressEvent,
  SkippedEvent,
  StageEvent,
  StartedEvent,
  WarningEvent,
} from './lib/stage-event.ts'
