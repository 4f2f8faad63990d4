import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { checkClipSize, sizeForImage } from './clip-size.ts'

describe('checkClipSize', () => {
  test.each([
    { width: 832, height: 480, numFrames: 81 },
    { width: 16, height: 16, numFrames: 1 },
  ])('takes $width × $height, $numFrames frames', (size) => {
    expect(() => checkClipSize(size)).not.toThrow()
  })

  test.each([
    { width: 830, height: 480, numFrames: 81, code: 'SAMPLER_BAD_SIZE', fix: '832×480' },
    { width: 832, height: 0, numFrames: 81, code: 'SAMPLER_BAD_SIZE', fix: '832×16' },
    { width: 832, height: 480, numFrames: 80, code: 'SAMPLER_BAD_FRAMES', fix: '77 or 81' },
    { width: 832, height: 480, numFrames: 0, code: 'SAMPLER_BAD_FRAMES', fix: '1 or 5' },
    { width: 832, height: 480, numFrames: 4.5, code: 'SAMPLER_BAD_FRAMES', fix: '1 or 5' },
  ])(
    'refuses $width × $height, $numFrames frames, and says what would do',
    ({ code, fix, ...size }) => {
      expect(() => checkClipSize(size)).toThrow(
        expect.objectContaining({ code, fix: expect.stringContaining(fix) }),
      )
    },
  )
})

describe('sizeForImage', () => {
  test('an image of the area keeps its size', () => {
    expect(sizeForImage({ width: 832, height: 480 }, 832 * 480)).toEqual({
      width: 832,
      height: 480,
    })
  })

  test('any image gives a valid size within the area, nearly of its shape', () => {
    const side = fc.integer({ min: 64, max: 8000 })
    fc.assert(
      fc.property(
        side,
        side,
        fc.integer({ min: 64 * 64, max: 1280 * 720 }),
        (width, height, area) => {
          fc.pre(width < 8 * height && height < 8 * width)
          const size = sizeForImage({ width, height }, area)
          checkClipSize({ ...size, numFrames: 1 })
          expect(size.width * size.height).toBeLessThanOrEqual(area)
          // Each side is cut by less than one multiple.
          const exact = Math.sqrt((area * width) / height)
          expect(exact - size.width).toBeLessThan(16)
        },
      ),
    )
  })
})
