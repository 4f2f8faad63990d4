import { readManifest } from '@kinora/config-schema'
import { codeSystemError, type RunContext, type StageEvent } from '@kinora/stage'
import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, dirname, extname, join, relative, sep } from 'node:path'
import type { PlanClip, SkipReason } from './assign-clip.ts'
import { bucketerErrors } from './errors.ts'

/** What a probe says of a video file. */
export interface ClipProbe {
  /** Pixels of the picture as shown. */
  width: number
  height: number
  /** Frames a second. */
  fps: number
  numFrames: number
  /** The frames are not evenly spaced in time. */
  vfr?: boolean | undefined
}

/** Looks into a video file, or a still picture where those are asked for. Throws where it is neither. */
export type ProbeClip = (file: string, context: RunContext) => Promise<ClipProbe>

/** What planning is given that cannot be written in a config file. */
export interface ReadContext extends RunContext {
  /** Needed only for folders of clips without a manifest. */
  probe?: ProbeClip | undefined
}

interface FoundClips {
  clips: PlanClip[]
  skipped: { clip: string; reason: SkipReason; detail: string }[]
}

/** What AI Toolkit takes for a video. */
const videoExtensions = new Set(['.mp4', '.avi', '.mov', '.webm', '.mkv', '.wmv', '.m4v', '.flv'])
/** Still pictures, which are clips of one frame where they are asked for. */
const imageExtensions = new Set(['.png', '.jpg', '.jpeg', '.webp'])

/**
 * Reads the clips of one dataset: from a manifest, or, in a folder without one, by probing each video file.
 *
 * @param source manifest.jsonl or a folder
 * @param planFolder the folder that clips are named relative to
 * @param images takes still pictures of a folder without a manifest too
 */
export async function* readClipsIter(
  source: string,
  planFolder: string,
  context: ReadContext,
  images = false,
): AsyncGenerator<StageEvent, FoundClips> {
  const manifest = await findManifest(source)
  if (manifest !== undefined) return readManifestClips(manifest, planFolder, context)
  const { probe } = context
  if (!probe) throw bucketerErrors.NO_PROBE(source)
  const extensions = images ? new Set([...videoExtensions, ...imageExtensions]) : videoExtensions
  const files = await listClips(source, extensions)
  const found: FoundClips = { clips: [], skipped: [] }
  const phase = `probe ${basename(source)}`
  yield { type: 'started', phase, total: files.length }
  for (const [index, file] of files.entries()) {
    context.signal?.throwIfAborted()
    const clip = nameFrom(planFolder, file)
    try {
      const { width, height, fps, numFrames, vfr = false } = await probe(file, context)
      if (vfr) {
        yield {
          type: 'warning',
          code: 'BUCKETER_VARIABLE_FRAME_RATE',
          message: `The frames of ${file} are not evenly spaced in time, so its samples will not keep the true speed.`,
          fix: 'Run clip-prep on it, which resamples by time stamps.',
        }
      }
      found.clips.push({ file: clip, width, height, fps, numFrames })
    } catch (error) {
      context.signal?.throwIfAborted()
      found.skipped.push({ clip, reason: 'unreadable', detail: (error as Error).message })
    }
    yield { type: 'progress', phase, done: index + 1, total: files.length, item: file }
  }
  return found
}

async function findManifest(source: string): Promise<string | undefined> {
  try {
    if (!(await stat(source)).isDirectory()) return source
  } catch (error) {
    throw codeSystemError(error, source)
  }
  const inside = join(source, 'manifest.jsonl')
  const exists = await stat(inside).then(
    () => true,
    () => false,
  )
  return exists ? inside : undefined
}

async function readManifestClips(
  manifest: string,
  planFolder: string,
  { signal }: ReadContext,
): Promise<FoundClips> {
  let text: string
  try {
    text = await readFile(manifest, { encoding: 'utf8', signal })
  } catch (error) {
    throw codeSystemError(error, manifest)
  }
  const found: FoundClips = { clips: [], skipped: [] }
  for (const record of readManifest(text, { fileName: manifest }).clips) {
    const file = join(dirname(manifest), record.file)
    const clip = nameFrom(planFolder, file)
    const { sha256, width, height, fps, numFrames } = record
    const there = await stat(file).then(
      (entry) => entry.isFile(),
      () => false,
    )
    if (there) found.clips.push({ file: clip, sha256, width, height, fps, numFrames })
    else {
      const detail = 'The manifest names it, and it is not there.'
      found.skipped.push({ clip, reason: 'missing-file', detail })
    }
  }
  return found
}

/** Every clip under the folder, sorted; hidden files and folders and `_controls` are not looked at, as in AI Toolkit. */
async function listClips(folder: string, extensions: ReadonlySet<string>): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true })
  const files: string[] = []
  for (const entry of entries) {
    if (entry.name.startsWith('.') || entry.name === '_controls') continue
    const path = join(folder, entry.name)
    if (entry.isDirectory()) files.push(...(await listClips(path, extensions)))
    else if (extensions.has(extname(entry.name).toLowerCase())) files.push(path)
  }
  return files.toSorted()
}

/** A path as plans spell it: relative to the plan's folder, with forward slashes. */
function nameFrom(folder: string, file: string): string {
  return relative(folder, file).split(sep).join('/')
}
