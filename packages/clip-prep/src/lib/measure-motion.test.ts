import type { RgbImage } from '@kinora/media'
import { describe, expect, it } from 'vitest'
import { measureMotion } from './measure-motion.ts'

/** A smooth texture without period, in colour; `at` gives the point of it that a pixel shows, in picture widths. */
function render(
  numFrames: number,
  { width, height }: { width: number; height: number },
  at: (x: number, y: number, frame: number) => readonly [number, number],
): RgbImage[] {
  return Array.from({ length: numFrames }, (_, frame) => {
    const data = new Uint8Array(width * height * 3)
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const [u, v] = at((x + 0.5) / width - 0.5, (y + 0.5 - height / 2) / width, frame)
        const value =
          128 +
          40 * Math.sin(17 * u + 3 * Math.sin(11 * v)) +
          40 * Math.sin(23 * v + 2 * Math.sin(13 * u)) +
          30 * Math.sin(31 * (u + v))
        const pixel = 3 * (y * width + x)
        data[pixel] = Math.max(0, Math.min(255, value))
        data[pixel + 1] = Math.max(0, Math.min(255, 0.8 * value + 20))
        data[pixel + 2] = Math.max(0, Math.min(255, 0.6 * value + 40))
      }
    }
    return { width, height, data }
  })
}

const sizes = [
  { width: 64, height: 64 },
  { width: 320, height: 176 },
  { width: 481, height: 273 },
]

describe('measureMotion', () => {
  it.each(sizes)('measures a pan at $width×$height', async (size) => {
    const speed = 0.3
    const frames = render(17, size, (x, y, frame) => [x + (speed * frame) / 16, y])
    const motion = await measureMotion(frames, { fps: 16 })
    expect(motion).toMatchObject({ camera: 'pan-right' })
    expect(motion!.panPerSecond).toBeCloseTo(speed, 1)
    expect(Math.abs(motion!.panPerSecond / speed - 1)).toBeLessThan(0.05)
    expect(Math.abs(motion!.tiltPerSecond)).toBeLessThan(0.01)
  })

  it.each(sizes)('measures a move inwards at $width×$height', async (size) => {
    const growth = 0.25
    const frames = render(17, size, (x, y, frame) => {
      const scale = Math.exp((-growth * frame) / 16)
      return [x * scale, y * scale]
    })
    const motion = await measureMotion(frames, { fps: 16 })
    expect(motion).toMatchObject({ camera: 'zoom-in' })
    // The larger of two estimates is taken, so small pictures come out up to a fifth too high.
    expect(Math.abs(motion!.zoomPerSecond / growth - 1)).toBeLessThan(0.2)
  })

  it('sees the same frames move twice as fast at twice the rate', async () => {
    const frames = render(17, sizes[1]!, (x, y, frame) => [x + (0.2 * frame) / 16, y])
    const slow = await measureMotion(frames, { fps: 16 })
    const fast = await measureMotion(frames, { fps: 32 })
    expect(fast!.panPerSecond).toBeCloseTo(2 * slow!.panPerSecond, 3)
  })

  it('finds stillness still, and nothing in a single frame', async () => {
    const frames = render(9, sizes[0]!, (x, y) => [x, y])
    const motion = await measureMotion(frames, { fps: 16 })
    expect(motion).toMatchObject({ camera: 'static' })
    expect(motion!.panPerSecond).toBeCloseTo(0, 10)
    expect(await measureMotion(frames.slice(0, 1), { fps: 16 })).toBeNull()
  })

  it('takes frames as they come', async () => {
    const frames = render(9, sizes[0]!, (x, y, frame) => [x + (0.3 * frame) / 16, y])
    async function* stream(): AsyncGenerator<RgbImage> {
      yield* frames
    }
    expect(await measureMotion(stream(), { fps: 16 })).toEqual(
      await measureMotion(frames, { fps: 16 }),
    )
  })
})
