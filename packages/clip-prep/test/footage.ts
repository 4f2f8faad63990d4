import { writeVideo, type VideoFrame } from '@kinora/media'

// Footage drawn on the spot: windows that move over textures nobody else has, so that shots differ as real ones do and their
// motion is known to the pixel.

export interface Shot {
  /** Which texture. */
  seed: number
  numFrames: number
  /** Left edge of the window at each frame, in pixels of the texture, which is 640 × 240. Default: still at 0. */
  x?: (frame: number) => number
}

export const frameSize = { width: 192, height: 108 } as const
const textureWidth = 640

const textures = new Map<number, Uint8Array>()

/** Soft blotches of two sizes in two colours of the seed's own. */
function textureOf(seed: number): Uint8Array {
  const known = textures.get(seed)
  if (known) return known
  const { height } = frameSize
  const data = new Uint8Array(textureWidth * height * 3)
  // Dark and bright of each channel. Blue may run against the others: what differs in colour alone is not tracked.
  const colours = [0, 1, 2].map((channel) => {
    const pair = [30 + 60 * lattice(seed, channel, 1), 150 + 75 * lattice(seed, channel, 2)]
    return channel === 2 && lattice(seed, channel, 3) > 0.5 ? pair.toReversed() : pair
  })
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < textureWidth; x++) {
      const value = 0.6 * noise(x / 14, y / 14, seed) + 0.4 * noise(x / 5, y / 5, seed + 50)
      for (const [low, high] of colours) data[at++] = low! + (high! - low!) * value
    }
  }
  textures.set(seed, data)
  return data
}

function noise(u: number, v: number, seed: number): number {
  const x = Math.floor(u)
  const y = Math.floor(v)
  const fx = u - x
  const fy = v - y
  const top = lattice(x, y, seed) * (1 - fx) + lattice(x + 1, y, seed) * fx
  const bottom = lattice(x, y + 1, seed) * (1 - fx) + lattice(x + 1, y + 1, seed) * fx
  return top * (1 - fy) + bottom * fy
}

function lattice(x: number, y: number, seed: number): number {
  let h =
    Math.imul(x, 374761393) ^ Math.imul(y, 668265263) ^ Math.imul(Math.round(seed * 97), 1442695041)
  h = Math.imul(h ^ (h >>> 13), 1274126177)
  return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32
}

function drawFrame({ seed, x = () => 0 }: Shot, frame: number): Uint8Array {
  const { width, height } = frameSize
  const texture = textureOf(seed)
  const left = Math.min(textureWidth - width, Math.max(0, Math.round(x(frame))))
  const data = new Uint8Array(width * height * 3)
  for (let y = 0; y < height; y++) {
    const from = 3 * (y * textureWidth + left)
    data.set(texture.subarray(from, from + 3 * width), 3 * y * width)
  }
  return data
}

/** The frames of shots one after another; `blend` frames of each pair of neighbours are mixed evenly, as in a dissolve. */
export function* drawShots(
  shots: readonly Shot[],
  { fps = 24, blend = 0 }: { fps?: number; blend?: number } = {},
): Generator<VideoFrame> {
  let index = 0
  const frameOf = (data: Uint8Array): VideoFrame => ({
    index,
    time: index++ / fps,
    ...frameSize,
    data,
  })
  for (const [number, shot] of shots.entries()) {
    const next = shots[number + 1]
    const mixed = next ? blend : 0
    for (let frame = number > 0 ? blend : 0; frame < shot.numFrames; frame++) {
      const data = drawFrame(shot, frame)
      const into = frame - (shot.numFrames - mixed)
      if (next && into >= 0) {
        const other = drawFrame(next, into)
        const share = (into + 1) / (mixed + 1)
        for (let at = 0; at < data.length; at++)
          data[at] = Math.round(data[at]! * (1 - share) + other[at]! * share)
      }
      yield frameOf(data)
    }
  }
}

/** Writes shots as an mp4. */
export async function writeShots(
  file: string,
  shots: readonly Shot[],
  { fps = 24, blend = 0 }: { fps?: number; blend?: number } = {},
): Promise<void> {
  await writeVideo(file, drawShots(shots, { fps, blend }), { fps, crf: 16, preset: 'ultrafast' })
}

/** A window that goes right by `speed` pixels a frame. */
export const panning = (speed: number) => (frame: number) => 20 + speed * frame

/** A window that waits, goes right by `speed` a frame for a while, and waits again. */
export const waiting = (head: number, moving: number, speed: number) => (frame: number) =>
  20 + speed * Math.min(moving, Math.max(0, frame - head))
