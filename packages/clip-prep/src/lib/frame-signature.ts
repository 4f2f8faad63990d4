import type { VideoFrame } from '@kinora/media'

/** A small picture's contents, in the form in which two pictures are compared. Holds no reference to the frame. */
export interface FrameSignature {
  /** Share of the pixels in each of 16 × 8 × 8 bins of luma and the two chroma axes. */
  histogram: Float32Array
  /** Strength of the edges at half size, blurred over 3×3, less its mean and scaled to a norm of 1; all zero without edges. */
  edges: Float32Array
  /** Mean strength of the edges, in gray levels. */
  edgeLevel: number
  /** Hue (0 to 180, as OpenCV counts it), saturation and value (0 to 255) at half size, one plane after another. */
  hsv: Uint8Array
  /** Mean and standard deviation of luma, in gray levels 0 to 255. */
  mean: number
  deviation: number
  /** Shares of pixels that are crushed to black and blown out to white. */
  black: number
  white: number
}

const lumaBins = 16
const chromaBins = 8

// Limited range: black is 16 and white 235. Within 2 levels of the ends nothing is left to tell apart.
const crushed = 18
const blown = 233

/** Mean edge strength below which a picture is flat: what the noise of a good encoder leaves on a blank wall. */
const flatEdges = 1.5

/** Room for what lives only while a frame is measured: thousands of frames a minute would leave it to the collector. */
let scratch = { half: new Float32Array(0), rough: new Float32Array(0) }

function scratchOf(numPixels: number): typeof scratch {
  if (scratch.half.length !== numPixels)
    scratch = { half: new Float32Array(numPixels), rough: new Float32Array(numPixels) }
  return scratch
}

/** Measures a frame that was read as `yuv420p`. Both sides must be even. */
export function measureFrame({ width, height, data }: VideoFrame): FrameSignature {
  const halfWidth = width >> 1
  const halfHeight = height >> 1
  const numPixels = halfWidth * halfHeight
  const { half } = scratchOf(numPixels)
  const histogram = new Float32Array(lumaBins * chromaBins * chromaBins)
  const hsv = new Uint8Array(3 * numPixels)
  const uOffset = width * height
  const vOffset = uOffset + numPixels
  const share = 1 / numPixels
  let sum = 0
  let squares = 0
  let black = 0
  let white = 0
  for (let y = 0, at = 0; y < halfHeight; y++) {
    let above = 2 * y * width
    for (let x = 0; x < halfWidth; x++, at++, above += 2) {
      const luma =
        (data[above]! + data[above + 1]! + data[above + width]! + data[above + width + 1]!) * 0.25
      const u = data[uOffset + at]!
      const v = data[vOffset + at]!
      half[at] = luma
      sum += luma
      squares += luma * luma
      if (luma <= crushed) black++
      else if (luma >= blown) white++
      addSoftly(histogram, luma, ((u >> 5) * chromaBins + (v >> 5)) * lumaBins, share)
      writeHsv(luma, u, v, hsv, at, numPixels)
    }
  }
  const mean = sum * share
  const { edges, level } = edgeMap(half, halfWidth, halfHeight)
  return {
    histogram,
    edges,
    edgeLevel: level,
    hsv,
    mean,
    deviation: Math.sqrt(Math.max(0, squares * share - mean * mean)),
    black: black * share,
    white: white * share,
  }
}

/** Shares a pixel between the two nearest luma bins, so that a slight change of exposure moves a slight part of it. */
function addSoftly(histogram: Float32Array, luma: number, row: number, share: number): void {
  const position = luma / (256 / lumaBins) - 0.5
  const low = Math.floor(position)
  const part = position - low
  const a = row + (low < 0 ? 0 : low)
  const b = row + (low + 1 >= lumaBins ? lumaBins - 1 : low + 1)
  histogram[a] = histogram[a]! + share * (1 - part)
  histogram[b] = histogram[b]! + share * part
}

function edgeMap(half: Float32Array, width: number, height: number) {
  // Its border stays 0.
  const rough = scratchOf(half.length).rough.fill(0)
  for (let y = 1; y < height - 1; y++) {
    for (let x = 1, at = y * width + 1; x < width - 1; x++, at++) {
      rough[at] =
        Math.abs(half[at + 1]! - half[at - 1]!) + Math.abs(half[at + width]! - half[at - width]!)
    }
  }
  const edges = new Float32Array(half.length)
  let sum = 0
  for (let y = 1; y < height - 1; y++) {
    for (let x = 1, at = y * width + 1; x < width - 1; x++, at++) {
      const value =
        (4 * rough[at]! +
          2 * (rough[at - 1]! + rough[at + 1]! + rough[at - width]! + rough[at + width]!) +
          rough[at - width - 1]! +
          rough[at - width + 1]! +
          rough[at + width - 1]! +
          rough[at + width + 1]!) /
        16
      edges[at] = value
      sum += value
    }
  }
  const level = sum / edges.length
  let squares = 0
  for (let at = 0; at < edges.length; at++) {
    const value = edges[at]! - level
    edges[at] = value
    squares += value * value
  }
  const scale = level < flatEdges || squares === 0 ? 0 : 1 / Math.sqrt(squares)
  for (let at = 0; at < edges.length; at++) edges[at] = edges[at]! * scale
  return { edges, level }
}

/** BT.601 in the limited range; hue and saturation need no better. */
function writeHsv(
  luma: number,
  u: number,
  v: number,
  hsv: Uint8Array,
  at: number,
  plane: number,
): void {
  const y = 1.164 * (luma - 16)
  const r = clamp(y + 1.596 * (v - 128))
  const g = clamp(y - 0.392 * (u - 128) - 0.813 * (v - 128))
  const b = clamp(y + 2.017 * (u - 128))
  const high = Math.max(r, g, b)
  const range = high - Math.min(r, g, b)
  let hue = 0
  if (range > 0) {
    if (high === r) hue = ((g - b) / range) * 30
    else if (high === g) hue = 60 + ((b - r) / range) * 30
    else hue = 120 + ((r - g) / range) * 30
    if (hue < 0) hue += 180
  }
  hsv[at] = hue
  hsv[plane + at] = high > 0 ? (255 * range) / high : 0
  hsv[2 * plane + at] = high
}

function clamp(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : value
}

/** Where two pictures differ. */
export interface FrameDifference {
  /** 1 less the histogram intersection (Swain and Ballard, "Color indexing", 1991): 0 is the same colours, 1 none shared. */
  color: number
  /** 1 less the correlation of the edge maps, clipped at 1: 0 is the same structure, 1 none shared. */
  structure: number
}

/** Compares two pictures by colour and by structure. */
export function compareFrames(a: FrameSignature, b: FrameSignature): FrameDifference {
  let shared = 0
  for (let bin = 0; bin < a.histogram.length; bin++)
    shared += Math.min(a.histogram[bin]!, b.histogram[bin]!)
  const flatA = a.edgeLevel < flatEdges
  const flatB = b.edgeLevel < flatEdges
  let correlation = 0
  if (flatA && flatB) correlation = 1
  else if (!flatA && !flatB)
    for (let at = 0; at < a.edges.length; at++) correlation += a.edges[at]! * b.edges[at]!
  return {
    color: Math.max(0, 1 - shared),
    structure: Math.min(1, Math.max(0, 1 - correlation)),
  }
}

/**
 * One number for the difference of two pictures, 0 to 1. Colour counts twice: a moving camera changes where edges are (a
 * shake leaves no correlation at all) and leaves most colours in the picture, a cut changes both.
 */
export function dissimilarity({ color, structure }: FrameDifference): number {
  return (2 * color + structure) / 3
}

/** PySceneDetect's content value: mean absolute change of hue, saturation and value, 0 to 255. */
export function contentChange(a: FrameSignature, b: FrameSignature): number {
  let sum = 0
  for (let at = 0; at < a.hsv.length; at++) sum += Math.abs(a.hsv[at]! - b.hsv[at]!)
  return sum / a.hsv.length
}
