import { extname } from 'node:path'
import { stat, writeFile } from 'node:fs/promises'
import type { ResizeOptions } from 'sharp'
import { replaceFile } from './atomic-file.ts'
import { mediaErrors } from './errors.ts'

/** Loaded when the first picture is made: it takes 30 MB, which who only reads video need not spend. */
const loadSharp = async () => (await import('sharp')).default

/** A picture in memory: `data` is height × width × 3 bytes RGB, rows from the top. */
export interface RgbImage {
  width: number
  height: number
  data: Uint8Array
}

export interface ReadImageOptions {
  /** Width of the result in pixels. Default: from `height` by the aspect ratio, or the picture's own. */
  width?: number | undefined
  /** Height of the result in pixels. Default: from `width` by the aspect ratio, or the picture's own. */
  height?: number | undefined
  /** With both sides given: `cover` fills and crops the middle (default), `contain` adds black bars, `fill` stretches. */
  fit?: 'cover' | 'contain' | 'fill' | undefined
}

/**
 * Reads a still image as RGB: turned upright by its EXIF orientation, converted to sRGB, transparency over black, gray as
 * three equal channels. Throws `MEDIA_NO_FILE`, `MEDIA_EMPTY_FILE`, `MEDIA_IS_ANIMATION` or `MEDIA_NOT_AN_IMAGE`.
 */
export async function readImage(
  file: string,
  { width, height, fit = 'cover' }: ReadImageOptions = {},
): Promise<RgbImage> {
  const info = await stat(file).catch((cause: unknown) => {
    throw mediaErrors.NO_FILE(file, { cause })
  })
  if (!info.isFile()) throw mediaErrors.NO_FILE(file)
  if (info.size === 0) throw mediaErrors.EMPTY_FILE(file)
  try {
    const sharp = await loadSharp()
    const image = sharp(file, { failOn: 'warning' })
    const { format, pages = 1 } = await image.metadata()
    if (pages > 1 || format === 'gif') throw mediaErrors.IS_ANIMATION(file, format ?? 'unknown')
    image.rotate().toColourspace('srgb').flatten({ background: '#000' })
    if (width !== undefined || height !== undefined)
      image.resize({ width, height, fit, kernel: 'lanczos3', background: '#000' } as ResizeOptions)
    const { data, info: made } = await image
      .removeAlpha()
      .raw({ depth: 'uchar' })
      .toBuffer({ resolveWithObject: true })
    return { width: made.width, height: made.height, data: asRgb(data, made.channels) }
  } catch (error) {
    if (error instanceof Error && 'code' in error && String(error.code).startsWith('MEDIA_'))
      throw error
    const detail = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error)
    throw mediaErrors.NOT_AN_IMAGE(file, detail, { cause: error })
  }
}

function asRgb(data: Uint8Array, channels: number): Uint8Array {
  if (channels === 3) return data
  const rgb = new Uint8Array((data.length / channels) * 3)
  for (let pixel = 0; pixel < rgb.length / 3; pixel++) {
    for (let channel = 0; channel < 3; channel++)
      rgb[pixel * 3 + channel] = data[pixel * channels + (channels > 2 ? channel : 0)] ?? 0
  }
  return rgb
}

/** Whether a file's name is that of a still picture `readImage` reads. */
export function isImageFile(file: string): boolean {
  return /\.(png|jpe?g|webp)$/i.test(file)
}

/** File formats of still pictures that can be made: `png` is lossless. */
export type ImageFormat = 'png' | 'jpeg' | 'webp'

/**
 * The bytes of a picture file. `data` is RGB, or gray with one byte a pixel. Throws `MEDIA_FRAME_SIZE`.
 *
 * @param options.quality of jpeg and webp, 1 to 100; default 90
 */
export async function encodeImage(
  image: RgbImage,
  format: ImageFormat,
  { quality = 90 }: { quality?: number | undefined } = {},
): Promise<Uint8Array> {
  return encode(image, format, quality, 'the picture')
}

/**
 * Writes a picture; the ending of the name says how: `.png` (lossless), `.jpg`/`.jpeg` or `.webp`. `data` is RGB, or gray with
 * one byte a pixel. A temporary name is renamed at the end. Throws `MEDIA_IMAGE_TYPE`, `MEDIA_FRAME_SIZE`,
 * `MEDIA_DISK_FULL`.
 *
 * @param options.quality of jpg and webp, 1 to 100; default 90
 */
export async function writeImage(
  file: string,
  image: RgbImage,
  { quality = 90 }: { quality?: number | undefined } = {},
): Promise<void> {
  const format = imageFormats[extname(file).toLowerCase()]
  if (!format) throw mediaErrors.IMAGE_TYPE(file)
  const bytes = await encode(image, format, quality, file)
  await replaceFile(file, (temporary) => writeFile(temporary, bytes))
}

const imageFormats: Readonly<Record<string, ImageFormat>> = {
  '.png': 'png',
  '.jpg': 'jpeg',
  '.jpeg': 'jpeg',
  '.webp': 'webp',
}

async function encode(
  { width, height, data }: RgbImage,
  format: ImageFormat,
  quality: number,
  name: string,
): Promise<Uint8Array> {
  const channels = data.length === width * height ? 1 : 3
  if (data.length !== width * height * channels) {
    throw mediaErrors.FRAME_SIZE(
      name,
      0,
      `${data.length} bytes`,
      `${width}×${height}, so ${width * height * 3} bytes`,
    )
  }
  const sharp = await loadSharp()
  const image = sharp(data, { raw: { width, height, channels } })
  switch (format) {
    case 'png':
      return image.png({ compressionLevel: 9 }).toBuffer()
    case 'jpeg':
      return image
        .jpeg({ quality, chromaSubsampling: quality >= 90 ? '4:4:4' : '4:2:0' })
        .toBuffer()
    case 'webp':
      return image.webp({ quality }).toBuffer()
    default:
      return format satisfies never
  }
}
