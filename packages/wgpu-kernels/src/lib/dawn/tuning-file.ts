import { randomUUID } from 'node:crypto'
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'

import { asAdapterRecord, type AdapterRecord, type TuningCache } from '../tuning/tuning-cache.ts'

const FORMAT = 1

/** Where what was found out about adapters is kept: `wgpu-tuning.json` in the user's cache folder. */
export function tuningFile(
  env: NodeJS.ProcessEnv = process.env,
  platform = process.platform,
): string {
  const home = homedir()
  const caches =
    env['XDG_CACHE_HOME'] ??
    (platform === 'win32'
      ? (env['LOCALAPPDATA'] ?? join(home, 'AppData', 'Local'))
      : platform === 'darwin'
        ? join(home, 'Library', 'Caches')
        : join(home, '.cache'))
  return join(caches, 'kinora', 'wgpu-tuning.json')
}

/** A file that cannot be parsed and one of another format have no records. */
function parseRecords(text: string): Map<string, AdapterRecord> | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  const { format, adapters } = (value ?? {}) as { format?: unknown; adapters?: unknown }
  if (format !== FORMAT || typeof adapters !== 'object' || adapters === null) return undefined
  const records = new Map<string, AdapterRecord>()
  for (const [key, entry] of Object.entries(adapters)) {
    const record = asAdapterRecord(entry)
    if (record) records.set(key, record)
  }
  return records
}

/**
 * A cache in a file. It is written beside and moved into place, so readers see all of it or the one before; of two processes
 * that save at once the later keeps its record, and the other finds it out again. What is wrong with the file is told once
 * and otherwise ignored.
 */
export function openTuningFile(file: string, onNote: (message: string) => void): TuningCache {
  const read = async (): Promise<Map<string, AdapterRecord>> => {
    let text: string
    try {
      text = await readFile(file, 'utf8')
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      if (code !== 'ENOENT' && code !== 'ENOTDIR') onNote(`${file} could not be read: ${message}`)
      return new Map()
    }
    const records = parseRecords(text)
    if (!records) onNote(`${file} is not a tuning file of this version; it is made anew.`)
    return records ?? new Map()
  }
  return {
    async load(key) {
      return (await read()).get(key)
    },
    async save(key, record) {
      const temporary = `${file}.${randomUUID()}`
      try {
        await mkdir(dirname(file), { recursive: true })
        const records = await read()
        records.set(key, record)
        const value = { format: FORMAT, adapters: Object.fromEntries(records) }
        await writeFile(temporary, `${JSON.stringify(value, null, 2)}\n`)
        await rename(temporary, file)
      } catch (error) {
        await rm(temporary, { force: true }).catch(() => undefined)
        onNote(
          `${file} could not be written (${(error as Error).message}); the next start tests again.`,
        )
      }
    },
  }
}
