import { readFrames, type MediaProbe, type VideoFrame } from '@kinora/media'
import type { RunContext } from '@kinora/stage'
import {
  compareFrames,
  contentChange,
  dissimilarity,
  measureFrame,
  type FrameSignature,
} from './frame-signature.ts'
import { createGradualScan } from './gradual-scan.ts'
import { buildPyramid, type LumaPyramid } from './luma-pyramid.ts'
import { measureStep, type MotionStep } from './motion-step.ts'
import { createNumberColumns } from './number-columns.ts'
import type { DarkBorder, FrameMeasures, VideoAnalysis } from './video-analysis.ts'

/** Pixels of the small picture that is measured, whatever the shape of the footage: 192 × 108 for 16:9. */
const smallArea = 192 * 108

/** Motion is measured between pictures at least this far apart: about 13 steps a second at 24 to 60 fps. */
const stepSeconds = 0.06

/** How long a flash may last for the picture to come back after it. */
const flashSeconds = 0.25

/** The picture is back when it differs from the one before the jump by less than this share of the jump. */
const backShare = 0.6

/** Dissimilarity from which a frame may begin a new shot; below it nothing is compared across. */
export const candidateDissimilarity = 0.2

/** Luma up to which a border pixel is black: 16 is black, and encoders ring by a few levels. */
const borderLuma = 26

/** Reads a video once, as small pictures, and measures it. `onProgress` is called about every ten seconds of footage. */
export async function analyseVideo(
  file: string,
  probe: MediaProbe,
  {
    threads,
    onProgress,
    ...context
  }: RunContext & { threads?: number; onProgress?: (seconds: number) => void } = {},
): Promise<VideoAnalysis> {
  const { width, height } = smallSize(probe)
  const frames = createNumberColumns(frameDigits)
  const steps = createNumberColumns(stepDigits)
  const borders = createNumberColumns(borderDigits)
  const candidates: { index: number; before: FrameSignature; jump: number; until: number }[] = []
  const scan = createGradualScan()

  let previous: { frame: VideoFrame; signature: FrameSignature } | undefined
  let step: { time: number; pyramid: LumaPyramid } | undefined
  let reported = 0
  let numDecodeErrors = 0
  const stream = readFrames(
    file,
    {
      width,
      height,
      format: 'yuv420p',
      scaler: 'fast',
      draft: true,
      probe,
      threads,
      onDamage: () => numDecodeErrors++,
    },
    context,
  )
  for await (const frame of stream) {
    const { time } = frame
    const signature = measureFrame(frame)
    const difference = previous
      ? compareFrames(previous.signature, signature)
      : { color: 0, structure: 0 }
    frames.push({
      time,
      color: difference.color,
      structure: difference.structure,
      content: previous ? contentChange(previous.signature, signature) : 0,
      change: previous ? lumaChange(previous.frame, frame) : 0,
      backAfter: 0,
      mean: signature.mean,
      deviation: signature.deviation,
      black: signature.black,
      white: signature.white,
    })

    while (candidates[0] && time > candidates[0].until) candidates.shift()
    for (const { index, before, jump } of candidates) {
      if (frames.get(index, 'backAfter') !== 0) continue
      if (dissimilarity(compareFrames(before, signature)) < backShare * jump)
        frames.set(index, 'backAfter', frame.index - index)
    }
    const jump = dissimilarity(difference)
    if (previous && jump >= candidateDissimilarity) {
      candidates.push({
        index: frame.index,
        before: previous.signature,
        jump,
        until: time + flashSeconds,
      })
    }

    if (!step || time - step.time >= stepSeconds) {
      const pyramid = buildPyramid(frame.data, width, height)
      if (step) {
        steps.push(measureStep(step.pyramid, pyramid, { from: step.time, to: time }))
        borders.push(darkBorder(frame))
      }
      scan.push(time, pyramid[2] ?? pyramid.at(-1)!)
      step = { time, pyramid }
    }
    previous = { frame, signature }
    if (time - reported >= 10) {
      reported = time
      onProgress?.(time)
    }
  }
  return {
    version: 1,
    probe: withoutFile(probe),
    width,
    height,
    frames: Object.fromEntries(
      Object.keys(frameDigits).map((field) => [field, frames.list(field as keyof FrameMeasures)]),
    ) as unknown as FrameMeasures,
    steps: steps.rows(),
    borders: borders.rows(),
    gradual: scan.windows,
    numDecodeErrors,
  }
}

/** Decimal places of what is measured: what the measures are good for, and short in the stored analysis. */
const frameDigits = {
  time: 6,
  color: 4,
  structure: 4,
  content: 2,
  backAfter: 0,
  change: 3,
  mean: 1,
  deviation: 2,
  black: 3,
  white: 3,
} satisfies Record<keyof FrameMeasures, number>

const stepDigits = {
  from: 6,
  to: 6,
  x: 5,
  y: 5,
  zoom: 5,
  roll: 5,
  agreement: 5,
  numPoints: 0,
  energy: 5,
  subject: 5,
  expansion: 5,
  parallax: 5,
  turnX: 5,
  turnY: 5,
  counterflow: 5,
} satisfies Record<keyof MotionStep, number>

const borderDigits = { top: 0, bottom: 0, left: 0, right: 0 } satisfies Record<
  keyof DarkBorder,
  number
>

/** Even sides, the footage's shape, about `smallArea` pixels; never more than the footage has. */
function smallSize({ width, height }: MediaProbe): { width: number; height: number } {
  const scale = Math.min(1, Math.sqrt(smallArea / (width * height)))
  const even = (side: number) => Math.max(16, 2 * Math.round((side * scale) / 2))
  return { width: even(width), height: even(height) }
}

function withoutFile({ file: _file, ...rest }: MediaProbe): Omit<MediaProbe, 'file'> {
  return rest
}

function lumaChange(a: VideoFrame, b: VideoFrame): number {
  const numPixels = a.width * a.height
  let sum = 0
  for (let at = 0; at < numPixels; at++) sum += Math.abs(a.data[at]! - b.data[at]!)
  return sum / numPixels
}

function darkBorder({ width, height, data }: VideoFrame): DarkBorder {
  const darkRow = (y: number) => {
    let bright = 0
    for (let x = 0, at = y * width; x < width; x++, at++) if (data[at]! > borderLuma) bright++
    return bright <= width * 0.02
  }
  const darkColumn = (x: number) => {
    let bright = 0
    for (let y = 0, at = x; y < height; y++, at += width) if (data[at]! > borderLuma) bright++
    return bright <= height * 0.02
  }
  const depth = (dark: (index: number) => boolean, from: number, step: number, limit: number) => {
    let count = 0
    while (count < limit && dark(from + count * step)) count++
    return count
  }
  return {
    top: depth(darkRow, 0, 1, height),
    bottom: depth(darkRow, height - 1, -1, height),
    left: depth(darkColumn, 0, 1, width),
    right: depth(darkColumn, width - 1, -1, width),
  }
}
