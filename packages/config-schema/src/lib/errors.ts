import { CodedError, defineErrors } from '@kinora/stage'

/** One thing wrong in a file, at its place. Positions count from 1 and name the file as it was given. */
export interface ConfigIssue {
  /** Permanent identifier, `CONFIG_…`. */
  code: string
  /** What is wrong, in one sentence, without the position. */
  message: string
  /** What to do about it. */
  fix: string
  file: string
  line: number
  column: number
  /** Where in the document, such as `config.process[0].train.lr`; empty for the file itself. */
  path: string
}

/** All that is wrong with one file, in the order of the file. */
export class ConfigError extends CodedError {
  readonly issues: readonly ConfigIssue[]

  constructor(code: string, file: string, issues: readonly ConfigIssue[], options?: ErrorOptions) {
    const sorted = issues.toSorted((p, q) => p.line - q.line || p.column - q.column)
    const lines = sorted.map((issue) => `${formatPosition(issue)}: ${issue.message} ${issue.fix}`)
    const count = sorted.length === 1 ? 'one problem' : `${sorted.length} problems`
    super(
      code,
      `${file} has ${count}:\n${lines.map((line) => `  ${line}`).join('\n')}`,
      'Correct the lines named above; each says how.',
      options,
    )
    this.issues = sorted
  }

  override toJSON(): { code: string; message: string; fix: string; issues: ConfigIssue[] } {
    return { ...super.toJSON(), issues: [...this.issues] }
  }
}

/** `file:line:column`, as editors and terminals link it. */
export function formatPosition(issue: Pick<ConfigIssue, 'file' | 'line' | 'column'>): string {
  return `${issue.file}:${issue.line}:${issue.column}`
}

export const configErrors = defineErrors('CONFIG', {
  UNKNOWN_RECIPE: {
    message: (goal: string, vram: string) => `There is no recipe for ${goal} in ${vram} GB.`,
    fix: 'Goals are motion, style and character; memory sizes are 12, 24, 48 and 80.',
  },
  BAD_METRICS: {
    message: (file: string, line: number, why: string) => `${file}:${line} ${why}.`,
    fix: 'Name the metrics.jsonl that kinora train wrote; a line that was edited or damaged can be deleted.',
  },
})
