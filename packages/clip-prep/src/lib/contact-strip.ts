import type { VideoFrame } from '@kinora/media'

/** Pictures of a strip, and the height of each in pixels. */
export const stripCount = 6
const stripHeight = 108

/** Joins some frames of a clip into one JPEG, left to right. */
export async function drawContactStrip(frames: readonly VideoFrame[]): Promise<Uint8Array> {
  // Loaded when it is needed: measuring footage does without its 30 MB.
  const { default: sharp } = await import('sharp')
  const first = frames[0]!
  const height = stripHeight
  const width = Math.max(8, Math.round((first.width * height) / first.height))
  const tiles = await Promise.all(
    frames.map(({ data, width: w, height: h }) =>
      sharp(data, { raw: { width: w, height: h, channels: 3 } })
        .resize(width, height, { fit: 'fill' })
        .raw()
        .toBuffer(),
    ),
  )
  const gap = 2
  return await sharp({
    create: {
      width: tiles.length * (width + gap) - gap,
      height,
      channels: 3,
      background: '#000',
    },
  })
    .composite(
      tiles.map((input, index) => ({
        input,
        raw: { width, height, channels: 3 as const },
        left: index * (width + gap),
        top: 0,
      })),
    )
    .jpeg({ quality: 80 })
    .toBuffer()
}
