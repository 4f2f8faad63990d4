import { writeFileAtomic } from '@kinora/stage'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'

const entrySchema = z.object({ model: z.string(), prompt: z.string(), text: z.string().min(1) })

/** Answers on disk, one small JSON file each, named by what was asked. */
export interface AnswerCache {
  read(key: string): Promise<string | undefined>
  write(key: string, entry: z.output<typeof entrySchema>): Promise<void>
}

export function openAnswerCache(folder: string): AnswerCache {
  const fileOf = (key: string): string => join(folder, `${key}.json`)
  return {
    async read(key) {
      try {
        return entrySchema.parse(JSON.parse(await readFile(fileOf(key), 'utf8'))).text
      } catch {
        // Missing, or not ours: ask again.
        return undefined
      }
    },
    write: (key, entry) => writeFileAtomic(fileOf(key), `${JSON.stringify(entry, null, 2)}\n`),
  }
}

/** A name for what is asked: the same for the same clip bytes, model, instruction, frames and sampling. */
export function answerKey(asked: Readonly<Record<string, unknown>>): string {
  return createHash('sha256').update(JSON.stringify(asked)).digest('hex').slice(0, 40)
}

/** sha256 of a file’s bytes, read as a stream. */
export async function fileSha256(file: string, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file, { signal })) hash.update(chunk as Uint8Array)
  return hash.digest('hex')
}
