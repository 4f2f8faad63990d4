import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { aiToolkitBucket, areaBucket, nearestSize, placeFrame } from './bucket-grid.ts'

const clipSize = fc.record({
  width: fc.integer({ min: 16, max: 4096 }),
  height: fc.integer({ min: 16, max: 4096 }),
})
const fits = fc.constantFrom<('crop' | 'pad')[]>('crop', 'pad')

describe("AI Toolkit's sizes", () => {
  it.each([
    { clip: [1280, 720], resolution: 256, bucket: [336, 192] },
    { clip: [1280, 720], resolution: 512, bucket: [672, 384] },
    { clip: [1280, 720], resolution: 768, bucket: [1024, 576] },
    { clip: [1280, 720], resolution: 1024, bucket: [1280, 720] },
    { clip: [832, 480], resolution: 512, bucket: [672, 384] },
    { clip: [832, 480], resolution: 768, bucket: [832, 480] },
    { clip: [832, 480], resolution: 1024, bucket: [832, 480] },
    { clip: [640, 360], resolution: 512, bucket: [640, 352] },
    { clip: [640, 360], resolution: 768, bucket: [640, 352] },
    { clip: [640, 360], resolution: 1024, bucket: [640, 352] },
    // Nothing of at least one block a side lies within the budget: both sides rounded down, one block at least.
    { clip: [4000, 10], resolution: 64, bucket: [1280, 16] },
  ])('are $bucket for $clip at $resolution', ({ clip, resolution, bucket }) => {
    const [width = 0, height = 0] = clip
    expect(aiToolkitBucket({ width, height }, resolution, 16)).toEqual({
      width: bucket[0],
      height: bucket[1],
    })
  })

  it('scale the frame over the bucket, rounded up, and crop the centre', () => {
    const clip = { width: 1280, height: 720 }
    const bucket = { width: 672, height: 384 }
    expect(placeFrame(clip, bucket, { fit: 'crop', upscale: false, rounding: 'up' })).toEqual({
      resize: { width: 683, height: 384 },
      crop: { x: 5, y: 0, ...bucket },
    })
  })
})

describe('areaBucket', () => {
  it.each([
    { clip: [1280, 720], resolution: 512, bucket: [672, 384] },
    { clip: [1920, 1080], resolution: 512, bucket: [672, 384] },
    { clip: [720, 1280], resolution: 512, bucket: [384, 672] },
    { clip: [832, 480], resolution: 1024, bucket: [832, 480] },
    { clip: [640, 360], resolution: 1024, bucket: [640, 352] },
    { clip: [256, 256], resolution: 64, bucket: [64, 64] },
    { clip: [320, 180], resolution: 64, bucket: [80, 48] },
  ])('uses $clip at $bucket within $resolution', ({ clip, resolution, bucket }) => {
    const [width = 0, height = 0] = clip
    const options = { resolution, divisor: 16, upscale: false, fit: 'crop' } as const
    expect(areaBucket({ width, height }, options)).toEqual({ width: bucket[0], height: bucket[1] })
  })

  it('has no bucket for a clip below one block, unless it may be enlarged', () => {
    const clip = { width: 200, height: 12 }
    const options = { resolution: 512, divisor: 16, upscale: false, fit: 'crop' } as const
    expect(areaBucket(clip, options)).toBeUndefined()
    const enlarged = areaBucket(clip, { ...options, upscale: true })
    expect(enlarged!.width * enlarged!.height).toBeGreaterThan(512 * 512 * 0.9)
  })

  it('stays in the budget and the grid, and enlarges only when asked', () => {
    fc.assert(
      fc.property(
        clipSize,
        fc.integer({ min: 32, max: 1280 }),
        fc.constantFrom(16, 32),
        fc.boolean(),
        fits,
        (clip, resolution, divisor, upscale, fit) => {
          const bucket = areaBucket(clip, { resolution, divisor, upscale, fit })
          if (!bucket) {
            expect(upscale).toBe(false)
            return
          }
          expect((bucket.width % divisor) + (bucket.height % divisor)).toBe(0)
          expect(bucket.width * bucket.height).toBeLessThanOrEqual(resolution * resolution)
          const { resize, crop } = placeFrame(clip, bucket, { fit, upscale })
          if (!upscale) {
            expect(resize.width).toBeLessThanOrEqual(clip.width)
            expect(resize.height).toBeLessThanOrEqual(clip.height)
          }
          expect(crop).toMatchObject(bucket)
          if (fit === 'crop') {
            expect(Math.min(crop.x, crop.y)).toBeGreaterThanOrEqual(0)
            expect(crop.x + crop.width).toBeLessThanOrEqual(resize.width)
            expect(crop.y + crop.height).toBeLessThanOrEqual(resize.height)
          } else {
            expect(Math.max(crop.x, crop.y)).toBeLessThanOrEqual(0)
            expect(resize.width - crop.x).toBeLessThanOrEqual(bucket.width)
            expect(resize.height - crop.y).toBeLessThanOrEqual(bucket.height)
          }
        },
      ),
    )
  })

  it('keeps the shape of ordinary footage: nine tenths of the frame at 512 and up', () => {
    const ordinary = fc.record({
      width: fc.integer({ min: 480, max: 4096 }),
      aspect: fc.double({ min: 0.4, max: 2.4, noNaN: true }),
    })
    fc.assert(
      fc.property(ordinary, ({ width, aspect }) => {
        const clip = { width, height: Math.round(width / aspect) }
        const options = { resolution: 512, divisor: 16, upscale: false, fit: 'crop' } as const
        const bucket = areaBucket(clip, options)!
        const { resize } = placeFrame(clip, bucket, options)
        const kept = (bucket.width * bucket.height) / (resize.width * resize.height)
        expect(kept).toBeGreaterThan(0.9)
      }),
    )
  })
})

describe('nearestSize', () => {
  const sizes = [
    { width: 832, height: 480 },
    { width: 480, height: 832 },
    { width: 624, height: 624 },
    { width: 416, height: 240 },
  ]
  it.each([
    { clip: [1920, 1080], size: [832, 480] },
    { clip: [1080, 1920], size: [480, 832] },
    { clip: [1000, 1000], size: [624, 624] },
    { clip: [640, 360], size: [416, 240] },
  ])('takes $clip to $size', ({ clip, size }) => {
    const [width = 0, height = 0] = clip
    const options = { upscale: false, fit: 'crop' } as const
    expect(nearestSize({ width, height }, sizes, options)).toEqual({
      width: size[0],
      height: size[1],
    })
  })

  it('has none for a clip smaller than each of them', () => {
    const clip = { width: 400, height: 200 }
    expect(nearestSize(clip, sizes, { upscale: false, fit: 'crop' })).toBeUndefined()
    expect(nearestSize(clip, sizes, { upscale: false, fit: 'pad' })).toBeDefined()
    expect(nearestSize(clip, sizes, { upscale: true, fit: 'crop' })).toBeDefined()
  })
})
