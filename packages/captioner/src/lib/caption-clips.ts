import { captionFile } from '@kinora/config-schema'
import { drain, lockFolder, parseOptions, type StageEvent } from '@kinora/stage'
import { openJournal, type CaptionJournal } from './caption-journal.ts'
import { composeCaption, tidy } from './compose-caption.ts'
import { captionerErrors, type CaptionSkipReason } from './errors.ts'
import { inParallel } from './in-parallel.ts'
import { captionClipsOptions, type CaptionClipsOptions, type CaptionSettings } from './options.ts'
import type { CaptionContext, CaptionProvider, CaptionUsage } from './providers/caption-provider.ts'
import { captionProviders } from './providers/caption-providers.ts'
import { readDataset, type DatasetClip } from './read-dataset.ts'

/** What became of one clip. */
export interface CaptionedClip {
  clip: string
  /** The caption file, or the draft with `review`; beside the clip. */
  file: string
  /**
   * `written`; `unchanged`: it said this already; `kept`: a person’s, untouched; `failed`: no caption, see `reason`;
   * `planned`: a dry run.
   */
  status: 'written' | 'unchanged' | 'kept' | 'failed' | 'planned'
  text?: string
  reason?: CaptionSkipReason
  detail?: string
  /** What would be asked, in a dry run with a model. */
  request?: Record<string, unknown>
}

/** What a run of captioning gives back. */
export interface CaptionResult {
  clips: CaptionedClip[]
  counts: Record<CaptionedClip['status'], number>
  usage: CaptionUsage
}

/**
 * Writes a caption beside every clip that has none or one of ours. A caption that a person wrote or edited is never
 * touched. A clip that cannot be captioned is a `skipped` event and the run goes on.
 */
export async function* captionClipsIter(
  options: CaptionClipsOptions,
  context: CaptionContext = {},
): AsyncGenerator<StageEvent, CaptionResult> {
  const settings = parseOptions('CAPTIONER', captionClipsOptions, options)
  const dataset = await readDataset(settings.source)
  const provider = await captionProviders[settings.provider](dataset, settings, context)
  await using _lock = settings.dryRun ? undefined : await lockFolder(dataset.folder)
  const journal = await openJournal(dataset.folder)
  const { clips } = dataset

  const phase = settings.review ? 'draft' : 'caption'
  yield { type: 'started', phase, total: clips.length }
  const done: CaptionedClip[] = []
  const work = (clip: DatasetClip, signal: AbortSignal) =>
    captionClip(clip, settings, provider, journal, signal)
  for await (const captioned of inParallel(clips, provider.concurrency, work, context.signal)) {
    done.push(captioned)
    const { clip, status, reason, detail } = captioned
    if (reason !== undefined) {
      yield { type: 'skipped', item: clip, reason, ...(detail !== undefined && { detail }) }
    }
    const { requests } = provider.usage()
    yield {
      type: 'progress',
      phase,
      done: done.length,
      total: clips.length,
      item: `${clip} ${status}`,
      ...(requests > 0 && { values: { requests } }),
    }
  }
  const usage = provider.usage()
  if (done.some(({ reason }) => reason === 'budget')) {
    yield {
      type: 'warning',
      code: 'CAPTIONER_BUDGET_REACHED',
      message: `The budget was reached after ${usage.requests} requests; some clips have no caption.`,
      fix: 'Raise the budget and run the same command again: what was answered is kept.',
    }
  }
  const counts = { written: 0, unchanged: 0, kept: 0, failed: 0, planned: 0 }
  for (const { status } of done) counts[status]++
  if (counts.failed > (settings.maxSkipped ?? Infinity)) {
    throw captionerErrors.TOO_MANY_SKIPPED(counts.failed, settings.maxSkipped!)
  }
  return { clips: done.toSorted((a, b) => (a.clip < b.clip ? -1 : 1)), counts, usage }
}

/** `captionClipsIter` run to its end. */
export function captionClips(
  options: CaptionClipsOptions,
  context?: CaptionContext,
): Promise<CaptionResult> {
  return drain(captionClipsIter(options, context))
}

async function captionClip(
  clip: DatasetClip,
  settings: CaptionSettings,
  provider: CaptionProvider,
  journal: CaptionJournal,
  signal: AbortSignal,
): Promise<CaptionedClip> {
  const { extension, review, dryRun } = settings
  const suffix = review ? `.draft${extension}` : extension
  const file = captionFile(clip.file, suffix)
  const named = { clip: clip.name, file: captionFile(clip.name, suffix) }
  const found = await journal.find(file)
  if (found.owner === 'human') {
    return {
      ...named,
      status: 'kept',
      reason: 'human-caption',
      detail: review
        ? 'Someone has edited the draft. Accept or delete it first.'
        : 'Someone has written or edited it.',
    }
  }
  if (dryRun && settings.provider !== 'template') {
    return { ...named, status: 'planned', request: await provider.preview(clip) }
  }
  const outcome = await provider.caption(clip, signal)
  if ('reason' in outcome) return { ...named, status: 'failed', ...outcome }
  const text = composeCaption(tidy(outcome.text), clip, settings)
  if (dryRun) return { ...named, status: 'planned', text }
  if (found.text?.trim() === text) return { ...named, status: 'unchanged', text }
  signal.throwIfAborted()
  await journal.write(file, `${text}\n`)
  return { ...named, status: 'written', text }
}
