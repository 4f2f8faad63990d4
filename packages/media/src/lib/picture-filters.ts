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
  /** `fine` (default): bicubic with exact rounding. `fast`: box average, for pictures that are only measured. */
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

/**
 * ffmpeg's filters from a decoded frame (already turned upright by ffmpeg) to 8-bit SDR frames of `size` in `pixFmt`:
 * deinterlace, square pixels, crop, scale, tone map, convert. Shrinking comes before the tone map, which is slow.
 *
 * Colours: the matrix is the file's own; where it says none, BT.709 from 720 lines up and BT.601 below, as players do. With
 * `outMatrix: 'bt709'` YUV comes out as BT.709 in the limited range.
 */
export function pictureFilters(
  source: MediaProbe,
  options: PictureOptions,
  size: { width: number; height: number },
  pixFmt: string,
  ffmpeg: FfmpegInfo,
  outMatrix?: 'bt709',
): string[] {
  const { crop, scaler = 'fine' } = options
  const filters: string[] = []
  if (source.interlaced) filters.push('bwdif=mode=send_frame:deint=interlaced')

  const flags = scaler === 'fast' ? 'area' : 'bicubic+accurate_rnd+full_chroma_int'
  let current = { width: source.width, height: source.height }
  if (crop) {
    // The crop is given for square pixels, so they are made square first, where they are not.
    if (source.pixelAspect !== 1)
      filters.push(`scale=${source.width}:${source.height}:flags=${flags}`)
    // exact=1 keeps odd offsets of subsampled chroma from being rounded away; converting below restores the phase.
    filters.push(`crop=${crop.width}:${crop.height}:${crop.x}:${crop.y}:exact=1`)
    current = { width: crop.width, height: crop.height }
  }
  const untagged =
    source.colorSpace === 'unknown' &&
    source.codedHeight >= 720 &&
    !/^(rgb|gbr|bgr)/.test(source.pixFmt)
  const scale = (to: string, more = '') =>
    filters.push(`scale=${to}:flags=${flags}${untagged ? ':in_color_matrix=bt709' : ''}${more}`)

  if (source.hdr) {
    if (!ffmpeg.toneMap)
      throw mediaErrors.NO_TONE_MAP(source.file, source.hdr === 'pq' ? 'PQ' : 'HLG')
    const shrinks = size.width * size.height < current.width * current.height
    if (shrinks) scale(`${size.width}:${size.height}`)
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
    if (shrinks) current = size
    filters.push(
      `scale=${size.width}:${size.height}:flags=${flags}:in_color_matrix=bt709${outMatrix ? `:out_color_matrix=${outMatrix}:out_range=tv` : ''}`,
    )
  } else {
    scale(
      `${size.width}:${size.height}`,
      outMatrix ? `:out_color_matrix=${outMatrix}:out_range=tv` : '',
    )
  }
  filters.push(`format=${pixFmt}`, 'setsar=1')
  return filters
}
