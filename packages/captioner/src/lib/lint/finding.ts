/** What `captioner lint` looks for. The names are permanent. */
export type LintRule =
  | 'missing-caption'
  | 'empty'
  | 'untidy'
  | 'missing-trigger'
  | 'trigger-inside-word'
  | 'unfilled-placeholder'
  | 'look-in-motion-caption'
  | 'motion-mismatch'
  | 'left-right-with-flip'
  | 'up-down-with-flip'
  | 'dropped-characters'
  | 'too-long'
  | 'near-identical'
  | 'orphan-caption'

/**
 * `error`: training will go wrong. `warning`: it will probably disappoint. `info`: worth a look.
 */
export type LintSeverity = 'error' | 'warning' | 'info'

/** One thing that lint found. */
export interface LintFinding {
  rule: LintRule
  severity: LintSeverity
  /** The caption file, relative to the dataset’s folder. */
  file: string
  /** Other caption files it concerns, for near-identical captions. */
  others?: string[]
  message: string
  /** What to do, in one sentence. */
  fix: string
  /** `yes`: --fix mends it; `done`: it did. */
  fixable: 'no' | 'yes' | 'done'
}
