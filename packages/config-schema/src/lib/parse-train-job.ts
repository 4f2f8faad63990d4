import { parseDocument } from 'yaml'
import { nearestWord } from '@kinora/stage'
import type { z } from 'zod'
import { checkTrainJob, snapTrainJob } from './check-train-job.ts'
import { ConfigError, type ConfigIssue } from './errors.ts'
import { deepest, describeExpected, formatPath, sentence, show } from './issue-text.ts'
import { keyRules, otherArchitectures, type KeyRule } from './key-policy.ts'
import { locateNode } from './locate-node.ts'
import { schemaAt, schemaKeys } from './schema-walk.ts'
import { prepareSource, type Position } from './source-text.ts'

import { trainJobSchema, type TrainJob } from './train-job-schema.ts'

/** Something in a job file that has no effect, or another one than it says; the job still runs. */
export interface ConfigWarning {
  /** `CONFIG_NO_EFFECT` or `CONFIG_SNAPPED`. */
  code: string
  message: string
  file: string
  line: number
  column: number
  path: string
}

export interface ParseTrainJobOptions {
  /** Named in every message, as the user gave it. A name that ends in `.json` or `.jsonc` may hold comments. */
  fileName: string
  /** Values for `${VAR}`; an unset one is an error. Default: none are set. */
  env?: Readonly<Record<string, string | undefined>> | undefined
  /** In place of `config.name`. */
  name?: string | undefined
}

/** A job with what was noticed while reading it. */
export type ParsedTrainJob = TrainJob & { warnings: ConfigWarning[] }

type Path = readonly PropertyKey[]

/**
 * Reads a train job in AI Toolkit's dialect, strictly: YAML or JSON, aliases resolved, every default filled in.
 *
 * @throws ConfigError `CONFIG_BAD_JOB` with everything that is wrong, each at its `file:line:column`
 */
export function parseTrainJob(text: string, options: ParseTrainJobOptions): ParsedTrainJob {
  const { fileName: file, env = {} } = options
  const json = /\.jsonc?$/i.test(file) || /^\s*(\{|\/[/*])/.test(text)
  const source = prepareSource(text, json, env)
  const issues: ConfigIssue[] = []
  const warnings: ConfigWarning[] = []
  const report = (code: string, at: Position, path: Path, message: string, fix: string) => {
    issues.push({ code: `CONFIG_${code}`, message, fix, file, ...at, path: formatPath(path) })
  }
  const fail = () => new ConfigError('CONFIG_BAD_JOB', file, issues)

  for (const { name, position } of source.unset) {
    report(
      'UNSET_VARIABLE',
      position,
      [],
      `\${${name}} is not set.`,
      `Set ${name} in the environment.`,
    )
  }
  const document = parseDocument(source.text, {
    merge: true,
    prettyErrors: false,
    stringKeys: true,
  })
  for (const error of document.errors) {
    report(
      'SYNTAX',
      source.position(error.pos[0]),
      [],
      sentence(error.message),
      'Correct the syntax here.',
    )
  }
  if (issues.length > 0) throw fail()

  const place = (path: Path, of: 'key' | 'value' = 'value'): Position =>
    source.position(locateNode(document, path, of))
  const warn = (code: string, path: Path, of: 'key' | 'value', message: string) => {
    warnings.push({
      code: `CONFIG_${code}`,
      message,
      file,
      ...place(path, of),
      path: formatPath(path),
    })
  }

  let data: unknown
  try {
    data = document.toJS({ maxAliasCount: 100 })
  } catch (error) {
    report(
      'SYNTAX',
      { line: 1, column: 1 },
      [],
      sentence((error as Error).message),
      'Write it out.',
    )
    throw fail()
  }
  if (!isRecord(data)) {
    report(
      'NOT_A_JOB',
      { line: 1, column: 1 },
      [],
      'The file is not a mapping.',
      'A job begins with "job: extension".',
    )
    throw fail()
  }
  const job = applyName(data, options.name)
  dropNulls(job)
  const refusedPaths = applyRules(job, { report, warn, place })

  const repaired = new Set<string>()
  let result = trainJobSchema.safeParse(job)
  for (let changed = true; changed && !result.success;) {
    changed = false
    for (const issue of result.error.issues)
      changed = repairBoolean(job, issue, repaired) || changed
    if (changed) result = trainJobSchema.safeParse(job)
  }
  if (!result.success) {
    for (const issue of result.error.issues) {
      const path = issue.path
      if (refusedPaths.has(formatPath(path))) continue
      if (issue.code === 'unrecognized_keys') {
        for (const key of issue.keys) reportUnknownKey([...path, key])
      } else reportBadValue(deepest(issue))
    }
  }
  if (result.success) {
    checkTrainJob(result.data, job, place, (code, at, path, message, fix) => {
      if (!refusedPaths.has(formatPath(path))) report(code, at, path, message, fix)
    })
  }
  if (issues.length > 0 || !result.success) throw fail()

  snapTrainJob(result.data, warn)
  warnings.sort((p, q) => p.line - q.line || p.column - q.column)
  return { ...result.data, warnings }

  function reportUnknownKey(path: Path) {
    const section = path.slice(0, -1)
    const key = String(path.at(-1))
    const known = schemaKeys(schemaAt(trainJobSchema, section)) ?? []
    const near = nearestWord(key, known)
    const elsewhere = near === undefined ? sectionsWith(key) : []
    let fix = `Known keys here: ${known.join(', ')}.`
    if (near !== undefined) fix = `Did you mean "${near}"?`
    else if (elsewhere.length > 0) fix = `It belongs under ${elsewhere.join(' or ')}.`
    report(
      'UNKNOWN_KEY',
      place(path, 'key'),
      path,
      `Unknown key "${key}" in ${sectionName(section)}.`,
      fix,
    )
  }

  function reportBadValue(issue: z.core.$ZodIssue) {
    const path = issue.path
    const value = valueAt(job, path)
    const key = formatPath(path.slice(typeof path.at(-1) === 'number' ? -2 : -1)) || 'the file'
    if (value === undefined && issue.code !== 'custom') {
      const expected = describeExpected(issue)
      report(
        'MISSING_KEY',
        place(path.slice(0, -1), 'key'),
        path,
        `${sectionName(path.slice(0, -1))} lacks "${key}".`,
        `Add it${expected === undefined ? '' : `: ${expected}`}.`,
      )
      return
    }
    if (path.at(-1) === 'arch') {
      const other = otherArchitectures[String(value)]
      report(
        'OTHER_ARCHITECTURE',
        place(path),
        path,
        other === undefined
          ? `Unknown architecture ${show(value)}.`
          : `${show(value)} is ${other}.`,
        'Kinora trains wan22_14b_i2v.',
      )
      return
    }
    if (path.length === 2 && path[1] === 'process') {
      report(
        'BAD_VALUE',
        place(path),
        path,
        `"process" needs a list of exactly one process${Array.isArray(value) ? `, and has ${value.length}` : ''}.`,
        'Put each process in a job file of its own.',
      )
      return
    }
    if (issue.code === 'invalid_value') {
      const near =
        typeof value === 'string' ? nearestWord(value, issue.values.map(String)) : undefined
      const fix =
        near === undefined
          ? `Possible: ${issue.values.map(String).join(', ')}.`
          : `Did you mean "${near}"? Possible: ${issue.values.map(String).join(', ')}.`
      report('BAD_VALUE', place(path), path, `"${key}" cannot be ${show(value)}.`, fix)
      return
    }
    if (issue.code === 'custom') {
      const fix = issue.params?.['fix']
      report(
        'BAD_VALUE',
        place(path),
        path,
        sentence(issue.message),
        typeof fix === 'string' ? fix : `It is ${show(value)}.`,
      )
      return
    }
    report(
      'BAD_VALUE',
      place(path),
      path,
      `"${key}" cannot be ${show(value)}.`,
      `Expected ${describeExpected(issue) ?? issue.message.replace(/^(Invalid input: )?expected /i, '')}.`,
    )
  }
}

// --- rules for keys that are not simply taken ---

interface RuleTools {
  report: (code: string, at: Position, path: Path, message: string, fix: string) => void
  warn: (code: string, path: Path, of: 'key' | 'value', message: string) => void
  place: (path: Path, of?: 'key' | 'value') => Position
}

/** Applies the key rules in place and returns the paths already refused, whose other complaints are of no interest. */
function applyRules(job: Record<string, unknown>, tools: RuleTools): Set<string> {
  const refused = new Set<string>()
  for (const rule of keyRules) {
    for (const section of sectionsAt(job, rule.section)) {
      const holder = valueAt(job, section)
      if (!isRecord(holder) || !(rule.key in holder)) continue
      const path = [...section, rule.key]
      const value = holder[rule.key]
      const inSchema = schemaAt(trainJobSchema, path) !== undefined
      if (asks(rule, value)) {
        const where = rule.only === undefined ? 'key' : 'value'
        const what = rule.only === undefined ? `"${rule.key}"` : `"${rule.key}: ${String(value)}"`
        const { kind, reason } = rule.rule
        switch (kind) {
          case 'refused': {
            tools.report(
              'REFUSED',
              tools.place(path, where),
              path,
              `${what} is not supported.`,
              reason,
            )
            refused.add(formatPath(path))
            break
          }
          case 'inert': {
            tools.warn('NO_EFFECT', path, where, `${what} has no effect. ${reason}`)
            break
          }
          default: {
            kind satisfies never
          }
        }
      }
      if (!inSchema) delete holder[rule.key]
    }
  }
  return refused
}

function asks(rule: KeyRule, value: unknown): boolean {
  if (rule.only !== undefined) return rule.only.includes(value)
  if (value === null || value === undefined) return false
  if (
    Array.isArray(value) ? value.length === 0 : isRecord(value) && Object.keys(value).length === 0
  ) {
    return false
  }
  return !rule.neutral.includes(value)
}

/** Paths of every place that a section of a rule names: `datasets` and `sample.samples` are lists. */
function sectionsAt(job: Record<string, unknown>, section: string): Path[] {
  const processPath: Path = ['config', 'process', 0]
  if (section === 'process') return [processPath]
  const names =
    section === 'sample' || section.startsWith('sample.')
      ? [section, `first_${section}`]
      : [section]
  return names.flatMap((name) => {
    const path = [...processPath, ...name.split('.')]
    const value = valueAt(job, path)
    return Array.isArray(value) ? value.map((_, index) => [...path, index]) : [path]
  })
}

/** Sections that know a key, for "it belongs under". */
function sectionsWith(key: string): string[] {
  const base = ['config', 'process', 0] as const
  const sections: [string, Path][] = [
    ['config', ['config']],
    ['config.process[0]', base],
    ...['network', 'save', 'train', 'model', 'sample', 'logging', 'kinora'].map(
      (name): [string, Path] => [name, [...base, name]],
    ),
    ['model.model_kwargs', [...base, 'model', 'model_kwargs']],
    ['train.ema_config', [...base, 'train', 'ema_config']],
    ['train.optimizer_params', [...base, 'train', 'optimizer_params']],
    ['datasets', [...base, 'datasets', 0]],
  ]
  return sections
    .filter(([, path]) => schemaKeys(schemaAt(trainJobSchema, path))?.includes(key))
    .map(([name]) => name)
}

// --- values ---

/** Replaces `[name]` in every string by the job's name. */
function applyName(
  data: Record<string, unknown>,
  override: string | undefined,
): Record<string, unknown> {
  const config = data['config']
  const own = isRecord(config) ? config['name'] : undefined
  const name = override ?? (typeof own === 'string' ? own : undefined)
  if (override !== undefined && isRecord(config)) config['name'] = override
  if (name === undefined) return data
  const replace = (value: unknown): unknown => {
    if (typeof value === 'string') return value.replaceAll('[name]', name)
    if (Array.isArray(value)) return value.map(replace)
    if (!isRecord(value)) return value
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, replace(inner)]))
  }
  return replace(data) as Record<string, unknown>
}

/** A null means "not set" wherever the schema gives a default; so it is left out (but not from the free-form `meta`). */
function dropNulls(value: unknown): void {
  if (Array.isArray(value)) value.forEach(dropNulls)
  else if (isRecord(value)) {
    for (const [key, inner] of Object.entries(value)) {
      if (inner === null) delete value[key]
      else if (key !== 'meta') dropNulls(inner)
    }
  }
}

const yaml11Booleans: Readonly<Record<string, boolean>> = {
  yes: true,
  on: true,
  no: false,
  off: false,
}

/** AI Toolkit reads YAML 1.1, where yes, no, on and off are booleans; here they are where a boolean is expected. */
function repairBoolean(job: unknown, issue: z.core.$ZodIssue, repaired: Set<string>): boolean {
  const wanted =
    (issue.code === 'invalid_type' && issue.expected === 'boolean') ||
    (issue.code === 'invalid_value' && issue.values.every((value) => typeof value === 'boolean'))
  const holder = valueAt(job, issue.path.slice(0, -1))
  const key = issue.path.at(-1)
  const id = formatPath(issue.path)
  if (!wanted || !isRecord(holder) || typeof key !== 'string' || repaired.has(id)) return false
  const value = holder[key]
  const boolean = typeof value === 'string' ? yaml11Booleans[value.toLowerCase()] : undefined
  if (boolean === undefined) return false
  holder[key] = boolean
  repaired.add(id)
  return true
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function valueAt(value: unknown, path: Path): unknown {
  return path.reduce<unknown>(
    (inner, key) =>
      typeof inner === 'object' && inner !== null
        ? (inner as Record<PropertyKey, unknown>)[key]
        : undefined,
    value,
  )
}

/** How a section is called in a message: `train`, `datasets[1]`, or the whole path above the process. */
function sectionName(path: Path): string {
  if (path.length === 0) return 'the job'
  if (path[0] === 'config' && path[1] === 'process' && path.length > 3)
    return formatPath(path.slice(3))
  return formatPath(path)
}
