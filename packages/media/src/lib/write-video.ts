import { Readable } from 'node:stream'
import type { RunContext } from '@kinora/stage'
import { replaceFile } from './atomic-file.ts'
import { mediaErrors } from './errors.ts'
import { checkFfmpeg, lastWords, newCommand, saysDiskFull, startFfmpeg } from './ffmpeg.ts'
import type { VideoFrame } from './frame-source.ts'
import type { OutputMatrix } from './picture-filters.ts'

/** Frames to be written: their `data` is RGB (3 bytes a pixel) or gray (1 byte). */
export type FrameSequence = AsyncIterable<PlainFrame> | Iterable<PlainFrame>
type PlainFrame = Pick<VideoFrame, 'width' | 'height' | 'data'>

export interface WriteVideoOptions {
  /** Frames a second. */
  fps: number
  /** Quality of x264: 0 is lossless, 18 looks it, 51 is worst. Default: 16. */
  crf?: number | undefined
  /** `h264` plays anywhere (default). */
  codec?: 'h264' | undefined
  /** Speed of x264: faster makes bigger files of the same quality. Default: `medium`. */
  preset?: X264Preset | undefined
}

/** Presets of x264, fast to slow: slower ones make smaller files of the same quality. */
export type X264Preset =
  | 'ultrafast'
  | 'superfast'
  | 'veryfast'
  | 'faster'
  | 'fast'
  | 'medium'
  | 'slow'

/** Encoder of ffmpeg by the ending of the file. */
const encoders = { '.mp4': 'libx264', '.webp': 'libwebp_anim' } as const
/** Endings of the video files that this package writes. */
export type VideoEnding = keyof typeof encoders

/**
 * Makes sure that files with this ending can be written, so call it before long work. Throws `MEDIA_NO_ENCODER`, and what
 * `checkFfmpeg` throws.
 */
export async function checkVideoOutput(ending: VideoEnding): Promise<void> {
  const encoder = encoders[ending]
  if (!(await checkFfmpeg()).encoders.has(encoder)) throw mediaErrors.NO_ENCODER(encoder)
}

// Neither dates nor names of encoders in the file.
const timelessOptions = [
  '-map_metadata -1',
  '-map_chapters -1',
  '-fflags +bitexact',
  '-flags:v +bitexact',
]

/**
 * Options of an mp4 that plays anywhere and whose bytes depend on the frames and the ffmpeg build alone: no dates, no
 * encoder names, one thread (x264's result depends on their number).
 */
export function h264Options({
  crf = 16,
  preset = 'medium',
  matrix = 'bt709',
}: {
  crf?: number | undefined
  preset?: X264Preset | undefined
  matrix?: OutputMatrix
}): string[] {
  return [
    '-c:v libx264',
    `-preset ${preset}`,
    `-crf ${crf}`,
    '-threads 1',
    '-pix_fmt yuv420p',
    '-color_range tv',
    `-colorspace ${matrix}`,
    `-color_primaries ${matrix}`,
    `-color_trc ${matrix}`,
    ...timelessOptions,
    '-movflags +faststart',
    '-video_track_timescale 90000',
    '-f mp4',
  ]
}

/**
 * Writes frames as an mp4 (H.264, yuv420p, BT.709) as they come; a temporary name is renamed at the end. A last odd column or
 * row is left out, since yuv420p has none. The same frames and ffmpeg build give the same bytes.
 *
 * Throws `MEDIA_FRAME_SIZE`, `MEDIA_NO_FRAMES`, `MEDIA_DISK_FULL`, `MEDIA_WRITE_FAILED`, `MEDIA_NO_ENCODER`, and whatever
 * the frames throw.
 */
export async function writeVideo(
  file: string,
  frames: FrameSequence,
  { fps, crf, preset }: WriteVideoOptions,
  context: RunContext = {},
): Promise<void> {
  await encode(file, frames, fps, '.mp4', context, ({ width, height }) => [
    `-vf crop=${Math.max(2, width & ~1)}:${Math.max(2, height & ~1)}:0:0,scale=flags=bicubic+accurate_rnd+full_chroma_int:out_color_matrix=bt709:out_range=tv,format=yuv420p`,
    ...h264Options({ crf, preset }),
  ])
}

export interface WriteWebpOptions {
  /** Frames a second. */
  fps: number
  /** 0 to 100. Default: 80. */
  quality?: number | undefined
}

/** Writes frames as an animated WebP that repeats for ever; otherwise like `writeVideo`. */
export async function writeWebp(
  file: string,
  frames: FrameSequence,
  { fps, quality = 80 }: WriteWebpOptions,
  context: RunContext = {},
): Promise<void> {
  await encode(file, frames, fps, '.webp', context, () => [
    '-c:v libwebp_anim',
    `-quality ${quality}`,
    '-loop 0',
    '-threads 1',
    ...timelessOptions,
    '-f webp',
  ])
}

async function encode(
  file: string,
  frames: FrameSequence,
  fps: number,
  ending: VideoEnding,
  { signal }: RunContext,
  outputOptions: (first: PlainFrame) => string[],
): Promise<void> {
  signal?.throwIfAborted()
  if (!(fps > 0 && fps <= 1000)) throw mediaErrors.BAD_RANGE(`${fps} fps`)
  await checkVideoOutput(ending)
  const iterator =
    Symbol.asyncIterator in frames ? frames[Symbol.asyncIterator]() : frames[Symbol.iterator]()
  try {
    const first = await iterator.next()
    if (first.done) throw mediaErrors.NO_FRAMES(file, ': there was nothing to write')
    const { width, height } = first.value
    const channels = first.value.data.length === width * height ? 1 : 3
    await replaceFile(file, async (temporary) => {
      // An error of the frames is kept: ffmpeg only sees its input end.
      let failed: unknown
      const input = Readable.from(
        rawBytes(file, first.value, iterator, channels, signal, (error) => (failed = error)),
        { objectMode: true, highWaterMark: 1 },
      )
      const command = newCommand(input)
        .inputOptions([
          '-f rawvideo',
          `-pix_fmt ${channels === 1 ? 'gray' : 'rgb24'}`,
          `-video_size ${width}x${height}`,
          `-framerate ${fps}`,
        ])
        .outputOptions(outputOptions(first.value))
        .output(temporary)
      const run = startFfmpeg(command, signal)
      try {
        const { code, stderr } = await run.ended
        signal?.throwIfAborted()
        if (failed !== undefined) throw failed
        if (code !== 0) {
          if (saysDiskFull(stderr)) throw mediaErrors.DISK_FULL(file)
          throw mediaErrors.WRITE_FAILED(file, lastWords(stderr))
        }
      } finally {
        run.kill()
        input.destroy()
      }
    })
  } finally {
    await iterator.return?.()
  }
}

async function* rawBytes(
  file: string,
  first: PlainFrame,
  rest: AsyncIterator<PlainFrame> | Iterator<PlainFrame>,
  channels: number,
  signal: AbortSignal | undefined,
  onError: (error: unknown) => void,
): AsyncGenerator<Uint8Array> {
  try {
    let index = 0
    for (let frame: PlainFrame | undefined = first; frame; index++) {
      signal?.throwIfAborted()
      const { width, height, data } = frame
      if (
        width !== first.width ||
        height !== first.height ||
        data.length !== width * height * channels
      ) {
        throw mediaErrors.FRAME_SIZE(
          file,
          index,
          `${width}×${height} with ${data.length} bytes`,
          `${first.width}×${first.height} with ${first.data.length} bytes`,
        )
      }
      yield data
      const next = await rest.next()
      frame = next.done ? undefined : next.value
    }
  } catch (error) {
    onError(error)
    // Ending the input lets ffmpeg stop by itself; its result is thrown away.
  }
}
