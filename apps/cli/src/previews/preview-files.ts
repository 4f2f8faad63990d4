import { readdir } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { readFrames, readImage, type RgbImage } from '@kinora/media'
import type { RunContext } from '@kinora/stage'
import sharp from 'sharp'

/** A preview that a run has made. */
export interface PreviewFile {
  step: number
  /** Of the prompt, in the order of the job. */
  index: number
  path: string
}

/** `000000250_0.mp4`: step and prompt. */
const namePattern = /^(\d{9})_(\d+)\.(?:mp4|webp|jpg|png)$/

/** The name of a preview without its folder. */
export function previewName(step: number, index: number, format: string): string {
  return `${String(step).padStart(9, '0')}_${index}.${format}`
}

/** Previews of a folder, by step, then by prompt. */
export async function listPreviews(folder: string): Promise<PreviewFile[]> {
  const names = await readdir(folder).catch(() => [])
  return names
    .flatMap((name): PreviewFile[] => {
      const [, step, index] = namePattern.exec(name) ?? []
      return step === undefined
        ? []
        : [{ step: Number(step), index: Number(index), path: join(folder, name) }]
    })
    .toSorted((a, b) => a.step - b.step || a.index - b.index)
}

/** All frames of a preview as its file has them, in order. */
export async function readPreview(path: string, { signal }: RunContext = {}): Promise<RgbImage[]> {
  switch (extname(path)) {
    case '.mp4': {
      const frames: RgbImage[] = []
      for await (const { width, height, data } of readFrames(path, {}, { signal })) {
        frames.push({ width, height, data })
      }
      return frames
    }
    case '.webp':
      return readAnimation(path)
    default:
      return [await readImage(path)]
  }
}

/** ffmpeg does not decode animated WebP; sharp gives its frames as one tall picture. */
async function readAnimation(path: string): Promise<RgbImage[]> {
  const { data, info } = await sharp(path, { pages: -1 })
    .removeAlpha()
    .toColourspace('srgb')
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true })
  const height = info.pageHeight ?? info.height
  const size = info.width * height * 3
  return Array.from({ length: Math.round(info.height / height) }, (_, page) => ({
    width: info.width,
    height,
    data: data.subarray(page * size, (page + 1) * size),
  }))
}

/** Mean absolute difference of two previews over the frames both have, in gray levels; undefined where sizes differ. */
export function meanChange(
  before: readonly RgbImage[],
  after: readonly RgbImage[],
): number | undefined {
  const numFrames = Math.min(before.length, after.length)
  let sum = 0
  let count = 0
  for (let frame = 0; frame < numFrames; frame++) {
    const a = before[frame]!
    const b = after[frame]!
    if (a.width !== b.width || a.height !== b.height) return undefined
    for (let i = 0; i < a.data.length; i++) sum += Math.abs(a.data[i]! - b.data[i]!)
    count += a.data.length
  }
  return count === 0 ? undefined : sum / count
}
