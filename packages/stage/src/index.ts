export { CodedError, isCodedError } from './lib/coded-error.ts'
export { defineErrors, type ErrorCatalogue, type ErrorEntry } from './lib/define-errors.ts'
export { drain } from './lib/drain.ts'
export { nearestWord } from './lib/nearest-word.ts'
export {
  lockFolder,
  removeOnExit,
  requireFreeSpace,
  temporaryName,
  writeFileAtomic,
  type FolderLock,
} from './lib/output-folder.ts'
export { parseOptions } from './lib/parse-options.ts'
export type { RunContext } from './lib/run-context.ts'
export { codeSystemError, stageErrors } from './lib/stage-errors.ts'
export type {
  FindingEvent,
  NoteEvent,
  ProgressEvent,
  SkippedEvent,
  StageEvent,
  StartedEvent,
  WarningEvent,
} from './lib/stage-event.ts'
