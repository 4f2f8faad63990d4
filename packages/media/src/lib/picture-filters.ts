import { mediaErrors } from './errors.ts'
import type { FfmpegInfo } from './ffmpeg.ts'
import type { MediaProbe } from './probe.ts'

/** A part of the picture as shown (upright, square pixels), in pixels from the top left. */
export interface CropRectangle {
  x: number
  y: number
  width: number
  height: number
}

/** How the picture is cut and scaled. */
export interface PictureOptions {
  /** Part of the picture as shown. Default: all of it. */
  crop?: CropRectangle | undefined
  /** Width of the result in pixels. Default: from `height` by the aspect ratio, or the size of the crop. */
  width?: number | undefined
  /** Height of the result in pixels. Default: from `width` by the aspect ratio, or the size of the crop. */
  height?: number | undefined
  /** `fine` (default): bicubic with exact rounding. `fast`: bilinear, for pictures that are only measured. */
  scaler?: 'fine' | 'fast' | undefined
}

/** Size of the picture that `options` ask for. Throws `MEDIA_BAD_RANGE` for an impossible one. */
export function pictureSize(
  source: Pick<MediaProbe, 'width' | 'height'>,
  { crop, width, height }: PictureOptions,
): { width: number; height: number } {
  if (crop) {
    const whole = [crop.x, crop.y, crop.width, crop.height].every(Number.isInteger)
    if (
      !whole ||
      crop.x < 0 ||
      crop.y < 0 ||
      crop.width < 1 ||
      crop.height < 1 ||
      crop.x + crop.width > source.width ||
      crop.y + crop.height > source.height
    ) {
      throw mediaErrors.BAD_RANGE(
        `the crop ${crop.width}×${crop.height} at (${crop.x}, ${crop.y}) is not inside ${source.width}×${source.height}`,
      )
    }
  }
  for (const side of [width, height]) {
    if (side !== undefined && (!Number.isInteger(side) || side < 1))
      throw mediaErrors.BAD_RANGE(`a side of ${side} pixels`)
  }
  const from = crop ?? source
  return {
    width:
      width ??
      (height === undefined
        ? from.width
        : Math.max(1, Math.round((from.width * height) / from.height))),
    height:
      height ??
      (width === undefined
        ? from.height
        : Math.max(1, Math.round((from.height * width) / from.width))),
  }
}

/** Matrices that an H.264 file may name and players know. */
export type OutputMatrix = 'bt709' | 'smpte170m'

/**
 * Matrix of the YUV that `pictureFilters` gives for clips: the file's own where it is one of the two that are common, so that
 * nothing is converted for nothing.
 */
export function outputMatrix(source: MediaProbe): OutputMatrix {
  if (source.hdr) return 'bt709'
  return matrixOf(source) === 'smpte170m' ? 'smpte170m' : 'bt709'
}

/** The file's matrix; where it says none, BT.709 from 720 lines up and BT.601 below, as players do. */
function matrixOf({ colorSpace, codedHeight, codedWidth }: MediaProbe): string {
  if (colorSpace === 'bt470bg') return 'smpte170m'
  if (colorSpace !== 'unknown') return colorSpace
  return Math.min(codedWidth, codedHeight) >= 720 ? 'bt709' : 'smpte170m'
}

/**
 * ffmpeg's filters from a decoded frame (already turned upright by ffmpeg) to 8-bit SDR frames of `size` in `pixFmt`:
 * deinterlace, square pixels, crop, scale, tone map, convert. Shrinking comes before the tone map, which is slow. YUV comes
 * out in the limited range, with `toMatrix` in that matrix and without in the file's own.
 */
export function pictureFilters(
  source: MediaProbe,
  options: PictureOptions,
  size: { width: number; height: number },
  pixFmt: string,
  ffmpeg: FfmpegInfo,
  toMatrix?: OutputMatrix,
): string[] {
  const { crop, scaler = 'fine' } = options
  const filters: string[] = []
  if (source.interlaced) filters.push('bwdif=mode=send_frame:deint=interlaced')

  const flags = scaler === 'fast' ? 'bilinear' : 'bicubic+accurate_rnd+full_chroma_int'
  const isRgb = /^(rgb|gbr|bgr|pal8)/.test(source.pixFmt)
  const from = isRgb ? '' : `:in_color_matrix=${matrixName(matrixOf(source))}`
  const to = toMatrix ? `:out_color_matrix=${matrixName(toMatrix)}:out_range=tv` : ''
  const scale = (
    { width, height }: { width: number; height: number },
    inMatrix: string,
    outMatrix: string,
  ) => filters.push(`scale=${width}:${height}:flags=${flags}${inMatrix}${outMatrix}`)

  let current = { width: source.width, height: source.height }
  // Bilinear weighs twice the area of a pixel of the result, which at a tenth of the size costs a sixth of decoding. Plain means
  // down to twice the size come at a third of that, and leave it the last halving, and with it nearly the same picture.
  const twice = { width: 2 * size.width, height: 2 * size.height }
  if (scaler === 'fast' && !crop && !source.hdr && current.width >= 2 * twice.width) {
    filters.push(`scale=${twice.width}:${twice.height}:flags=area`)
    current = twice
  }
  if (crop) {
    // The crop is given for square pixels, so they are made square first, where they are not.
    if (source.pixelAspect !== 1) scale(current, from, '')
    // exact=1 keeps odd offsets, where chroma is subsampled, from being rounded.
    filters.push(`crop=${crop.width}:${crop.height}:${crop.x}:${crop.y}:exact=1`)
    current = { width: crop.width, height: crop.height }
  }
  const isSize =
    current.width === size.width &&
    current.height === size.height &&
    (crop !== undefined || source.pixelAspect === 1)

  if (source.hdr) {
    if (!ffmpeg.toneMap)
      throw mediaErrors.NO_TONE_MAP(source.file, source.hdr === 'pq' ? 'PQ' : 'HLG')
    const shrinks = size.width * size.height < current.width * current.height
    if (shrinks) scale(size, '', '')
    const transfer = source.hdr === 'pq' ? 'smpte2084' : 'arib-std-b67'
    const matrix = source.colorSpace === 'unknown' ? ':min=bt2020nc' : ''
    // BT.2408's reference white is 203 cd/m²: it is what SDR white should become. Hable keeps detail in the highlights.
    filters.push(
      `zscale=tin=${transfer}:pin=bt2020${matrix}:t=linear:npl=203`,
      'format=gbrpf32le',
      'zscale=p=bt709',
      'tonemap=hable:desat=0',
      'zscale=t=bt709:m=bt709:r=tv',
      'format=yuv444p',
    )
    scale(size, ':in_color_matrix=bt709', to)
  } else {
    const isReady =
      isSize && toMatrix === matrixOf(source) && !source.fullRange && source.pixFmt === pixFmt
    if (!isReady) scale(size, from, to)
  }
  filters.push(`format=${pixFmt}`, 'setsar=1')
  return filters
}

/** Whether frames say how opaque their pixels are. ffmpeg's own decoder of VP9 drops that of WebM. */
export function hasAlpha({ pixFmt }: Pick<MediaProbe, 'pixFmt'>): boolean {
  return /^(yuva|gbrap|rgba|bgra|argb|abgr|ya|pal8|ayuv)/.test(pixFmt)
}

/** From a decoded frame to its alpha as 8-bit gray of `size`. */
export function alphaFilters({ width, height }: { width: number; height: number }): string[] {
  return ['alphaextract', `scale=${width}:${height}:flags=area`, 'format=gray']
}

/** The scale filter's name of a matrix. */
function matrixName(matrix: string): string {
  switch (matrix) {
    case 'bt709':
    case 'fcc':
    case 'smpte170m':
    case 'smpte240m':
      return matrix
    case 'bt2020nc':
    case 'bt2020c':
      return 'bt2020'
    default:
      return 'auto'
  }
}
