import type { Rectangle } from '@kinora/config-schema'
import { readFrames, type MediaProbe, type VideoFrame } from '@kinora/media'
import type { RunContext } from '@kinora/stage'
import type { Shot } from './detect-shots.ts'
import type { DarkBorder, VideoAnalysis } from './video-analysis.ts'

/** Where the picture is inside its black bars, over a stretch of footage. */
export interface PictureArea {
  start: number
  end: number
  picture: Rectangle
}

/** Bars are at least this many rows or columns of the small picture; thinner ones are the edge of a crop, not worth one. */
const leastDepth = 1
/** Shots that are looked at in full size; the others with the same dark border share their result. */
const mostLooks = 12
/** Frames of a shot that are looked at in full size. */
const looksPerShot = 2
/** A bar is black, not dark: its luma stays below this mean and varies by less than this deviation. */
const mostMean = 26
const mostDeviation = 3.5
/** Luma above which a pixel is picture. */
const pictureLuma = 30
/** Bars that would leave less than this share of a side are a dark scene. */
const leastShare = 0.35

/**
 * Finds black bars to the pixel: the small pictures of every step say where nothing was ever bright, a few full-size frames
 * say exactly where that begins and whether it is truly black.
 */
export async function findPictureAreas(
  file: string,
  probe: MediaProbe,
  analysis: VideoAnalysis,
  shots: readonly Shot[],
  context: RunContext = {},
): Promise<PictureArea[]> {
  const suspicious = shots.flatMap((shot) => {
    const border = commonBorder(analysis, shot)
    return border ? [{ shot, border }] : []
  })
  const looked: { border: DarkBorder; picture: Rectangle | null }[] = []
  const areas: PictureArea[] = []
  for (const { shot, border } of suspicious) {
    let known = looked.find((one) => isSameBorder(one.border, border))
    if (!known && looked.length < mostLooks) {
      known = { border, picture: await lookClosely(file, probe, analysis, shot, border, context) }
      looked.push(known)
    }
    if (known?.picture) areas.push({ start: shot.start, end: shot.end, picture: known.picture })
  }
  return areas
}

/** The dark border that every step of the shot has; none when there is none to speak of. */
function commonBorder(analysis: VideoAnalysis, shot: Shot): DarkBorder | undefined {
  const { width, height } = analysis
  const least: DarkBorder = { top: height, bottom: height, left: width, right: width }
  let count = 0
  for (const [index, step] of analysis.steps.entries()) {
    if (step.to < shot.start || step.to >= shot.end) continue
    const border = analysis.borders[index]!
    // A blank frame says nothing of where the picture is.
    if (border.top + border.bottom >= height) continue
    count++
    for (const side of ['top', 'bottom', 'left', 'right'] as const)
      least[side] = Math.min(least[side], border[side])
  }
  if (count === 0) return undefined
  const deep = Math.max(least.top, least.bottom, least.left, least.right)
  return deep >= leastDepth ? least : undefined
}

function isSameBorder(a: DarkBorder, b: DarkBorder): boolean {
  return (['top', 'bottom', 'left', 'right'] as const).every(
    (side) => Math.abs(a[side] - b[side]) <= 1,
  )
}

async function lookClosely(
  file: string,
  probe: MediaProbe,
  analysis: VideoAnalysis,
  shot: Shot,
  border: DarkBorder,
  context: RunContext,
): Promise<Rectangle | null> {
  const frames: VideoFrame[] = []
  for (let look = 0; look < looksPerShot; look++) {
    const start = shot.start + ((look + 0.5) / looksPerShot) * (shot.end - shot.start)
    const options = {
      start: Math.min(start, lastTime(analysis)),
      format: 'yuv420p' as const,
      probe,
    }
    for await (const frame of readFrames(file, options, context)) {
      frames.push(frame)
      break
    }
  }
  if (frames.length === 0) return null
  const scaleX = probe.width / analysis.width
  const scaleY = probe.height / analysis.height
  const top = barDepth(frames, 'top', border.top * scaleY, scaleY)
  const bottom = barDepth(frames, 'bottom', border.bottom * scaleY, scaleY)
  const left = barDepth(frames, 'left', border.left * scaleX, scaleX)
  const right = barDepth(frames, 'right', border.right * scaleX, scaleX)
  const picture = {
    x: left,
    y: top,
    width: probe.width - left - right,
    height: probe.height - top - bottom,
  }
  const whole = picture.width === probe.width && picture.height === probe.height
  const tooSmall =
    picture.width < leastShare * probe.width || picture.height < leastShare * probe.height
  return whole || tooSmall ? null : picture
}

function lastTime(analysis: VideoAnalysis): number {
  return analysis.frames.time.at(-1) ?? 0
}

type Side = 'top' | 'bottom' | 'left' | 'right'

/** Rows or columns of the bar on one side, looked for around `coarse`, one small pixel (`scale`) either way. */
function barDepth(
  frames: readonly VideoFrame[],
  side: Side,
  coarse: number,
  scale: number,
): number {
  if (coarse < leastDepth * scale) return 0
  const { width, height } = frames[0]!
  const across = side === 'top' || side === 'bottom' ? height : width
  const limit = Math.min(across, Math.ceil(coarse + 2 * scale))
  let depth = Math.max(0, Math.floor(coarse - scale))
  while (depth < limit && frames.every((frame) => isBlackLine(frame, side, depth))) depth++
  // Beyond the coarse border something is bright in some frame; if not in these, the border decides.
  depth = Math.min(depth, Math.ceil(coarse + scale))
  return frames.every((frame) => isFlatBlack(frame, side, depth)) ? depth : 0
}

function lineOf({ width, height }: VideoFrame, side: Side, depth: number) {
  switch (side) {
    case 'top':
      return { start: depth * width, step: 1, count: width }
    case 'bottom':
      return { start: (height - 1 - depth) * width, step: 1, count: width }
    case 'left':
      return { start: depth, step: width, count: height }
    case 'right':
      return { start: width - 1 - depth, step: width, count: height }
    default:
      return side satisfies never
  }
}

function isBlackLine(frame: VideoFrame, side: Side, depth: number): boolean {
  const { start, step, count } = lineOf(frame, side, depth)
  let bright = 0
  for (let k = 0, at = start; k < count; k++, at += step)
    if (frame.data[at]! > pictureLuma) bright++
  return bright <= 0.01 * count
}

function isFlatBlack(frame: VideoFrame, side: Side, depth: number): boolean {
  let sum = 0
  let squares = 0
  let n = 0
  // The last line may be half picture, half bar.
  for (let line = 0; line < depth - 1; line++) {
    const { start, step, count } = lineOf(frame, side, line)
    for (let k = 0, at = start; k < count; k++, at += step) {
      const value = frame.data[at]!
      sum += value
      squares += value * value
      n++
    }
  }
  if (n === 0) return true
  const mean = sum / n
  return mean <= mostMean && squares / n - mean * mean <= mostDeviation * mostDeviation
}
