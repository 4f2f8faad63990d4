import { access } from 'node:fs/promises'
import { basename, extname, join, resolve } from 'node:path'
import type { TrainDataset } from '@kinora/config-schema'
import { readFrames, readImage } from '@kinora/media'
import { trainerErrors } from '../errors.ts'
import type { Sample } from './dataset.ts'

// Loss masks: white counts, black counts as little as `mask_min_value` says. A mask is a picture or a video named as the clip, in
// the folder of the set's `mask_path`, or the clip's own alpha channel. AI Toolkit has them for pictures alone.

const videoExtensions = ['.mp4', '.mov', '.mkv', '.webm', '.avi']
const imageExtensions = ['.png', '.jpg', '.jpeg', '.webp']

/** Where a clip's mask is. */
export interface MaskSource {
  file: string
  /** A picture serves all frames; of a video the frames with the clip's numbers count. */
  kind: 'image' | 'video' | 'alpha'
  invert: boolean
}

/** The mask of a clip by its set's settings; undefined where the set has none, or none for this clip. */
export async function findMask(
  clip: string,
  { mask_path, alpha_mask, invert_mask }: TrainDataset,
): Promise<MaskSource | undefined> {
  if (mask_path !== null) {
    const stem = join(resolve(mask_path), basename(clip, extname(clip)))
    for (const [kind, extensions] of [
      ['video', videoExtensions],
      ['image', imageExtensions],
    ] as const) {
      for (const extension of extensions) {
        const file = stem + extension
        if (await exists(file)) return { file, kind, invert: invert_mask }
      }
    }
  }
  return alpha_mask ? { file: clip, kind: 'alpha', invert: invert_mask } : undefined
}

const exists = (file: string): Promise<boolean> =>
  access(file).then(
    () => true,
    () => false,
  )

/**
 * A sample's mask as shares of white, 0 to 1, of each latent cell [F, H, W]: the mean over its 8 × 8 pixels and its frames, one for the
 * first cell in time and four for each that follows. It is scaled, cut and flipped as the clip's frames are; outside the frame it is
 * black.
 */
export async function readMaskCells(
  { item, bucket }: Pick<Sample, 'item' | 'bucket'>,
  { file, kind, invert }: MaskSource,
  signal?: AbortSignal,
): Promise<{ shape: readonly [number, number, number]; values: Float32Array }> {
  const { width, height, numFrames } = bucket
  const shape = [(numFrames - 1) / 4 + 1, height / 8, width / 8] as const
  const [, rows, columns] = shape
  const values = new Float32Array(shape[0] * rows * columns)
  const addFrame = (frame: Window, index: number): void => {
    const cell = index === 0 ? 0 : Math.floor((index - 1) / 4) + 1
    const perCell = 64 * (index === 0 ? 1 : 4)
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const light = lightAt(frame, item, bucket, x, y)
        if (light === undefined) continue
        const share = invert ? 1 - light / 255 : light / 255
        values[(cell * rows + (y >> 3)) * columns + (x >> 3)]! += share / perCell
      }
    }
  }

  if (kind === 'image') {
    const image = await readImage(file, { ...item.resize, fit: 'fill' })
    // Luma of BT.601, as PIL turns a picture to gray.
    const data = Float32Array.from({ length: image.width * image.height }, (_, i) => {
      const [r, g, b] = image.data.subarray(3 * i, 3 * i + 3) as unknown as [number, number, number]
      return 0.299 * r + 0.587 * g + 0.114 * b
    })
    for (let index = 0; index < numFrames; index++) addFrame({ ...image, data }, index)
    return { shape, values }
  }
  const options = {
    ...item.resize,
    ...(kind === 'alpha' ? ({ plane: 'alpha' } as const) : ({ format: 'gray' } as const)),
  }
  let [at, numRead] = [0, 0]
  for await (const frame of readFrames(file, options, { signal })) {
    numRead = frame.index + 1
    for (; item.frameIndices[at] === frame.index; at++) addFrame(frame, at)
    if (at === item.frameIndices.length) return { shape, values }
  }
  throw trainerErrors.CLIP_TOO_SHORT(file, numRead, item.frameIndices.at(-1)! + 1)
}

interface Window {
  width: number
  height: number
  data: ArrayLike<number>
}

/** Light of a pixel of the sample, 0 to 255; undefined outside the frame. */
function lightAt(
  { width, height, data }: Window,
  { crop, flip, flipVertical = false }: Sample['item'],
  bucket: Sample['bucket'],
  x: number,
  y: number,
): number | undefined {
  const sourceX = crop.x + (flip ? bucket.width - 1 - x : x)
  const sourceY = crop.y + (flipVertical ? bucket.height - 1 - y : y)
  if (sourceX < 0 || sourceX >= width || sourceY < 0 || sourceY >= height) return undefined
  return data[sourceY * width + sourceX]
}

/**
 * What a mask multiplies the loss of each cell by: from `least` for black to 1 for white, over the mean, so that the loss of a masked
 * clip is as large as another's. A mask that is nothing but zero stays so.
 */
export function maskWeights(cells: Float32Array, least: number): Float32Array {
  const weights = cells.map((value) => least + (1 - least) * value)
  const mean = weights.reduce((sum, value) => sum + value, 0) / weights.length
  return mean === 0 ? weights : weights.map((value) => value / mean)
}
