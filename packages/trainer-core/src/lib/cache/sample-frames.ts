import { isImageFile, readFrames, readImage } from '@kinora/media'
import { trainerErrors } from '../errors.ts'
import type { Sample } from '../data/dataset.ts'

/**
 * The frames of a sample one by one, each [Y, X, 3] in [−1, 1]: those of the clip by index (repeats allowed), scaled, cut to the
 * bucket's size, black where the window reaches past the frame, flipped. A still picture is a clip of one frame.
 */
export async function* readSampleFrames(
  { item, bucket, clip }: Pick<Sample, 'item' | 'bucket' | 'clip'>,
  signal?: AbortSignal,
): AsyncGenerator<Float32Array> {
  const { width, height } = bucket
  const { frameIndices, resize, crop, flip, flipVertical = false } = item
  let at = 0
  let numFrames = 0
  const frames = isImageFile(clip)
    ? [{ ...(await readImage(clip, { ...resize, fit: 'fill' })), index: 0 }]
    : readFrames(clip, resize, { signal })
  for await (const frame of frames) {
    numFrames = frame.index + 1
    if (frameIndices[at] !== frame.index) continue
    const pixels = new Float32Array(width * height * 3).fill(-1)
    for (let y = 0; y < height; y++) {
      const sourceY = crop.y + (flipVertical ? height - 1 - y : y)
      if (sourceY < 0 || sourceY >= frame.height) continue
      for (let x = 0; x < width; x++) {
        const sourceX = crop.x + (flip ? width - 1 - x : x)
        if (sourceX < 0 || sourceX >= frame.width) continue
        const from = (sourceY * frame.width + sourceX) * 3
        const to = (y * width + x) * 3
        for (let c = 0; c < 3; c++) pixels[to + c] = (frame.data[from + c]! / 255) * 2 - 1
      }
    }
    for (; frameIndices[at] === frame.index; at++) yield pixels
    if (at === frameIndices.length) return
  }
  throw trainerErrors.CLIP_TOO_SHORT(clip, numFrames, frameIndices.at(-1)! + 1)
}
