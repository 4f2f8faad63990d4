import { CodedError } from './coded-error.ts'

/** One entry of an error catalogue. `fix` may use the same arguments as `message`. */
export interface ErrorEntry<Args extends never[] = never[]> {
  message: (...args: Args) => string
  fix: string | ((...args: Args) => string)
}

type Thrower<Entry> = Entry extends { message: (...args: infer Args) => string }
  ? (...args: [...Args, options?: ErrorOptions]) => CodedError
  : never

/** A catalogue as `defineErrors` returns it: one function an entry, which makes the error. */
export type ErrorCatalogue<Entries> = { readonly [Name in keyof Entries]: Thrower<Entries[Name]> }

/**
 * Makes a catalogue of errors whose codes are `PREFIX_NAME`.
 *
 *     throw bucketerErrors.NO_BUCKET_FITS(clip, frames, { cause })
 *
 * A last argument beyond those of `message` is the `ErrorOptions` that holds the cause.
 */
export function defineErrors<const Entries extends Record<string, ErrorEntry>>(
  prefix: string,
  entries: Entries,
): ErrorCatalogue<Entries> {
  const catalogue: Record<string, (...args: unknown[]) => CodedError> = {}
  for (const [name, entry] of Object.entries(entries)) {
    const { message, fix } = entry as unknown as {
      message: (...args: unknown[]) => string
      fix: string | ((...args: unknown[]) => string)
    }
    catalogue[name] = (...args) => {
      const own = args.slice(0, message.length)
      const options =
        args.length > message.length ? (args.at(-1) as ErrorOptions | undefined) : undefined
      return new CodedError(
        `${prefix}_${name}`,
        message(...own),
        typeof fix === 'string' ? fix : fix(...own),
        options,
      )
    }
  }
  return catalogue as ErrorCatalogue<Entries>
}
