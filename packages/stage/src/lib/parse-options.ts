import type { z } from 'zod'
import { CodedError } from './coded-error.ts'
import { nearestWord } from './nearest-word.ts'
import { fieldsAt } from './schema-shape.ts'

/**
 * Checks a stage's options at its public door. Throws `<PREFIX>_BAD_OPTIONS` naming the path of each wrong field.
 *
 * @param namePath how to call a field: its dotted path by default, a flag or a line of a file for a command
 */
export function parseOptions<Schema extends z.ZodType>(
  prefix: string,
  schema: Schema,
  options: unknown,
  namePath: (path: readonly PropertyKey[]) => string = dotted,
): z.output<Schema> {
  const parsed = schema.safeParse(options)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.flatMap((issue) =>
    describeIssue(schema, options, issue, namePath),
  )
  throw badOptions(prefix, problems, { cause: parsed.error })
}

/** `<PREFIX>_BAD_OPTIONS` with one line a problem. */
export function badOptions(
  prefix: string,
  problems: readonly string[],
  options?: ErrorOptions,
): CodedError {
  const message =
    problems.length === 1
      ? problems[0]!
      : `${problems.length} options are wrong:\n${problems.map((problem) => `- ${problem}`).join('\n')}`
  return new CodedError(
    `${prefix}_BAD_OPTIONS`,
    message,
    'Correct what is named above; --help lists every option with its default.',
    options,
  )
}

function describeIssue(
  schema: z.ZodType,
  options: unknown,
  issue: z.core.$ZodIssue,
  namePath: (path: readonly PropertyKey[]) => string,
): string[] {
  if (issue.code === 'unrecognized_keys') {
    const known = fieldsAt(schema, issue.path)
    return issue.keys.map((key) => {
      const near = nearestWord(key, known)
      const hint = near ? ` Did you mean ${namePath([...issue.path, near])}?` : ''
      return `${namePath([...issue.path, key])} is not an option.${hint}`
    })
  }
  const name = namePath(issue.path)
  if (valueAt(options, issue.path) === undefined) return [`${name} is required.`]
  return [`${name}: ${issueText(issue)}.`]
}

function issueText(issue: z.core.$ZodIssue): string {
  if (issue.code === 'invalid_union' && issue.errors.length > 0) {
    const texts = issue.errors.flatMap((errors) => (errors[0] ? [issueText(errors[0])] : []))
    return [...new Set(texts)].join(', or ')
  }
  return issue.message.replace(/^Invalid input: /, '').replace(/\.$/, '')
}

function valueAt(options: unknown, path: readonly PropertyKey[]): unknown {
  let value = options
  for (const key of path) {
    if (typeof value !== 'object' || value === null) return undefined
    value = (value as Record<PropertyKey, unknown>)[key]
  }
  return value
}

function dotted(path: readonly PropertyKey[]): string {
  return path.length === 0 ? 'The options' : path.map(String).join('.')
}
