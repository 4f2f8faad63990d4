/** What every expected failure has, whichever package threw it. */
export interface ErrorWithFix extends Error {
  code: string
  fix: string
}

/** By its fields, not its class: packages that depend on nothing have a class of their own. */
export function hasCodeAndFix(error: unknown): error is ErrorWithFix {
  return (
    error instanceof Error &&
    typeof (error as Partial<ErrorWithFix>).code === 'string' &&
    typeof (error as Partial<ErrorWithFix>).fix === 'string'
  )
}

/** An error for a human: code, message, fix and cause; one without a code with its stack, for it is a bug. */
export function renderError(error: unknown): string {
  if (!hasCodeAndFix(error)) {
    const stack = error instanceof Error ? (error.stack ?? String(error)) : String(error)
    const cause = error instanceof Error ? causeLines(error) : []
    return [
      stack,
      ...cause,
      'This is a bug in Kinora: the error has no code. A report with the lines above and the command helps.',
    ].join('\n')
  }
  return [`error ${error.code}`, error.message, `Fix: ${error.fix}`, ...causeLines(error)].join(
    '\n',
  )
}

function causeLines(error: Error): string[] {
  const lines: string[] = []
  let cause = error.cause
  while (cause !== undefined && cause !== null && lines.length < 5) {
    const text = cause instanceof Error ? cause.message : String(cause)
    // The text of a validation error is the message above over again.
    if (!(cause instanceof Error && cause.name.includes('ZodError'))) {
      lines.push(`Cause: ${text.trim()}`)
    }
    cause = cause instanceof Error ? cause.cause : undefined
  }
  return lines
}
