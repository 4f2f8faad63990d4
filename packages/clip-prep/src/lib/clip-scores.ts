import type { VideoFrame } from '@kinora/media'
import type { ClipFlag } from './clip-flags.ts'
import { hashPicture } from './near-duplicates.ts'

/** Longest side of the previews that are scored: sharpness means nothing without a fixed size. */
export const previewSide = 512
/** Previews a clip has, about. */
export const previewCount = 12

/** What the pictures of a clip show, gathered while it is cut. */
export interface PictureScores {
  /** Variance of the Laplacian of luma at 512 pixels, median over the clip, in gray levels squared. */
  sharpness: number
  /** Share of the picture whose edges stay in place while the rest moves; null where too little moves to tell. */
  overlay: number | null
  hashes: string[]
}

/** Gathers the previews of one clip; bounded, for they are small and few. */
export function createPictureScorer(): {
  add(frame: VideoFrame): void
  finish(travel: number): PictureScores
} {
  const sharpness: number[] = []
  const hashes: string[] = []
  let least: Float32Array | undefined
  let most: Float32Array | undefined
  let count = 0
  return {
    add(frame) {
      const luma = lumaOf(frame)
      sharpness.push(laplacianVariance(luma, frame.width, frame.height))
      hashes.push(hashPicture(luma, frame.width, frame.height))
      const edges = gradient(luma, frame.width, frame.height)
      if (!least || !most) {
        least = edges.slice()
        most = edges
      } else {
        for (let at = 0; at < edges.length; at++) {
          const value = edges[at]!
          if (value < least[at]!) least[at] = value
          if (value > most[at]!) most[at] = value
        }
      }
      count++
    },
    finish(travel) {
      return {
        sharpness: sharpness.toSorted((a, b) => a - b)[sharpness.length >> 1] ?? 0,
        overlay:
          least && most && count >= 4 && travel >= leastTravel ? overlayShare(least, most) : null,
        hashes,
      }
    },
  }
}

/** The picture must travel this many picture widths for what stays in place to be no part of the scene. */
const leastTravel = 0.15
/** Edge strength that stays, in gray levels a pixel: letters and logos have it, gradients of sky have not. */
const standingEdge = 24

/** Edges that never fall below `standingEdge`, and never much above: a passing edge swings, a standing one stays. */
function overlayShare(least: Float32Array, most: Float32Array): number {
  let standing = 0
  for (let at = 0; at < least.length; at++)
    if (least[at]! >= standingEdge && most[at]! <= 3 * least[at]!) standing++
  return standing / least.length
}

function lumaOf({ data, width, height }: VideoFrame): Float32Array {
  const luma = new Float32Array(width * height)
  for (let at = 0, k = 0; at < luma.length; at++, k += 3)
    luma[at] = 0.2126 * data[k]! + 0.7152 * data[k + 1]! + 0.0722 * data[k + 2]!
  return luma
}

function laplacianVariance(luma: Float32Array, width: number, height: number): number {
  let sum = 0
  let squares = 0
  let n = 0
  for (let y = 1; y < height - 1; y++) {
    for (let x = 1, at = y * width + 1; x < width - 1; x++, at++) {
      const value =
        luma[at - 1]! + luma[at + 1]! + luma[at - width]! + luma[at + width]! - 4 * luma[at]!
      sum += value
      squares += value * value
      n++
    }
  }
  return n > 0 ? squares / n - (sum / n) ** 2 : 0
}

function gradient(luma: Float32Array, width: number, height: number): Float32Array {
  const edges = new Float32Array(luma.length)
  for (let y = 1; y < height - 1; y++) {
    for (let x = 1, at = y * width + 1; x < width - 1; x++, at++)
      edges[at] = Math.max(
        Math.abs(luma[at + 1]! - luma[at - 1]!),
        Math.abs(luma[at + width]! - luma[at - width]!),
      )
  }
  return edges
}

/**
 * Variance of the Laplacian below which a picture of 512 pixels is blurry. Sharp footage has some hundreds to thousands;
 * pictures blurred by two pixels of these 512 fall below 20.
 */
const blurrySharpness = 20
/** Standing edges on this share of the picture: a line of text or a corner logo. */
const overlayShareFlag = 0.002

/** What the pictures of a clip say, as scores and flags of the manifest. */
export function judgePictures({ sharpness, overlay }: PictureScores): {
  scores: Record<string, number>
  flags: ClipFlag[]
} {
  return {
    scores: {
      sharpness: Math.round(sharpness * 10) / 10,
      ...(overlay === null ? {} : { staticOverlay: Math.round(overlay * 1e5) / 1e5 }),
    },
    flags: [
      ...(sharpness < blurrySharpness ? (['blurry'] as const) : []),
      ...(overlay !== null && overlay >= overlayShareFlag ? (['static-overlay'] as const) : []),
    ],
  }
}
