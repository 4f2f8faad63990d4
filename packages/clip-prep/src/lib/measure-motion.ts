import type { ClipMotion } from '@kinora/config-schema'
import type { RgbImage } from '@kinora/media'
import { classifyMotion } from './classify-motion.ts'
import { buildPyramid, type LumaPyramid } from './luma-pyramid.ts'
import { measureStep, type MotionStep } from './motion-step.ts'

/** Pixels of the picture that is measured at most, as where footage is analysed. */
const smallArea = 192 * 108

/**
 * The motion of frames in memory, such as a preview that was just made, as it is seen when they play at `fps`; null for fewer than
 * two frames. The same measures as those of clips in a manifest, so that the two can be compared.
 */
export async function measureMotion(
  frames: Iterable<RgbImage> | AsyncIterable<RgbImage>,
  { fps }: { fps: number },
): Promise<ClipMotion | null> {
  const steps: MotionStep[] = []
  let previous: LumaPyramid | undefined
  let index = 0
  for await (const frame of frames) {
    const { data, width, height } = smallLuma(frame)
    const pyramid = buildPyramid(data, width, height)
    if (previous) {
      steps.push(measureStep(previous, pyramid, { from: (index - 1) / fps, to: index / fps }))
    }
    previous = pyramid
    index++
  }
  return classifyMotion(steps)
}

/** Luma (BT.601, 16 to 235) of a picture, shrunk by averaging areas; small ones stay as they are, with even sides. */
function smallLuma({ data, width, height }: RgbImage): {
  data: Uint8Array
  width: number
  height: number
} {
  const scale = Math.min(1, Math.sqrt(smallArea / (width * height)))
  const even = (side: number): number => Math.max(2, 2 * Math.round((side * scale) / 2))
  const small = { width: Math.min(even(width), width), height: Math.min(even(height), height) }
  const columns = spans(width, small.width)
  const rows = spans(height, small.height)
  const luma = new Float32Array(width * height)
  for (let pixel = 0; pixel < luma.length; pixel++) {
    const at = 3 * pixel
    luma[pixel] = 16 + (65.481 * data[at]! + 128.553 * data[at + 1]! + 24.966 * data[at + 2]!) / 255
  }
  const result = new Uint8Array(small.width * small.height)
  for (const [y, row] of rows.entries()) {
    for (const [x, column] of columns.entries()) {
      let sum = 0
      let area = 0
      for (const [sourceY, heightShare] of row) {
        for (const [sourceX, widthShare] of column) {
          sum += luma[sourceY * width + sourceX]! * heightShare * widthShare
          area += heightShare * widthShare
        }
      }
      result[y * small.width + x] = Math.round(sum / area)
    }
  }
  return { data: result, ...small }
}

/** For each of `count` equal parts of `size` pixels: the pixels that it covers, and how much of each. */
function spans(size: number, count: number): (readonly [pixel: number, share: number])[][] {
  return Array.from({ length: count }, (_, index) => {
    const from = (index * size) / count
    const to = ((index + 1) * size) / count
    const covered: [number, number][] = []
    for (let pixel = Math.floor(from); pixel < Math.min(size, Math.ceil(to)); pixel++) {
      covered.push([pixel, Math.min(to, pixel + 1) - Math.max(from, pixel)])
    }
    return covered
  })
}
