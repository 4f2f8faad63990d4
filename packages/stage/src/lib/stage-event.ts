/**
 * What a stage says while it works: plain JSON, so a bin prints one a line with `--json`, the command line draws bars
 * and the studio streams them. Progress counts work, never time.
 */
export type StageEvent =
  | StartedEvent
  | ProgressEvent
  | SkippedEvent
  | WarningEvent
  | FindingEvent
  | NoteEvent

/** A phase begins. A stage may have several, one after another; `total` is in the unit that `progress` counts. */
export interface StartedEvent {
  type: 'started'
  phase: string
  /** Items of work in this phase; absent where it cannot be known. */
  total?: number
}

/** `done` items of `total` are finished; `item` names the newest. */
export interface ProgressEvent {
  type: 'progress'
  phase: string
  done: number
  total?: number
  item?: string
  /** Numbers worth showing beside the bar, such as the loss. */
  values?: Record<string, number>
}

/** An expected refusal: the item was left out, the run goes on. `reason` is from a union the stage documents. */
export interface SkippedEvent {
  type: 'skipped'
  item: string
  reason: string
  detail?: string
}

/** Something that will probably disappoint, with a permanent code and what to do about it. */
export interface WarningEvent {
  type: 'warning'
  code: string
  message: string
  fix: string
}

/** Something that an examination found: `error` would fail, `warning` would disappoint. */
export interface FindingEvent {
  type: 'finding'
  severity: 'error' | 'warning'
  code: string
  message: string
  fix: string
}

/** A choice or a result worth one line, such as the adapter that was chosen. */
export interface NoteEvent {
  type: 'note'
  message: string
}
