/**
 * An error with a permanent code, a message that says what happened to which thing, and a fix that says what to do.
 * Every expected failure of Kinora is one of these; anything else that escapes is a bug.
 */
export class CodedError extends Error {
  override readonly name = 'CodedError'
  /** Permanent identifier, `PREFIX_NAME`, listed in the README of the package that defines it. */
  readonly code: string
  /** What to do next, in one or two full sentences. */
  readonly fix: string

  constructor(code: string, message: string, fix: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    this.fix = fix
  }

  /** Plain JSON for `--json` output and for files. */
  toJSON(): { code: string; message: string; fix: string } {
    return { code: this.code, message: this.message, fix: this.fix }
  }
}

/** Narrows an unknown value to a CodedError, optionally to one code. */
export function isCodedError(error: unknown, code?: string): error is CodedError {
  return error instanceof CodedError && (code === undefined || error.code === code)
}
