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
import { measureStep } from './motion-step.ts'
import type { DarkBorder, VideoAnalysis } from './video-analysis.ts'

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
  const analysis: VideoAnalysis = {
    version: 1,
    probe: withoutFile(probe),
    width,
    height,
    frames: {
      time: [],
      color: [],
      structure: [],
      content: [],
      backAfter: [],
      change: [],
      mean: [],
      deviation: [],
      black: [],
      white: [],
    },
    steps: [],
    borders: [],
    gradual: [],
    numDecodeErrors: 0,
  }
  const { frames } = analysis
  const candidates: { index: number; before: FrameSignature; jump: number; until: number }[] = []
  const scan = createGradualScan()
  analysis.gradual = scan.windows

  let previous: { frame: VideoFrame; signature: FrameSignature } | undefined
  let step: { time: number; pyramid: LumaPyramid } | undefined
  let reported = 0
  const stream = readFrames(
    file,
    { width, height, format: 'yuv420p', scaler: 'fast', draft: true, probe, threads },
    context,
  )
  for await (const frame of stream) {
    const { time } = frame
    const signature = measureFrame(frame)
    const difference = previous
      ? compareFrames(previous.signature, signature)
      : { color: 0, structure: 0 }
    frames.time.push(rounded(time, 6))
    frames.color.push(rounded(difference.color, 4))
    frames.structure.push(rounded(difference.structure, 4))
    frames.content.push(previous ? rounded(contentChange(previous.signature, signature), 2) : 0)
    frames.change.push(previous ? rounded(lumaChange(previous.frame, frame), 3) : 0)
    frames.backAfter.push(0)
    frames.mean.push(rounded(signature.mean, 1))
    frames.deviation.push(rounded(signature.deviation, 2))
    frames.black.push(rounded(signature.black, 3))
    frames.white.push(rounded(signature.white, 3))

    while (candidates[0] && time > candidates[0].until) candidates.shift()
    for (const { index, before, jump } of candidates) {
      if (frames.backAfter[index] !== 0) continue
      if (dissimilarity(compareFrames(before, signature)) < backShare * jump)
        frames.backAfter[index] = frame.index - index
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
        const measured = measureStep(step.pyramid, pyramid, { from: step.time, to: time })
        analysis.steps.push(roundedValues(measured, 5))
        analysis.borders.push(darkBorder(frame))
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
  return analysis
}

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

function rounded(value: number, digits: number): number {
  const scale = 10 ** digits
  return Math.round(value * scale) / scale
}

function roundedValues<T extends object>(values: T, digits: number): T {
  const result: Record<string, number> = {}
  for (const [key, value] of Object.entries(values)) result[key] = rounded(value as number, digits)
  return result as T
}
