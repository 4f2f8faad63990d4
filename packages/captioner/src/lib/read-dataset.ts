import { captionFile, readManifest, type ClipRecord } from '@kinora/config-schema'
import { codeSystemError } from '@kinora/stage'
import { readdir, readFile, stat } from 'node:fs/promises'
import { dirname, extname, join, relative, sep } from 'node:path'
import { captionerErrors } from './errors.ts'

/** A clip to caption. */
export interface DatasetClip {
  /** Path of the file. */
  file: string
  /** Relative to the dataset’s folder, with forward slashes: what events and results call it. */
  name: string
  /** What clip-prep measured; absent for a folder without a manifest. */
  record: ClipRecord | undefined
}

export interface Dataset {
  /** The folder of the manifest, or the folder of clips. */
  folder: string
  clips: DatasetClip[]
}

const videoExtensions = new Set('.mp4 .avi .mov .webm .mkv .wmv .m4v .flv'.split(' '))

/** Reads a manifest.jsonl, the folder that holds one, or a folder of videos without one. Clips are sorted by name. */
export async function readDataset(source: string): Promise<Dataset> {
  const manifest = await findManifest(source)
  const folder = manifest === undefined ? source : dirname(manifest)
  const clips =
    manifest === undefined
      ? (await listVideos(source)).map((file) => ({ file, record: undefined }))
      : (await readManifestClips(manifest)).map((record) => ({
          file: join(folder, record.file),
          record,
        }))
  if (clips.length === 0) throw captionerErrors.NO_CLIPS(source)
  const named = clips
    .map((clip) => ({ ...clip, name: relative(folder, clip.file).split(sep).join('/') }))
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
  const owners = new Map<string, string>()
  for (const { name } of named) {
    const stem = captionFile(name, '')
    const other = owners.get(stem)
    if (other !== undefined) throw captionerErrors.SHARED_CAPTION(other, name)
    owners.set(stem, name)
  }
  return { folder, clips: named }
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

async function readManifestClips(manifest: string): Promise<ClipRecord[]> {
  let text: string
  try {
    text = await readFile(manifest, 'utf8')
  } catch (error) {
    throw codeSystemError(error, manifest)
  }
  return readManifest(text, { fileName: manifest }).clips
}

async function listVideos(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true })
  const files: string[] = []
  for (const entry of entries) {
    if (entry.name.startsWith('.') || entry.name === '_controls') continue
    const path = join(folder, entry.name)
    if (entry.isDirectory()) files.push(...(await listVideos(path)))
    else if (videoExtensions.has(extname(entry.name).toLowerCase())) files.push(path)
  }
  return files
}
