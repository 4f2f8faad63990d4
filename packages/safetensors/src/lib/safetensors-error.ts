/** Where a failure is: the file, and the tensor where one is to blame. */
export interface SafetensorsErrorPlace {
  file?: string | undefined
  tensor?: string | undefined
}

/**
 * What this package throws for a file that is truncated, malformed or not what was asked for. It has the same three parts as
 * every error of Kinora (permanent code, what happened to which thing, what to do), without depending on anything.
 */
export class SafetensorsError extends Error {
  override readonly name = 'SafetensorsError'
  /** Permanent identifier, listed in the README. */
  readonly code: SafetensorsErrorCode
  /** What to do next, in full sentences. */
  readonly fix: string
  readonly file: string | undefined
  readonly tensor: string | undefined

  constructor(
    code: SafetensorsErrorCode,
    message: string,
    fix: string,
    options: ErrorOptions & SafetensorsErrorPlace = {},
  ) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined)
    this.code = code
    this.fix = fix
    this.file = options.file
    this.tensor = options.tensor
  }

  toJSON(): { code: string; message: string; fix: string } {
    return { code: this.code, message: this.message, fix: this.fix }
  }
}

/** Every code of this package; the README says when each is thrown. */
export type SafetensorsErrorCode =
  | 'SAFETENSORS_CANNOT_OPEN'
  | 'SAFETENSORS_TRUNCATED'
  | 'SAFETENSORS_NOT_SAFETENSORS'
  | 'SAFETENSORS_HEADER_TOO_LARGE'
  | 'SAFETENSORS_BAD_HEADER'
  | 'SAFETENSORS_BAD_TENSOR'
  | 'SAFETENSORS_DUPLICATE_NAME'
  | 'SAFETENSORS_BAD_OFFSETS'
  | 'SAFETENSORS_UNKNOWN_DTYPE'
  | 'SAFETENSORS_NO_SUCH_TENSOR'
  | 'SAFETENSORS_NOT_FLOAT'
  | 'SAFETENSORS_BAD_RANGE'
  | 'SAFETENSORS_BAD_DATA'
  | 'SAFETENSORS_CANNOT_WRITE'

/** The fix that fits most damage: the bytes are not what the writer wrote. */
export const fetchAgain =
  'Download or copy the file again, and compare its size and checksum with the source.'
