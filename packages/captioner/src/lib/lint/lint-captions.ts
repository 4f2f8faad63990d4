import { captionFile, readBucketPlan } from '@kinora/config-schema'
import {
  codeSystemError,
  drain,
  lockFolder,
  parseOptions,
  writeFileAtomic,
  type RunContext,
  type StageEvent,
} from '@kinora/stage'
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join, relative, resolve, sep } from 'node:path'
import { openJournal } from '../caption-journal.ts'
import { lintCaptionsOptions, type LintCaptionsOptions, type LintSettings } from '../options.ts'
import { readDataset, type Dataset } from '../read-dataset.ts'
import type { LintFinding, LintSeverity } from './finding.ts'
import { fixCaption, lintCaption, type LintSubject } from './lint-caption.ts'
import { loadTokenizer, type CaptionTokenizer } from './load-tokenizer.ts'
import { nearIdentical } from './near-identical.ts'

/** What linting is given that cannot be written in a config file. */
export interface LintContext extends RunContext {
  /** Instead of the option `tokenizer`. */
  tokenizer?: CaptionTokenizer | undefined
}

/** What lint found, by file. */
export interface LintResult {
  numClips: number
  findings: LintFinding[]
  /** Findings that are not mended. */
  counts: Record<LintSeverity, number>
  /** Files that `fix` has written, or would write in a dry run. */
  fixed: string[]
}

/** Checks every caption of a dataset, and mends what is safe to mend where `fix` is set. */
export async function* lintCaptionsIter(
  options: LintCaptionsOptions,
  { signal, tokenizer: given }: LintContext = {},
): AsyncGenerator<StageEvent, LintResult> {
  const settings = parseOptions('CAPTIONER', lintCaptionsOptions, options)
  const dataset = await readDataset(settings.source)
  const tokenizer =
    given ??
    (settings.tokenizer === undefined ? undefined : await loadTokenizer(settings.tokenizer))
  const flips = await readFlips(settings)
  const writes = settings.fix && !settings.dryRun
  await using _lock = writes ? await lockFolder(dataset.folder) : undefined
  const journal = await openJournal(dataset.folder)

  const phase = 'lint'
  yield { type: 'started', phase, total: dataset.clips.length }
  const findings: LintFinding[] = []
  const captions = new Map<string, string>()
  const fixed: string[] = []
  for (const [index, clip] of dataset.clips.entries()) {
    signal?.throwIfAborted()
    const path = captionFile(clip.file, settings.extension)
    const draft = captionFile(clip.file, `.draft${settings.extension}`)
    const [{ owner, text }, { text: draftText }] = await Promise.all([
      journal.find(path),
      journal.find(draft),
    ])
    const subject: LintSubject = {
      clip,
      file: captionFile(clip.name, settings.extension),
      text,
      hasDraft: draftText !== null,
      flips: flips(clip.file),
    }
    const found = lintCaption(subject, settings, tokenizer)
    const mended = text === null ? null : fixCaption(text, settings.trigger)
    if (settings.fix && mended && found.some(({ fixable }) => fixable === 'yes')) {
      const write = owner === 'captioner' ? journal.write : writeFileAtomic
      if (writes) await write(path, `${mended}\n`)
      fixed.push(subject.file)
      for (const finding of found) if (finding.fixable === 'yes') finding.fixable = 'done'
    }
    findings.push(...found)
    if (text !== null && text.trim() !== '') captions.set(subject.file, text)
    yield { type: 'progress', phase, done: index + 1, total: dataset.clips.length, item: clip.name }
  }
  findings.push(...lintTogether(captions, settings), ...(await findOrphans(dataset, settings)))

  const counts = { error: 0, warning: 0, info: 0 }
  for (const { severity, fixable } of findings) if (fixable !== 'done') counts[severity]++
  const sorted = findings.toSorted((a, b) => (a.file < b.file ? -1 : a.file > b.file ? 1 : 0))
  return { numClips: dataset.clips.length, findings: sorted, counts, fixed }
}

/** `lintCaptionsIter` run to its end. */
export function lintCaptions(
  options: LintCaptionsOptions,
  context?: LintContext,
): Promise<LintResult> {
  return drain(lintCaptionsIter(options, context))
}

function lintTogether(
  captions: ReadonlyMap<string, string>,
  { similarity, trigger, goal }: LintSettings,
): LintFinding[] {
  const ignore = [trigger ?? '', '[trigger]', '[name]']
  return nearIdentical(captions, similarity, ignore).map(([file, ...others]) => ({
    rule: 'near-identical',
    // A motion LoRA is often taught with one sentence; a style or character that is, learns its scenes along with it.
    severity: goal === 'motion' ? 'info' : 'warning',
    file: file!,
    others,
    message: `${others.length + 1} captions say nearly the same: "${excerpt(captions.get(file!)!)}".`,
    fix:
      goal === 'motion'
        ? 'That is fine if the clips differ only in what is not to be learned.'
        : 'Say what is different in each clip, or it is learned as part of the subject.',
    fixable: 'no',
  }))
}

/** Caption files beside clips that belong to no clip: a renamed or dropped clip, or a slip in the name. */
async function findOrphans(
  { folder, clips }: Dataset,
  { extension }: LintSettings,
): Promise<LintFinding[]> {
  const stems = new Set(clips.map(({ file }) => captionFile(file, '')))
  const findings: LintFinding[] = []
  for (const inside of new Set(clips.map(({ file }) => dirname(file)))) {
    for (const name of await readdir(inside)) {
      if (!name.endsWith(extension) || name.startsWith('.')) continue
      const stem = join(inside, name.slice(0, -extension.length)).replace(/\.draft$/, '')
      if (stems.has(stem)) continue
      findings.push({
        rule: 'orphan-caption',
        severity: 'info',
        file: relative(folder, join(inside, name)).split(sep).join('/'),
        message: 'No clip has this name.',
        fix: 'Rename it to its clip, or delete it.',
        fixable: 'no',
      })
    }
  }
  return findings
}

/** Which clips are flipped: all, by option, or those of a plan. */
async function readFlips({
  flipX,
  flipY,
  plan,
}: LintSettings): Promise<(clip: string) => LintSubject['flips']> {
  if (plan === undefined) return () => ({ x: flipX, y: flipY })
  let text: string
  try {
    text = await readFile(plan, 'utf8')
  } catch (error) {
    throw codeSystemError(error, plan)
  }
  const byClip = new Map<string, LintSubject['flips']>()
  for (const { items } of readBucketPlan(text, { fileName: plan }).buckets) {
    for (const { clip, flip, flipVertical = false } of items) {
      const path = resolve(dirname(plan), clip)
      const before = byClip.get(path) ?? { x: flipX, y: flipY }
      byClip.set(path, { x: before.x || flip, y: before.y || flipVertical })
    }
  }
  return (clip) => byClip.get(resolve(clip)) ?? { x: flipX, y: flipY }
}

function excerpt(text: string): string {
  const line = text.trim()
  return line.length > 60 ? `${line.slice(0, 60)}…` : line
}

/** The findings for a person, file by file. */
export function formatLintResult({ numClips, findings, counts, fixed }: LintResult): string {
  const lines: string[] = []
  let file = ''
  for (const finding of findings) {
    if (finding.file !== file) lines.push((file = finding.file))
    const mark = finding.fixable === 'done' ? 'fixed' : finding.severity
    lines.push(`  ${mark.padEnd(7)}  ${finding.message} ${finding.fix} [${finding.rule}]`)
  }
  const count = (number: number, noun: string) => `${number} ${noun}${number === 1 ? '' : 's'}`
  const mended = fixed.length > 0 ? ` ${count(fixed.length, 'caption')} mended.` : ''
  lines.push(
    `${count(numClips, 'clip')}: ${count(counts.error, 'error')}, ${count(counts.warning, 'warning')}, ${counts.info} to look at.${mended}`,
  )
  return lines.join('\n')
}
