import type { z } from 'zod'
import { nearestWord } from '../nearest-word.ts'
import { unwrapSchema, type UnwrappedSchema } from '../schema-shape.ts'

/** One flag a command takes: a field of its options, at any depth. */
export interface Flag {
  /** Path of the field; the flag is its parts in kebab-case, joined by dots. */
  path: readonly string[]
  name: string
  schema: z.ZodType
  unwrapped: UnwrappedSchema
}

/** `minDuration` → `min-duration`, `cropPNG` → `crop-png`. */
export function kebabCase(word: string): string {
  return word
    .replace(/([a-z0-9])([A-Z])/g, '$1-$2')
    .replace(/([A-Z])([A-Z][a-z])/g, '$1-$2')
    .replace(/_/g, '-')
    .toLowerCase()
}

/** How a field's path is typed on the command line: `--network.rank`. */
export function flagName(path: readonly PropertyKey[]): string {
  return `--${path.map((part) => kebabCase(String(part))).join('.')}`
}

/** Every flag of an options schema, in the order of its fields; objects are opened into dotted flags. */
export function flagsOf(schema: z.ZodType, path: readonly string[] = []): Flag[] {
  const { shape } = unwrapSchema(schema)
  if (shape.kind !== 'object') return []
  return Object.entries(shape.fields).flatMap(([key, field]) => {
    const unwrapped = unwrapSchema(field)
    const fieldPath = [...path, key]
    const own: Flag = { path: fieldPath, name: flagName(fieldPath), schema: field, unwrapped }
    return unwrapped.shape.kind === 'object' ? flagsOf(field, fieldPath) : [own]
  })
}

/** What a command line says: values by path, as the schema's types where they can be read as such. */
export interface ParsedFlags {
  options: Record<string, unknown>
  /** The dotted paths that were set. */
  set: Set<string>
  help: boolean
  version: boolean
  json: boolean
  config: string | undefined
  dryRun: boolean
}

/** Reads a command line against a schema. Problems are returned, all of them, as full sentences. */
export function parseFlags(
  args: readonly string[],
  schema: z.ZodType,
  positionals: readonly string[],
): { parsed: ParsedFlags; problems: string[] } {
  const flags = new Map(flagsOf(schema).map((flag) => [flag.name, flag]))
  const problems: string[] = []
  const parsed: ParsedFlags = {
    options: {},
    set: new Set(),
    help: false,
    version: false,
    json: false,
    config: undefined,
    dryRun: false,
  }
  const words: string[] = []

  for (let i = 0; i < args.length; i++) {
    const word = args[i]!
    if (word === '--') {
      words.push(...args.slice(i + 1))
      break
    }
    if (!word.startsWith('--')) {
      if (word === '-h') parsed.help = true
      else if (/^-[A-Za-z]/.test(word)) problems.push(unknownFlag(word, flags))
      else words.push(word)
      continue
    }
    const equals = word.indexOf('=')
    const name = equals < 0 ? word : word.slice(0, equals)
    const inline = equals < 0 ? undefined : word.slice(equals + 1)
    const takeValue = (): string | undefined => {
      if (inline !== undefined) return inline
      const next = args[i + 1]
      if (next === undefined || next.startsWith('--')) {
        problems.push(`${name} needs a value.`)
        return undefined
      }
      i++
      return next
    }
    const takeSwitch = (): boolean => {
      if (inline === undefined || inline === 'true') return true
      if (inline !== 'false')
        problems.push(`${name} is a switch: it takes no value but true or false.`)
      return false
    }

    if (name === '--help') parsed.help = true
    else if (name === '--version') parsed.version = true
    else if (name === '--json') parsed.json = takeSwitch()
    else if (name === '--config') parsed.config = takeValue() ?? parsed.config
    else if (name === '--dry-run' && !flags.has('--dry-run')) parsed.dryRun = takeSwitch()
    else {
      const negated = flags.get(name.replace(/^--no-/, '--'))
      const flag = flags.get(name) ?? recordFlag(name, schema)
      if (!flag && name.startsWith('--no-') && negated && takesSwitch(negated)) {
        store(parsed, negated, !takeSwitch())
      } else if (!flag) {
        problems.push(unknownFlag(name, flags))
      } else if (takesSwitch(flag)) {
        store(parsed, flag, takeSwitch())
      } else {
        const text = takeValue()
        if (text !== undefined) storeText(parsed, flag, text)
      }
    }
  }

  takePositionals(words, positionals, flags, parsed, problems)
  return { parsed, problems }
}

function takePositionals(
  words: readonly string[],
  positionals: readonly string[],
  flags: ReadonlyMap<string, Flag>,
  parsed: ParsedFlags,
  problems: string[],
): void {
  const rest = [...words]
  for (const key of positionals) {
    const flag = flags.get(flagName([key]))
    if (!flag) throw new Error(`Positional ${key} is not a field of the options.`)
    if (parsed.set.has(key)) continue
    if (flag.unwrapped.shape.kind === 'array') {
      for (const word of rest.splice(0)) storeText(parsed, flag, word)
    } else {
      const word = rest.shift()
      if (word !== undefined) storeText(parsed, flag, word)
    }
  }
  for (const word of rest) problems.push(`${JSON.stringify(word)} is one argument too many.`)
}

function takesSwitch(flag: Flag): boolean {
  const { shape } = flag.unwrapped
  if (shape.kind === 'boolean') return true
  return shape.kind === 'choice' && shape.values.every((value) => typeof value === 'boolean')
}

/** `--labels.camera pan` sets the key `camera` of a record field `labels`. */
function recordFlag(name: string, schema: z.ZodType): Flag | undefined {
  const dot = name.lastIndexOf('.')
  if (dot < 0) return undefined
  const record = flagsOf(schema).find((flag) => flag.name === name.slice(0, dot))
  if (record?.unwrapped.shape.kind !== 'record') return undefined
  const { value } = record.unwrapped.shape
  return {
    path: [...record.path, name.slice(dot + 1)],
    name,
    schema: value,
    unwrapped: unwrapSchema(value),
  }
}

function unknownFlag(name: string, flags: ReadonlyMap<string, Flag>): string {
  const known = [...flags.keys(), '--help', '--version', '--json', '--config', '--dry-run']
  const near = nearestWord(name, known)
  return `${name} is not a flag.${near ? ` Did you mean ${near}?` : ''}`
}

function store(parsed: ParsedFlags, flag: Flag, value: unknown): void {
  parsed.set.add(flag.path.join('.'))
  let target = parsed.options
  for (const part of flag.path.slice(0, -1)) {
    target = (target[part] ??= {}) as Record<string, unknown>
  }
  target[flag.path.at(-1)!] = value
}

function storeText(parsed: ParsedFlags, flag: Flag, text: string): void {
  const value = readValue(flag.schema, text)
  const { shape } = flag.unwrapped
  if (shape.kind !== 'array' || !Array.isArray(value)) return store(parsed, flag, value)
  let before: unknown = parsed.options
  for (const part of flag.path) before = (before as Record<string, unknown> | undefined)?.[part]
  store(parsed, flag, Array.isArray(before) ? [...before, ...value] : value)
}

/**
 * The value a text stands for, by the schema's type. A text that cannot be read so comes back as it is, for the schema to
 * refuse with its own words.
 */
export function readValue(schema: z.ZodType, text: string): unknown {
  const { shape, nullable } = unwrapSchema(schema)
  if (nullable && text === 'null') return null
  switch (shape.kind) {
    case 'string':
      return text
    case 'number': {
      const value = Number(text)
      return text.trim() === '' || Number.isNaN(value) ? text : value
    }
    case 'boolean':
      return text === 'true' ? true : text === 'false' ? false : text
    case 'choice':
      return shape.values.find((value) => String(value) === text) ?? text
    case 'array': {
      if (text.startsWith('[')) return readJson(text)
      const element = unwrapSchema(shape.element).shape.kind
      // Numbers may share one flag; a text may hold a comma of its own.
      const parts = element === 'number' ? text.split(',') : [text]
      return parts.map((part) => readValue(shape.element, part))
    }
    case 'union': {
      for (const member of shape.members) {
        const value = readValue(member, text)
        if (member.safeParse(value).success) return value
      }
      return text
    }
    case 'object':
    case 'record':
    case 'json':
      return readJson(text)
  }
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}
