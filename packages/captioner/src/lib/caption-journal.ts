import { codeSystemError, writeFileAtomic } from '@kinora/stage'
import { createHash } from 'node:crypto'
import { appendFile, readFile } from 'node:fs/promises'
import { join, relative, sep } from 'node:path'
import { z } from 'zod'

// .captioner.jsonl: which captions this program wrote, one line each time: the file and the sha256 of its bytes. A caption
// whose hash is not here was written or edited by a person. The line is added before the caption is written: a run killed in
// between leaves a line too many, never a caption that looks like a person's. `accepted` takes a hash back: a person has
// made the caption theirs.

const lineSchema = z.strictObject({
  file: z.string(),
  sha256: z.string().length(64),
  accepted: z.literal(true).optional(),
})

/** Whose a caption file is. `none`: there is no file, or only blank space in it. */
type CaptionOwner = 'none' | 'captioner' | 'human'

/** A caption file as found. */
interface FoundCaption {
  owner: CaptionOwner
  /** Null where there is no file. */
  text: string | null
}

export interface CaptionJournal {
  /** Reads a caption file and says whose it is. */
  find(file: string): Promise<FoundCaption>
  /** Writes a caption of ours: the journal first, then the file, whole or not at all. */
  write(file: string, text: string): Promise<void>
  /** Writes a caption that a person has chosen, and forgets that it may once have been ours. */
  writeAccepted(file: string, text: string): Promise<void>
}

/** Opens the journal of a dataset's folder; there need not be one yet. */
export async function openJournal(folder: string): Promise<CaptionJournal> {
  const journal = join(folder, '.captioner.jsonl')
  const written = new Map<string, Set<string>>()
  const remember = ({ file, sha256: hash, accepted }: z.output<typeof lineSchema>): void => {
    const hashes = written.get(file) ?? new Set()
    if (accepted) hashes.delete(hash)
    else hashes.add(hash)
    written.set(file, hashes)
  }
  const before = (await readIfThere(journal)) ?? ''
  for (const line of before.split('\n')) {
    const entry = parseLine(line)
    if (entry) remember(entry)
  }
  let separator = before === '' || before.endsWith('\n') ? '' : '\n'
  const nameOf = (file: string): string => relative(folder, file).split(sep).join('/')

  async function record(entry: z.output<typeof lineSchema>): Promise<void> {
    try {
      await appendFile(journal, `${separator}${JSON.stringify(entry)}\n`)
    } catch (error) {
      throw codeSystemError(error, journal)
    }
    separator = ''
    remember(entry)
  }

  return {
    async find(file) {
      const text = await readIfThere(file)
      if (text === null || text.trim() === '') return { owner: 'none', text }
      const ours = written.get(nameOf(file))?.has(sha256(text)) === true
      return { owner: ours ? 'captioner' : 'human', text }
    },
    async write(file, text) {
      await record({ file: nameOf(file), sha256: sha256(text) })
      await writeFileAtomic(file, text)
    },
    async writeAccepted(file, text) {
      if (written.get(nameOf(file))?.has(sha256(text))) {
        await record({ file: nameOf(file), sha256: sha256(text), accepted: true })
      }
      await writeFileAtomic(file, text)
    },
  }
}

function parseLine(line: string): z.output<typeof lineSchema> | undefined {
  try {
    return lineSchema.parse(JSON.parse(line))
  } catch {
    // Half a line is what a killed run leaves. To know less only means to protect more captions.
    return undefined
  }
}

async function readIfThere(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw codeSystemError(error, file)
  }
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
