import { stat } from 'node:fs/promises'
import type { RunContext } from '@kinora/stage'
import { mediaErrors } from './errors.ts'
import { checkFfmpeg, lastWords, runFfprobe } from './ffmpeg.ts'

/** What is known of a video file before it is decoded. */
export interface MediaProbe {
  file: string
  sizeBytes: number
  /** ffmpeg's name of the container, such as `mov,mp4,m4a,3gp,3g2,mj2`; read from the bytes, not from the file's name. */
  container: string
  /** ffmpeg's name of the codec, such as `h264`. */
  codec: string
  /** ffmpeg's name of the pixel format, such as `yuv420p10le`. */
  pixFmt: string
  /** Size as shown: rotated upright, with square pixels. */
  width: number
  height: number
  codedWidth: number
  codedHeight: number
  /** Clockwise turn from coded to shown, in degrees. ffmpeg applies it when frames are read. */
  rotation: 0 | 90 | 180 | 270
  /** Width of a coded pixel over its height; 1 when the file does not say. */
  pixelAspect: number
  /** Frames shown over duration: the mean rate. */
  fps: number
  /** The rate that the container names; of use only where `vfr` is false. */
  nominalFps: number
  /** True when the gaps between frames differ by more than the rounding of the container's clock. */
  vfr: boolean
  /** Shortest and longest gap between neighbouring frames, in seconds. */
  frameGap: { min: number; max: number }
  /** Frames that are shown: packets of the stream less those that an edit list drops. */
  numFrames: number
  /** Seconds from the first frame shown to the end of the last. */
  duration: number
  /** Time stamp of the first frame shown on the file's own clock, in seconds. Every other time counts from here. */
  startTime: number
  interlaced: boolean
  /** Transfer curve of HDR footage, null for SDR. */
  hdr: 'pq' | 'hlg' | null
  /** ffmpeg's name of the matrix, or `unknown`. */
  colorSpace: string
  /** True where luma goes from 0 to 255 and not from 16 to 235. */
  fullRange: boolean
  numAudioStreams: number
  /** Set when the header promises more than the file holds. */
  truncated: { promisedFrames: number; foundFrames: number } | null
}

interface RawStream {
  index: number
  codec_type?: string
  codec_name?: string
  pix_fmt?: string
  width?: number
  height?: number
  sample_aspect_ratio?: string
  r_frame_rate?: string
  avg_frame_rate?: string
  time_base?: string
  field_order?: string
  color_transfer?: string
  color_space?: string
  color_range?: string
  nb_frames?: string
  duration?: string
  disposition?: { attached_pic?: number; still_image?: number }
  tags?: { DURATION?: string }
  side_data_list?: { rotation?: number | string }[]
}

interface RawProbe {
  streams?: RawStream[]
  format?: { format_name?: string; duration?: string; tags?: { major_brand?: string } }
}

const imageCodecs = new Set(
  'bmp exr hdr jpeg2000 jpegls jpegxl ljpeg mjpeg pam pbm pcx pgm png ppm psd qoi sgi svg targa tiff webp xbm xpm'.split(
    ' ',
  ),
)
const animationCodecs = new Set(['gif', 'apng'])

/**
 * Reads the facts of a video file: its header, and the time stamps of every packet (nothing is decoded, so a two-hour file
 * takes seconds).
 *
 * Throws a coded error for what is no video: `MEDIA_NO_FILE`, `MEDIA_EMPTY_FILE`, `MEDIA_UNREADABLE`, `MEDIA_IS_IMAGE`,
 * `MEDIA_IS_ANIMATION`, `MEDIA_AUDIO_ONLY`. A file that ends before its header says is returned, with `truncated` set.
 */
export async function probe(file: string, { signal }: RunContext = {}): Promise<MediaProbe> {
  await checkFfmpeg()
  const info = await stat(file).catch((cause: unknown) => {
    throw mediaErrors.NO_FILE(file, { cause })
  })
  if (!info.isFile()) throw mediaErrors.NO_FILE(file)
  if (info.size === 0) throw mediaErrors.EMPTY_FILE(file)

  let text = ''
  const header = await runFfprobe(
    ['-v', 'error', '-show_streams', '-show_format', '-of', 'json', '-i', `file:${file}`],
    (line) => (text += line),
    signal,
  )
  const raw = parseJson(text)
  const streams = raw?.streams ?? []
  if (header.code !== 0 || streams.length === 0)
    throw mediaErrors.UNREADABLE(file, readableReason(header.stderr, file))

  const container = raw?.format?.format_name ?? 'unknown'
  const stream = streams.find(
    ({ codec_type, disposition }) => codec_type === 'video' && !disposition?.attached_pic,
  )
  const numAudioStreams = streams.filter(({ codec_type }) => codec_type === 'audio').length
  if (!stream) {
    if (numAudioStreams > 0) throw mediaErrors.AUDIO_ONLY(file)
    throw mediaErrors.UNREADABLE(file, 'it has no video stream.')
  }
  const codec = stream.codec_name ?? 'unknown'
  if (animationCodecs.has(codec)) throw mediaErrors.IS_ANIMATION(file, codec)
  const brand = raw?.format?.tags?.major_brand ?? ''
  if (
    /_pipe\b|^image2/.test(container) ||
    /^(heic|heix|mif1|msf1|avif)/.test(brand) ||
    stream.disposition?.still_image === 1
  )
    throw mediaErrors.IS_IMAGE(file, codec)

  const packets = await scanPackets(file, stream.index, fraction(stream.time_base), signal)
  if (packets.numShown === 0) {
    throw mediaErrors.UNREADABLE(
      file,
      packets.stderr ? readableReason(packets.stderr, file) : 'its video stream holds no frame.',
    )
  }
  if (imageCodecs.has(codec) && packets.numShown === 1) throw mediaErrors.IS_IMAGE(file, codec)
  if (!stream.width || !stream.height || codec === 'unknown')
    throw mediaErrors.UNREADABLE(file, 'its codec or picture size is not known to this ffmpeg.')

  const rotation = shownRotation(stream)
  const pixelAspect = fraction(stream.sample_aspect_ratio?.replace(':', '/')) || 1
  const square = {
    width: Math.max(1, Math.round(stream.width * pixelAspect)),
    height: stream.height,
  }
  const upright = rotation === 90 || rotation === 270
  const nominalFps =
    fraction(stream.r_frame_rate) || fraction(stream.avg_frame_rate) || 1 / packets.typicalGap
  const duration = packets.last - packets.first + packets.lastDuration(1 / nominalFps)
  return {
    file,
    sizeBytes: info.size,
    container,
    codec,
    pixFmt: stream.pix_fmt ?? 'unknown',
    width: upright ? square.height : square.width,
    height: upright ? square.width : square.height,
    codedWidth: stream.width,
    codedHeight: stream.height,
    rotation,
    pixelAspect,
    fps: packets.numShown / duration,
    nominalFps,
    vfr: packets.vfr,
    frameGap: packets.gap,
    numFrames: packets.numShown,
    duration,
    startTime: packets.first,
    interlaced: ['tt', 'bb', 'tb', 'bt'].includes(stream.field_order ?? ''),
    hdr:
      stream.color_transfer === 'smpte2084'
        ? 'pq'
        : stream.color_transfer === 'arib-std-b67'
          ? 'hlg'
          : null,
    colorSpace: stream.color_space ?? 'unknown',
    fullRange: stream.color_range === 'pc' || /^yuvj|^(rgb|gbr|bgr)/.test(stream.pix_fmt ?? ''),
    numAudioStreams,
    truncated: truncation(stream, raw?.format?.duration, packets),
  }
}

interface PacketScan {
  numShown: number
  numPackets: number
  first: number
  last: number
  /** Latest end of a packet of any stream, in seconds. */
  latestEnd: number
  lastDuration: (fallback: number) => number
  gap: { min: number; max: number }
  typicalGap: number
  vfr: boolean
  stderr: string
}

async function scanPackets(
  file: string,
  streamIndex: number,
  timeBase: number,
  signal: AbortSignal | undefined,
): Promise<PacketScan> {
  // 8 bytes a frame: a two-hour file at 60 fps takes 3.5 MB.
  const times: number[] = []
  let numPackets = 0
  let lastPts = -Infinity
  let durationOfLast = 0
  let latestEnd = -Infinity
  const { stderr } = await runFfprobe(
    [
      '-v',
      'error',
      '-show_entries',
      'packet=stream_index,pts_time,dts_time,duration_time,flags',
      '-of',
      'compact=print_section=0:nokey=1',
      '-i',
      `file:${file}`,
    ],
    (line) => {
      const [index, pts, dts, duration, flags] = line.split('|')
      const time = Number(pts === 'N/A' ? dts : pts)
      const length = Number(duration)
      if (Number.isFinite(time))
        latestEnd = Math.max(latestEnd, time + (Number.isFinite(length) ? length : 0))
      if (Number(index) !== streamIndex) return
      numPackets++
      if (flags?.includes('D') || !Number.isFinite(time)) return
      times.push(time)
      if (time > lastPts) {
        lastPts = time
        durationOfLast = Number.isFinite(length) ? length : 0
      }
    },
    signal,
  )
  const sorted = Float64Array.from(times).sort()
  const gaps = new Float64Array(Math.max(0, sorted.length - 1))
  for (let index = 0; index < gaps.length; index++)
    gaps[index] = (sorted[index + 1] ?? 0) - (sorted[index] ?? 0)
  const sortedGaps = gaps.slice().sort()
  const min = sortedGaps[0] ?? durationOfLast
  const max = sortedGaps.at(-1) ?? durationOfLast
  const typicalGap = sortedGaps[sortedGaps.length >> 1] || durationOfLast || 1 / 25
  // A clock of 1 ms (Matroska) or 1/600 s (phones) moves each stamp by up to one tick, so a gap by up to two; ffprobe
  // prints whole microseconds.
  const tolerance = Math.max(2 * timeBase, 0.1 * typicalGap)
  return {
    numShown: sorted.length,
    numPackets,
    first: sorted[0] ?? 0,
    last: sorted.at(-1) ?? 0,
    latestEnd,
    lastDuration: (fallback) => durationOfLast || (gaps.length > 0 ? typicalGap : fallback),
    gap: { min, max },
    typicalGap,
    vfr: max - min > tolerance,
    stderr,
  }
}

function truncation(
  stream: RawStream,
  containerDuration: string | undefined,
  packets: PacketScan,
): MediaProbe['truncated'] {
  const promised = Number(stream.nb_frames)
  if (promised > packets.numPackets)
    return { promisedFrames: promised, foundFrames: packets.numShown }
  // Matroska and WebM count no frames but tell the duration of the whole file, sound included.
  const duration = Number(containerDuration)
  const missing = duration - packets.latestEnd
  if (!stream.nb_frames && Number.isFinite(duration) && missing > Math.max(1, 0.02 * duration)) {
    return {
      promisedFrames: Math.round((duration - packets.first) / packets.typicalGap),
      foundFrames: packets.numShown,
    }
  }
  return null
}

function shownRotation(stream: RawStream): MediaProbe['rotation'] {
  const counterclockwise = Number(
    stream.side_data_list?.find(({ rotation }) => rotation !== undefined)?.rotation ?? 0,
  )
  const clockwise = (((Math.round(-counterclockwise / 90) * 90) % 360) + 360) % 360
  return clockwise as MediaProbe['rotation']
}

function readableReason(stderr: string, file: string): string {
  return (
    lastWords(stderr)
      .replaceAll(`file:${file}`, 'the file')
      .replace(/\[[^\]]* @ 0x[0-9a-f]+\] /g, '') + '.'
  )
}

function parseJson(text: string): RawProbe | undefined {
  try {
    return JSON.parse(text) as RawProbe
  } catch {
    return undefined
  }
}

/** `30000/1001` as a number; 0 where it is missing or has no value. */
function fraction(text: string | undefined): number {
  const [over, under = 1] = (text ?? '').split('/').map(Number)
  const value = (over ?? 0) / under
  return Number.isFinite(value) ? value : 0
}
