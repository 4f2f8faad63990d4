import type { z } from 'zod'

// How zod's issues and values read in our messages.

/** The complaint of a union's option that got furthest, in place of the union's own. */
export function deepest(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union') return issue
  const inner = issue.errors
    .flat()
    .toSorted((p, q) => q.path.length - p.path.length)
    .at(0)
  if (inner === undefined || inner.path.length === 0) return issue
  return deepest({ ...inner, path: [...issue.path, ...inner.path] })
}

export function describeExpected(issue: z.core.$ZodIssue): string | undefined {
  switch (issue.code) {
    case 'invalid_type':
      return (
        {
          int: 'a whole number',
          number: 'a number',
          boolean: 'true or false',
          string: 'a text',
          object: 'a mapping',
          record: 'a mapping',
          array: 'a list',
        }[issue.expected as string] ?? issue.expected
      )
    case 'too_small':
      if (issue.origin === 'string') return 'a text that is not empty'
      if (issue.origin === 'array') return `a list of at least ${issue.minimum}`
      return `a number ${issue.inclusive ? 'of at least' : 'above'} ${issue.minimum}`
    case 'too_big':
      if (issue.origin === 'array') return `a list of at most ${issue.maximum}`
      return `a number ${issue.inclusive ? 'of at most' : 'below'} ${issue.maximum}`
    case 'invalid_value':
      return issue.values.map(String).join(', ')
    case 'invalid_union': {
      const options = issue.errors.flatMap((errors) => errors.slice(0, 1)).map(describeExpected)
      return options.every((option) => option !== undefined) ? options.join(' or ') : undefined
    }
    default:
      return undefined
  }
}

export function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value)
  return text.length > 60 ? `${text.slice(0, 57)}…` : text
}

export function sentence(text: string): string {
  const first = text.split('\n', 1)[0] ?? text
  return /[.!?]$/.test(first) ? first : `${first}.`
}

/** `config.process[0].train.lr`. */
export function formatPath(path: readonly PropertyKey[]): string {
  return path
    .map((key, index) => {
      if (typeof key === 'number') return `[${key}]`
      return index === 0 ? String(key) : `.${String(key)}`
    })
    .join('')
}
