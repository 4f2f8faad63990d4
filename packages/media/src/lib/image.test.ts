import { describe, expect, it } from 'vitest'
import { encodeImage, type ImageFormat } from './image.ts'

const image = { width: 3, height: 2, data: Uint8Array.from({ length: 18 }, (_, i) => i * 14) }

describe('encodeImage', () => {
  it.each<[ImageFormat, number[]]>([
    ['png', [0x89, 0x50, 0x4e, 0x47]],
    ['jpeg', [0xff, 0xd8, 0xff]],
    ['webp', [0x52, 0x49, 0x46, 0x46]],
  ])('makes a %s file in memory', async (format, magic) => {
    const bytes = await encodeImage(image, format)
    expect([...bytes.subarray(0, magic.length)]).toEqual(magic)
  })

  it('refuses data of another size than the picture', async () => {
    const wrong = encodeImage({ ...image, width: 4 }, 'png')
    await expect(wrong).rejects.toMatchObject({ code: 'MEDIA_FRAME_SIZE' })
  })
})
