import type { ClipRecord, DroppedRecord } from '@kinora/config-schema'
import { writeFileAtomic } from '@kinora/stage'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, readFile, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { PictureArea } from './black-bars.ts'
import type { ClipFlag } from './clip-flags.ts'
import type { PictureScores } from './clip-scores.ts'
import type { FootageFile } from './list-footage.ts'
import type { PlannedClip } from './plan-clips.ts'
import type { VideoAnalysis } from './video-analysis.ts'

// What a run remembers for the next one, under <out>/.clip-prep: one small file for each thing done, written whole or not at
// all, so that a run may be killed anywhere.
//
//   sources/<hash of name>.json    size, time and inode of a source file, and the hash of its bytes
//   analyses/<hash of bytes>.<version>.json  what was measured on those bytes, or why they are no footage
//   clips/<id>.json                a finished clip

/** Raised whenever an analysis would come out differently. */
const analysisVersion = 5

/** What is remembered of a file's bytes: what was measured, or why they are no footage. */
export type StoredAnalysis =
  | { version: number; kind: 'video'; analysis: VideoAnalysis; pictures: PictureArea[] }
  | {
      version: number
      kind: 'refused'
      refusal: Pick<DroppedRecord, 'reason' | 'detail' | 'start' | 'end'>
    }

/** A finished clip, with what later runs need of it beyond the manifest. */
export interface StoredClip {
  id: string
  record: ClipRecord
  sizeBytes: number
  pictures: PictureScores
  /** Set when a run left the clip out for this flag and took its files away. */
  droppedFor?: ClipFlag
  shotCurve: PlannedClip['shotCurve']
}

/** The memory of an output folder: sources, analyses and finished clips, each found again by content. */
export interface WorkState {
  /** SHA-256 of a file's bytes; read again only when its size, time or inode changed. */
  hashSource(footage: FootageFile, signal?: AbortSignal): Promise<string>
  readAnalysis(sha256: string): Promise<StoredAnalysis | undefined>
  writeAnalysis(sha256: string, stored: StoredAnalysis): Promise<void>
  /** A clip of this id whose file is still there, unchanged in size, or that was left out on purpose. */
  readClip(id: string): Promise<StoredClip | undefined>
  writeClip(clip: StoredClip): Promise<void>
  /** Takes the files of clips that were left out away, and remembers why. */
  hideClips(clips: readonly (StoredClip & { droppedFor: ClipFlag })[]): Promise<void>
  /**
   * Removes clips that earlier runs made and `keep` does not name. Files that others put beside them stay, and so does the
   * memory of clips that were left out on purpose, which have no files.
   */
  removeOtherClips(keep: ReadonlySet<string>): Promise<number>
}

/** Opens the memory of `out`; with `readOnly` nothing is written. */
export function openWorkState(out: string, { readOnly = false } = {}): WorkState {
  const root = join(out, '.clip-prep')
  const save = async (file: string, value: unknown) => {
    if (!readOnly) await writeFileAtomic(file, JSON.stringify(value))
  }
  const sourceFile = (file: string) => join(root, 'sources', `${shortHash(file)}.json`)
  // The version is in the name, so that an old one is not read to find that out: it may be large.
  const analysisFile = (sha256: string) =>
    join(root, 'analyses', `${sha256}.${analysisVersion}.json`)
  const clipFile = (id: string) => join(root, 'clips', `${id}.json`)

  return {
    async hashSource(footage, signal) {
      const known = await load<{ file: string; stamp: string; sha256: string }>(
        sourceFile(footage.file),
      )
      if (known?.file === footage.file && known.stamp === footage.stamp) return known.sha256
      const sha256 = await hashFile(footage.path, signal)
      await save(sourceFile(footage.file), { file: footage.file, stamp: footage.stamp, sha256 })
      return sha256
    },
    async readAnalysis(sha256) {
      const stored = await load<StoredAnalysis>(analysisFile(sha256))
      return stored?.version === analysisVersion ? stored : undefined
    },
    async writeAnalysis(sha256, stored) {
      if (readOnly) return
      const pieces = jsonPieces({ ...stored, version: analysisVersion })
      await writeFileAtomic(analysisFile(sha256), encoded(pieces))
    },
    async readClip(id) {
      const stored = await load<StoredClip>(clipFile(id))
      if (stored?.id !== id) return undefined
      if (stored.droppedFor !== undefined) return stored
      const [clip, strip] = await Promise.all([
        stat(join(out, stored.record.file)).catch(() => undefined),
        stored.record.strip ? stat(join(out, stored.record.strip)).catch(() => undefined) : true,
      ])
      return clip?.size === stored.sizeBytes && strip ? stored : undefined
    },
    async writeClip(clip) {
      await save(clipFile(clip.id), clip)
    },
    async hideClips(clips) {
      for (const clip of clips) {
        await save(clipFile(clip.id), clip)
        for (const file of [clip.record.file, clip.record.strip])
          if (file && !readOnly) await rm(join(out, file), { force: true })
      }
    },
    async removeOtherClips(keep) {
      if (readOnly) return 0
      let removed = 0
      const kept = new Set<string>()
      const others: StoredClip[] = []
      for (const name of await readdir(join(root, 'clips')).catch(() => [])) {
        if (!name.endsWith('.json') || name.startsWith('.')) continue
        const stored = await load<StoredClip>(join(root, 'clips', name))
        if (!stored) continue
        if (keep.has(stored.id)) {
          kept.add(stored.record.file)
          if (stored.record.strip) kept.add(stored.record.strip)
        } else if (stored.droppedFor === undefined) others.push(stored)
      }
      for (const { id, record } of others) {
        for (const file of [record.file, record.strip])
          if (file && !kept.has(file)) await rm(join(out, file), { force: true })
        await rm(clipFile(id), { force: true })
        removed++
      }
      return removed
    },
  }
}

const pieceLength = 1000

/** A value as JSON, piece by piece: that of hours of footage is some 40 MB, which need not be in memory as one text. */
function* jsonPieces(value: unknown): Generator<string> {
  if (Array.isArray(value) && value.length > pieceLength) {
    yield '['
    for (let from = 0; from < value.length; from += pieceLength) {
      const slice = JSON.stringify(value.slice(from, from + pieceLength)).slice(1, -1)
      yield from === 0 ? slice : `,${slice}`
    }
    yield ']'
  } else if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    let next = '{'
    for (const [key, part] of Object.entries(value)) {
      if (part === undefined) continue
      yield `${next}${JSON.stringify(key)}:`
      yield* jsonPieces(part)
      next = ','
    }
    yield next === '{' ? '{}' : '}'
  } else yield JSON.stringify(value)
}

function* encoded(pieces: Iterable<string>): Generator<Uint8Array> {
  const encoder = new TextEncoder()
  for (const piece of pieces) yield encoder.encode(piece)
}

async function load<T>(file: string): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as T
  } catch {
    // Missing, or of another program: made again.
    return undefined
  }
}

function shortHash(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32)
}

/** SHA-256 of a file, read in pieces. */
export async function hashFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, {
    highWaterMark: 1 << 20,
    ...(signal ? { signal } : {}),
  }) as AsyncIterable<Uint8Array>)
    hash.update(chunk)
  return hash.digest('hex')
}
