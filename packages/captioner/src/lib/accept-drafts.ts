import { captionFile } from '@kinora/config-schema'
import { drain, lockFolder, parseOptions, type RunContext, type StageEvent } from '@kinora/stage'
import { rm } from 'node:fs/promises'
import { openJournal } from './caption-journal.ts'
import { tidy } from './compose-caption.ts'
import { acceptDraftsOptions, type AcceptDraftsOptions } from './options.ts'
import { readDataset } from './read-dataset.ts'

/** What became of the drafts; clips by name. */
export interface AcceptResult {
  accepted: { clip: string; file: string; text: string }[]
  /** Clips whose draft was left: a person’s caption is there, or the draft is blank. */
  left: { clip: string; reason: 'human-caption' | 'empty' }[]
}

/**
 * Turns drafts into captions. An accepted caption is a person’s: captioning leaves it alone from then on. Where a person
 * has written one already it stays, unless `replace` is set.
 */
export async function* acceptDraftsIter(
  options: AcceptDraftsOptions,
  { signal }: RunContext = {},
): AsyncGenerator<StageEvent, AcceptResult> {
  const { source, extension, replace, dryRun } = parseOptions(
    'CAPTIONER',
    acceptDraftsOptions,
    options,
  )
  const { folder, clips } = await readDataset(source)
  await using _lock = dryRun ? undefined : await lockFolder(folder)
  const journal = await openJournal(folder)
  const phase = 'accept'
  yield { type: 'started', phase, total: clips.length }
  const result: AcceptResult = { accepted: [], left: [] }
  for (const [index, clip] of clips.entries()) {
    signal?.throwIfAborted()
    const file = captionFile(clip.file, extension)
    const draftFile = captionFile(clip.file, `.draft${extension}`)
    const [draft, caption] = await Promise.all([journal.find(draftFile), journal.find(file)])
    if (draft.text !== null) {
      const text = tidy(draft.text)
      const reason =
        text === '' ? 'empty' : caption.owner === 'human' && !replace ? 'human-caption' : undefined
      if (reason === undefined) {
        if (!dryRun) {
          await journal.writeAccepted(file, `${text}\n`)
          await rm(draftFile, { force: true })
        }
        result.accepted.push({
          clip: clip.name,
          file: captionFile(clip.name, extension),
          text,
        })
      } else {
        result.left.push({ clip: clip.name, reason })
        yield { type: 'skipped', item: clip.name, reason }
      }
    }
    yield { type: 'progress', phase, done: index + 1, total: clips.length, item: clip.name }
  }
  return result
}

/** `acceptDraftsIter` run to its end. */
export function acceptDrafts(
  options: AcceptDraftsOptions,
  context?: RunContext,
): Promise<AcceptResult> {
  return drain(acceptDraftsIter(options, context))
}
