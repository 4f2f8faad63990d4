// Sizes of buckets. A bucket's sides are multiples of a divisor d and its area is at most the budget, resolution².

/** Pixels. */
export interface Size {
  width: number
  height: number
}

export interface GridOptions {
  /** Side of the square whose area is the budget, in pixels. */
  resolution: number
  divisor: number
  /** Buckets larger than the clip are allowed. */
  upscale: boolean
  fit: 'crop' | 'pad'
}

/**
 * The size a clip is used at, or undefined where the clip is smaller than one divisor and must not be enlarged.
 *
 * With crop: the bucket for which area × share of the frame kept is largest, so that area is never bought with as much of
 * the picture. With pad: the bucket that shows the frame largest, then the smallest such bucket.
 */
export function areaBucket(clip: Size, options: GridOptions): Size | undefined {
  const { resolution, divisor, upscale, fit } = options
  const budget = resolution * resolution
  // A padded clip keeps every pixel in a bucket just above its own size.
  const blocks = fit === 'pad' ? Math.ceil : Math.floor
  const limit: Size = upscale
    ? { width: Infinity, height: Infinity }
    : {
        width: blocks(clip.width / divisor) * divisor,
        height: blocks(clip.height / divisor) * divisor,
      }
  const aspect = clip.width / clip.height
  let best: Size | undefined
  let bestScore: readonly [number, number] = [0, 0]
  // Past twice the height of the clip's own shape a bucket keeps less than a quarter of the frame: nothing there can win.
  const maxHeight = Math.min(
    limit.height,
    Math.floor(budget / divisor / divisor) * divisor,
    2 * Math.sqrt(budget / aspect) + divisor,
  )
  for (let height = divisor; height <= maxHeight; height += divisor) {
    const widest = Math.floor(Math.min(limit.width, budget / height) / divisor) * divisor
    if (widest < divisor) continue
    const ideal = Math.floor((height * aspect) / divisor) * divisor
    for (const width of new Set([widest, ideal, ideal + divisor])) {
      if (width < divisor || width > widest) continue
      const score = fitScore(clip, { width, height }, fit)
      if (
        score[0] > bestScore[0] * (1 + 1e-12) ||
        (best && score[0] >= bestScore[0] * (1 - 1e-12) && score[1] > bestScore[1])
      ) {
        best = { width, height }
        bestScore = score
      }
    }
  }
  return best
}

function fitScore(clip: Size, bucket: Size, fit: 'crop' | 'pad'): readonly [number, number] {
  const area = bucket.width * bucket.height
  if (fit === 'crop') return [area * keptShare(clip, bucket), area]
  const scale = containScale(clip, bucket)
  return [clip.width * clip.height * scale * scale, -area]
}

/**
 * Of a list of sizes, the one that cuts least off the clip (within 1 %), then the largest; undefined where each would
 * enlarge it.
 */
export function nearestSize(
  clip: Size,
  sizes: readonly Size[],
  options: Pick<GridOptions, 'upscale' | 'fit'>,
): Size | undefined {
  const { fit, upscale } = options
  const usable = sizes.filter((size) => upscale || fit === 'pad' || coverScale(clip, size) <= 1)
  const best = Math.max(...usable.map((size) => keptShare(clip, size)))
  return usable
    .filter((size) => keptShare(clip, size) >= best - 0.01)
    .toSorted((a, b) => b.width * b.height - a.width * a.height || b.width - a.width)[0]
}

/**
 * AI Toolkit's size: of the four ways to round the sides of (w·s, h·s) with s = √(A/(w·h)) and A = min(w·h, resolution²)
 * to multiples of the divisor, the one whose area is nearest to A and within the budget; both rounded down where none is.
 */
export function aiToolkitBucket(clip: Size, resolution: number, divisor: number): Size {
  const budget = resolution * resolution
  const target = Math.min(clip.width * clip.height, budget)
  const scale = Math.sqrt(target / (clip.width * clip.height))
  const sides = (side: number) => [
    Math.floor((side * scale) / divisor) * divisor,
    Math.ceil((side * scale) / divisor) * divisor,
  ]
  let best: Size | undefined
  let bestDistance = Infinity
  for (const width of sides(clip.width)) {
    for (const height of sides(clip.height)) {
      const area = width * height
      const distance = Math.abs(area - target)
      if (width > 0 && height > 0 && area <= budget && distance < bestDistance) {
        best = { width, height }
        bestDistance = distance
      }
    }
  }
  return (
    best ?? {
      width: Math.max(divisor, sides(clip.width)[0]!),
      height: Math.max(divisor, sides(clip.height)[0]!),
    }
  )
}

/** Where a frame lies in its bucket: scaled to `resize`, of which the window `crop` is used. */
export interface Placement {
  resize: Size
  crop: Size & { x: number; y: number }
}

/**
 * Scales a frame over the bucket (crop) or into it (pad).
 *
 * @param at position of the crop window across and down, 0 to 1; 0.5 is the centre
 * @param rounding how the longer side of a covering frame is rounded: AI Toolkit rounds up
 */
export function placeFrame(
  clip: Size,
  bucket: Size,
  options: {
    fit: 'crop' | 'pad'
    upscale: boolean
    at?: readonly [number, number]
    rounding?: 'nearest' | 'up'
  },
): Placement {
  const { fit, upscale, at = [0.5, 0.5], rounding = 'nearest' } = options
  let resize: Size
  if (fit === 'crop') {
    const scale = coverScale(clip, bucket)
    const round = rounding === 'up' ? Math.ceil : Math.round
    resize = {
      width: Math.max(bucket.width, round(clip.width * scale)),
      height: Math.max(bucket.height, round(clip.height * scale)),
    }
  } else {
    const scale = Math.min(containScale(clip, bucket), upscale ? Infinity : 1)
    resize = {
      width: Math.max(1, Math.min(bucket.width, Math.round(clip.width * scale))),
      height: Math.max(1, Math.min(bucket.height, Math.round(clip.height * scale))),
    }
  }
  const offset = (space: number, position: number) =>
    space >= 0
      ? Math.min(space, Math.floor(position * (space + (position === 0.5 ? 0 : 1))))
      : 0 - Math.floor(-space / 2)
  return {
    resize,
    crop: {
      x: offset(resize.width - bucket.width, at[0]),
      y: offset(resize.height - bucket.height, at[1]),
      width: bucket.width,
      height: bucket.height,
    },
  }
}

/** Share of the frame's area that a crop to this bucket's shape keeps, 0 to 1. */
function keptShare(clip: Size, bucket: Size): number {
  const ratio = bucket.width / bucket.height / (clip.width / clip.height)
  return Math.min(ratio, 1 / ratio)
}

function coverScale(clip: Size, bucket: Size): number {
  return Math.max(bucket.width / clip.width, bucket.height / clip.height)
}

function containScale(clip: Size, bucket: Size): number {
  return Math.min(bucket.width / clip.width, bucket.height / clip.height)
}
