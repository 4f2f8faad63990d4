import { createHash } from 'node:crypto'
import { access, mkdir, readFile, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { openSafetensors, SafetensorsError, writeSafetensors } from '@kinora/safetensors'
import { codeSystemError, writeFileAtomic } from '@kinora/stage'
import { trainerErrors } from '../errors.ts'
import type { Sample, SampleMask } from '../data/dataset.ts'

// What is cached, under which name, and how it lies on disk:
//
//   <cache>/latents/<key>.safetensors   latents [Z, F, H, W] f32: the posterior's mean, normalised
//                                       deviation [Z, F, H, W] f16: its standard deviation, normalised
//                                       condition [Z, F, H, W] f32: first frame + grey, encoded and normalised
//   <cache>/latents/<key>.json          in its place when the clip could not be read: { clip, reason }
//   <cache>/masks/<key>.safetensors     mask [F, H, W] f32: share of white of each latent cell
//   <cache>/text/<key>.safetensors      embedding [n, dim] f32: the real tokens; the rest are zeros
//
// A key is a hash of everything the content depends on, so a changed clip, size or checkpoint is another file.

/** Bump when the content of an entry changes for the same inputs. */
const formatVersion = 1

const hashOf = (value: unknown): string =>
  createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 32)

/** Key of a sample's latents. */
export function latentsKey(
  { item, bucket }: Pick<Sample, 'item' | 'bucket'>,
  clipHash: string,
  vaeFingerprint: string,
): string {
  const { frameIndices, resize, crop, flip, flipVertical = false } = item
  return hashOf([
    formatVersion,
    clipHash,
    frameIndices,
    [resize.width, resize.height],
    [crop.x, crop.y, crop.width, crop.height],
    [flip, flipVertical],
    [bucket.width, bucket.height],
    vaeFingerprint,
  ])
}

/** Key of a sample's loss mask. */
export function maskKey(
  { item, bucket }: Pick<Sample, 'item' | 'bucket'>,
  mask: SampleMask,
): string {
  return latentsKey({ item, bucket }, mask.hash, `mask ${mask.kind} ${mask.invert}`)
}

/** Key of a text's embedding. */
export function textKey(text: string, textFingerprint: string): string {
  return hashOf([formatVersion, text, textFingerprint])
}

/** One sample's latents on the host, each [Z, F, H, W]. */
export interface LatentsEntry {
  shape: readonly [number, number, number, number]
  latents: Float32Array
  deviation: Float32Array
  condition: Float32Array
}

/** The real rows of a text's embedding, [numTokens, dim]. */
export interface TextEntry {
  numTokens: number
  dim: number
  values: Float32Array
}

/** Why a clip has no latents. */
export interface UnreadableClip {
  clip: string
  reason: string
}

const tensorsOfKind = {
  latents: ['latents', 'deviation', 'condition'],
  masks: ['mask'],
  text: ['embedding'],
} as const
type EntryKind = keyof typeof tensorsOfKind

/** A folder of cached latents, masks and embeddings. */
export class CacheFolder {
  readonly folder: string

  constructor(folder: string) {
    this.folder = folder
  }

  #file(kind: EntryKind, key: string): string {
    return join(this.folder, kind, `${key}.safetensors`)
  }

  /** Whether an entry is there and whole. A damaged one counts as missing, and will be written anew. */
  async has(kind: EntryKind, key: string): Promise<boolean> {
    const file = this.#file(kind, key)
    try {
      await access(file)
    } catch {
      return false
    }
    try {
      await using entry = await openSafetensors(file)
      return tensorsOfKind[kind].every((name) => entry.tensors.has(name))
    } catch (error) {
      if (error instanceof SafetensorsError) return false
      throw error
    }
  }

  async writeLatents(key: string, entry: LatentsEntry, clip: string): Promise<void> {
    const { shape } = entry
    await this.#write(
      this.#file('latents', key),
      [
        { name: 'latents', dtype: 'F32', shape, data: entry.latents },
        { name: 'deviation', dtype: 'F16', shape, data: entry.deviation },
        { name: 'condition', dtype: 'F32', shape, data: entry.condition },
      ],
      { clip: basename(clip) },
    )
    await rm(this.#unreadableFile(key), { force: true })
  }

  readLatents(key: string): Promise<LatentsEntry> {
    return this.#read(this.#file('latents', key), async (entry) => {
      const shape = entry.tensors.get('latents')!.shape
      return {
        shape: [shape[0]!, shape[1]!, shape[2]!, shape[3]!],
        latents: await entry.readF32('latents'),
        deviation: await entry.readF32('deviation'),
        condition: await entry.readF32('condition'),
      }
    })
  }

  async writeMask(
    key: string,
    { shape, values }: { shape: readonly [number, number, number]; values: Float32Array },
    clip: string,
  ): Promise<void> {
    await this.#write(
      this.#file('masks', key),
      [{ name: 'mask', dtype: 'F32', shape, data: values }],
      { clip: basename(clip) },
    )
  }

  /** Shares of white, [F, H, W]. */
  readMask(key: string): Promise<Float32Array> {
    return this.#read(this.#file('masks', key), (entry) => entry.readF32('mask'))
  }

  async writeText(key: string, { numTokens, dim, values }: TextEntry, text: string): Promise<void> {
    await this.#write(
      this.#file('text', key),
      [{ name: 'embedding', dtype: 'F32', shape: [numTokens, dim], data: values }],
      { text },
    )
  }

  readText(key: string): Promise<TextEntry> {
    return this.#read(this.#file('text', key), async (entry) => {
      const shape = entry.tensors.get('embedding')!.shape
      return {
        numTokens: shape[0]!,
        dim: shape[1]!,
        values: await entry.readF32('embedding'),
      }
    })
  }

  #unreadableFile(key: string): string {
    return join(this.folder, 'latents', `${key}.json`)
  }

  /** Remembers that a clip cannot be encoded, so that training leaves it out knowingly. */
  async writeUnreadable(key: string, clip: UnreadableClip): Promise<void> {
    await writeFileAtomic(this.#unreadableFile(key), `${JSON.stringify(clip)}\n`)
  }

  /** Why there are no latents under a key; undefined where nothing is known. */
  async readUnreadable(key: string): Promise<UnreadableClip | undefined> {
    try {
      return JSON.parse(await readFile(this.#unreadableFile(key), 'utf8')) as UnreadableClip
    } catch {
      return undefined
    }
  }

  async #write(...args: Parameters<typeof writeSafetensors>): Promise<void> {
    const [file] = args
    try {
      await mkdir(dirname(file), { recursive: true })
      await writeSafetensors(...args)
    } catch (error) {
      if (error instanceof SafetensorsError && error.cause) throw codeSystemError(error.cause, file)
      throw codeSystemError(error, file)
    }
  }

  async #read<T>(
    file: string,
    read: (entry: Awaited<ReturnType<typeof openSafetensors>>) => Promise<T>,
  ): Promise<T> {
    try {
      await using entry = await openSafetensors(file)
      return await read(entry)
    } catch (cause) {
      throw trainerErrors.CACHE_UNREADABLE(file, (cause as Error).message, { cause })
    }
  }
}
