import { formatManifest, type ClipMotion, type ClipRecord } from '@kinora/config-schema'
import { createHash } from 'node:crypto'
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

/** A dataset in a temporary folder: a manifest, and small real clips of 17 frames. */
export interface TestDataset extends AsyncDisposable {
  folder: string
  /** Path of a file in it. */
  path(name: string): string
  read(name: string): Promise<string>
  write(name: string, text: string): Promise<void>
}

export interface TestClip {
  motion?: Partial<ClipMotion> | null
  facts?: Partial<ClipRecord>
  /** Bytes instead of a real clip. */
  bytes?: string
}

const realClips = join(import.meta.dirname, '../../tiny-wan/eval')
const numRealClips = 6

/** Measured motion of a clip; nothing moves where nothing is said. */
export function motion(facts: Partial<ClipMotion> = {}): ClipMotion {
  return {
    camera: 'static',
    confidence: 1,
    panPerSecond: 0,
    tiltPerSecond: 0,
    zoomPerSecond: 0,
    rollPerSecond: 0,
    parallax: 0,
    subject: 0,
    curve: [],
    ...facts,
  }
}

/**
 * @param clips by name, such as `clips/a.mp4`
 * @param manifest false leaves it out: a folder of bare clips
 */
export async function makeDataset(
  clips: Readonly<Record<string, TestClip>>,
  { manifest = true }: { manifest?: boolean } = {},
): Promise<TestDataset> {
  const folder = await mkdtemp(join(tmpdir(), 'captioner-'))
  const records: ClipRecord[] = []
  for (const [index, [name, clip]] of Object.entries(clips).entries()) {
    const file = join(folder, name)
    await mkdir(dirname(file), { recursive: true })
    if (clip.bytes === undefined) {
      await copyFile(join(realClips, `${(index % numRealClips) + 1}.mp4`), file)
    } else await writeFile(file, clip.bytes)
    records.push(clipRecord(name, await readFile(file), clip))
  }
  if (manifest) {
    const header = {
      type: 'manifest',
      version: 1,
      tool: 'test',
      source: 'footage',
      options: {},
    } as const
    await writeFile(
      join(folder, 'manifest.jsonl'),
      formatManifest({ header, clips: records, dropped: [] }),
    )
  }
  return {
    folder,
    path: (name) => join(folder, name),
    read: (name) => readFile(join(folder, name), 'utf8'),
    write: (name, text) => writeFile(join(folder, name), text),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  }
}

function clipRecord(file: string, bytes: Uint8Array, clip: TestClip): ClipRecord {
  return {
    type: 'clip',
    id: file,
    file,
    sha256: createHash('sha256').update(bytes).update(file).digest('hex'),
    width: 256,
    height: 256,
    fps: 16,
    numFrames: 17,
    duration: 17 / 16,
    source: {
      file: 'take.mp4',
      sha256: 'b'.repeat(64),
      start: 0,
      end: 17 / 16,
      width: 256,
      height: 256,
      fps: 24,
      shot: { index: 0, start: 0, end: 3 },
    },
    trim: { head: 0, tail: 0, reason: 'It moves throughout.', threshold: 0.01 },
    speed: 1,
    crop: null,
    motion: clip.motion ? motion(clip.motion) : null,
    scores: {},
    flags: [],
    ...clip.facts,
  }
}
