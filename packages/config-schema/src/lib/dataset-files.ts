import { LineCounter, parseDocument } from 'yaml'
import type { z } from 'zod'
import { bucketPlanSchema, type BucketPlan } from './bucket-plan.ts'
import {
  manifestRecordSchema,
  type DatasetManifest,
  type ManifestRecord,
} from './dataset-manifest.ts'
import { ConfigError, type ConfigIssue } from './errors.ts'
import { deepest, describeExpected, formatPath, show } from './issue-text.ts'
import { locateNode } from './locate-node.ts'

// manifest.jsonl and bucket-plan.json as text. Reading says what is wrong at file:line:column; writing gives the same bytes
// for the same value.

export interface ReadTextOptions {
  /** Named in every message. */
  fileName: string
}

/**
 * Reads manifest.jsonl.
 *
 * @throws ConfigError `CONFIG_BAD_MANIFEST` with every line that is wrong
 */
export function readManifest(text: string, { fileName }: ReadTextOptions): DatasetManifest {
  const issues: ConfigIssue[] = []
  const manifest: Partial<DatasetManifest> & Pick<DatasetManifest, 'clips' | 'dropped'> = {
    clips: [],
    dropped: [],
  }
  const lineOfId = new Map<string, number>()
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue
    const report = (message: string, fix: string, column = 1, path = '') =>
      issues.push({
        code: 'CONFIG_BAD_RECORD',
        message,
        fix,
        file: fileName,
        line: index + 1,
        column,
        path,
      })
    const value = parseJson(line, (message, column) =>
      report(
        message,
        'Each line is one JSON object; a cut last line means that writing was interrupted.',
        column,
      ),
    )
    if (value === undefined) continue
    const parsed = manifestRecordSchema.safeParse(value)
    if (!parsed.success) {
      for (const { message, fix, column, path } of describeIssues(line, parsed.error, value)) {
        report(message, fix, column, path)
      }
      continue
    }
    const record = parsed.data
    switch (record.type) {
      case 'manifest': {
        if (manifest.header !== undefined || lineOfId.size > 0 || manifest.dropped.length > 0) {
          report(
            'The header stands after other lines.',
            'A manifest has one header, its first line.',
          )
        }
        manifest.header ??= record
        break
      }
      case 'clip': {
        const before = lineOfId.get(record.id)
        if (before !== undefined) {
          report(
            `Clip ${record.id} stands in line ${before} already.`,
            'Keep one of the two lines.',
          )
        }
        lineOfId.set(record.id, index + 1)
        manifest.clips.push(record)
        break
      }
      case 'dropped': {
        manifest.dropped.push(record)
        break
      }
      default:
        record satisfies never
    }
  }
  const { header, ...records } = manifest
  if (header === undefined && issues.length === 0) {
    issues.push({
      code: 'CONFIG_BAD_RECORD',
      message: 'There is no header line.',
      fix: 'A manifest begins with {"type": "manifest", "version": 1, …}; run clip-prep again.',
      file: fileName,
      line: 1,
      column: 1,
      path: '',
    })
  }
  if (issues.length > 0 || header === undefined)
    throw new ConfigError('CONFIG_BAD_MANIFEST', fileName, issues)
  return { header, ...records }
}

/** One line of manifest.jsonl, with its line break. */
export function formatManifestRecord(record: ManifestRecord): string {
  return `${JSON.stringify(record)}\n`
}

/** The text of manifest.jsonl: the header, the clips, then what was dropped. */
export function formatManifest({ header, clips, dropped }: DatasetManifest): string {
  return [header, ...clips, ...dropped].map(formatManifestRecord).join('')
}

/**
 * Reads bucket-plan.json.
 *
 * @throws ConfigError `CONFIG_BAD_PLAN` with everything that is wrong
 */
export function readBucketPlan(text: string, { fileName }: ReadTextOptions): BucketPlan {
  const issues: ConfigIssue[] = []
  const counter = new LineCounter()
  const report = (message: string, fix: string, offset: number, path: string) => {
    const { line, col } = counter.linePos(offset)
    issues.push({ code: 'CONFIG_BAD_FIELD', message, fix, file: fileName, line, column: col, path })
  }
  const fail = () => new ConfigError('CONFIG_BAD_PLAN', fileName, issues)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    addLines(counter, text)
    parseJson(text, (message, column) =>
      report(message, 'Run bucketer again; it writes the plan in one piece.', column - 1, ''),
    )
    throw fail()
  }
  const parsed = bucketPlanSchema.safeParse(value)
  const problems: (Problem & { at: readonly PropertyKey[] })[] = []
  if (parsed.success) {
    for (const [index, bucket] of parsed.data.buckets.entries()) {
      if (bucket.numFrames % 4 !== 1) {
        problems.push({
          at: ['buckets', index, 'numFrames'],
          message: `Bucket ${index} has ${bucket.numFrames} frames.`,
          fix: 'The model takes 4n+1 frames; run bucketer again.',
        })
      }
      for (const [itemIndex, item] of bucket.items.entries()) {
        if (item.frameIndices.length !== bucket.numFrames) {
          problems.push({
            at: ['buckets', index, 'items', itemIndex, 'frameIndices'],
            message: `${item.clip} has ${item.frameIndices.length} frames in a bucket of ${bucket.numFrames}.`,
            fix: 'Run bucketer again.',
          })
        } else if (
          item.frameIndices.some((frame, at) => frame < (item.frameIndices[at - 1] ?? 0))
        ) {
          problems.push({
            at: ['buckets', index, 'items', itemIndex, 'frameIndices'],
            message: `The frames of ${item.clip} go backwards.`,
            fix: 'Run bucketer again.',
          })
        }
      }
    }
    if (problems.length === 0) return parsed.data
  } else problems.push(...describeProblems(parsed.error, value))
  // Positions are worked out only here: a plan may be large, and is nearly always right.
  const document = parseDocument(text, { lineCounter: counter, prettyErrors: false })
  for (const { at, message, fix } of problems) {
    report(message, fix, locateNode(document, at, 'value'), formatPath(at))
  }
  throw fail()
}

/** The text of bucket-plan.json. */
export function formatBucketPlan(plan: BucketPlan): string {
  return `${JSON.stringify(plan, null, 2)}\n`
}

interface Problem {
  message: string
  fix: string
}

function describeProblems(
  error: z.ZodError,
  value: unknown,
): (Problem & { at: readonly PropertyKey[] })[] {
  return error.issues.flatMap((union) => {
    const issue = deepest(union)
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((key) => ({
        at: [...issue.path, key],
        message: `Unknown key "${key}".`,
        fix: 'It was written by a newer version, or by hand.',
      }))
    }
    const found = issue.path.reduce<unknown>(
      (inner, key) => (inner as Record<PropertyKey, unknown> | undefined)?.[key],
      value,
    )
    const name = formatPath(issue.path) || 'The record'
    const expected =
      describeExpected(issue) ?? issue.message.replace(/^(Invalid input: )?expected /i, '')
    return [
      found === undefined
        ? { at: issue.path, message: `"${name}" is missing.`, fix: `Expected ${expected}.` }
        : {
            at: issue.path,
            message: `"${name}" cannot be ${show(found)}.`,
            fix: `Expected ${expected}.`,
          },
    ]
  })
}

function describeIssues(
  line: string,
  error: z.ZodError,
  value: unknown,
): (Problem & { column: number; path: string })[] {
  const document = parseDocument(line, { prettyErrors: false })
  return describeProblems(error, value).map(({ at, message, fix }) => ({
    message,
    fix,
    column: locateNode(document, at, 'value') + 1,
    path: formatPath(at),
  }))
}

/** JSON.parse with the place of the error; undefined where there was one. */
function parseJson(text: string, report: (message: string, column: number) => void): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    const { message } = error as Error
    const position = /at position (\d+)/.exec(message)?.[1]
    const column = position === undefined ? text.trimEnd().length : Number(position)
    report(`Not JSON: ${message.replace(/ in JSON at position.*| at position.*/, '')}.`, column + 1)
    return undefined
  }
}

function addLines(counter: LineCounter, text: string): void {
  counter.addNewLine(0)
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1))
    counter.addNewLine(at + 1)
}
