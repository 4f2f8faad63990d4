import { PassThrough } from 'node:stream'
import type { RunContext } from '@kinora/stage'
import { mediaErrors } from './errors.ts'
import { checkFfmpeg, lastWords, newCommand, startFfmpeg } from './ffmpeg.ts'
import {
  countResampled,
  isShowinfo,
  rangeFilters,
  resampleFilters,
  shownPts,
  stamp,
  timeTolerance,
} from './frame-times.ts'
import {
  alphaFilters,
  hasAlpha,
  pictureFilters,
  pictureSize,
  type PictureOptions,
} from './picture-filters.ts'
import { probe, type MediaProbe } from './probe.ts'

/** Raw frames pulled one by one: `data` is height × width × 3 bytes (1 for `gray`), rows from the top. */
export interface VideoFrame {
  /** 0 for the first frame of the stream. */
  index: number
  /** Presentation time in seconds from the first frame of the file. */
  time: number
  width: number
  height: number
  data: Uint8Array
}

/** Bytes of a frame: `yuv420p` is the three planes one after another, chroma sides rounded up. */
export type FrameFormat = 'rgb24' | 'gray' | 'yuv420p'

export interface ReadFramesOptions extends PictureOptions {
  /** First moment read, in seconds from the first frame of the file; the first frame given is the first one at or after it. Default: 0. */
  start?: number | undefined
  /** End of the range, exclusive, in seconds. Default: the end of the file. */
  end?: number | undefined
  /**
   * Resample by time stamps: one frame for each moment `start + k / fps` before the end, the nearest one by time inside the
   * range (of two equally near, the earlier). Default: every frame with its own time.
   */
  fps?: number | undefined
  /** Default: `rgb24`. */
  format?: FrameFormat | undefined
  /**
   * `alpha`: how opaque each pixel is, 255 being opaque, as `gray` frames; crop and format have no say. `MEDIA_NO_ALPHA` for a file
   * without. Default: the picture.
   */
  plane?: 'picture' | 'alpha' | undefined
  /** Facts of the file where they are known already; saves reading them again. */
  probe?: MediaProbe | undefined
  /** Threads of the decoder. Default: ffmpeg's choice. */
  threads?: number | undefined
  /**
   * Skips the deblocking filter of H.264 and HEVC: a quarter less time. The picture drifts by a level or two until the next
   * key frame, which shrunken frames that are only measured do not show. Default: false.
   */
  draft?: boolean | undefined
  /** Called with each complaint of the decoder about damaged data, which does not stop it. */
  onDamage?: ((complaint: string) => void) | undefined
}

/** What ffmpeg's decoders say of data that they cannot make sense of. */
const damage =
  /error while decoding|corrupt|concealing|Invalid NAL|decode_slice_header|missing reference|missing picture|non-existing [PS]PS|Could not find ref|Invalid data found|out of range|overread/i

/**
 * Frames of a video, decoded by the system's ffmpeg as they are pulled: upright, with square pixels, deinterlaced, HDR brought
 * to SDR. At most a few frames are in memory; leaving the loop or aborting ends ffmpeg.
 *
 * Throws what `probe` throws, `MEDIA_BAD_RANGE`, `MEDIA_NO_FRAMES`, `MEDIA_NO_TONE_MAP`, `MEDIA_DECODE_FAILED`. A file that
 * breaks off gives the frames that decode.
 */
export async function* readFrames(
  file: string,
  options: ReadFramesOptions = {},
  context: RunContext = {},
): AsyncGenerator<VideoFrame, void, undefined> {
  const { signal } = context
  const ffmpeg = await checkFfmpeg()
  const source = options.probe ?? (await probe(file, context))
  const { start = 0, end = Infinity, fps, plane = 'picture', threads, draft = false } = options
  const format = plane === 'alpha' ? 'gray' : (options.format ?? 'rgb24')
  if (plane === 'alpha' && !hasAlpha(source)) throw mediaErrors.NO_ALPHA(file, source.pixFmt)
  if (!(start >= 0) || !(end > start)) throw mediaErrors.BAD_RANGE(`from ${start} s to ${end} s`)
  if (fps !== undefined && !(fps > 0 && fps <= 1000)) throw mediaErrors.BAD_RANGE(`${fps} fps`)
  const size = pictureSize(source, options)

  const timing =
    fps === undefined
      ? rangeFilters(
          source.startTime + start,
          end === Infinity ? undefined : source.startTime + end,
        )
      : resampleFilters({
          start: source.startTime + start,
          end: source.startTime + Math.min(end, source.duration + timeTolerance),
          fps,
          count: countResampled(Math.min(end, source.duration) - start, fps),
          sourceFps: source.nominalFps,
        })
  const filters = [
    ...timing,
    ...(plane === 'alpha'
      ? alphaFilters(size)
      : pictureFilters(source, options, size, format, ffmpeg)),
  ]

  for (const jump of [true, false]) {
    let index = 0
    let late = false
    const frames = decode(
      file,
      source,
      decodeOptions(source, start, { threads, draft, jump }),
      filters,
      frameBytes(size, format),
      fps === undefined,
      signal,
      options.onDamage,
    )
    for await (const { time, data } of frames) {
      if (index === 0 && jump && mayJump(source, start) && landedLate(source, start, time)) {
        late = true
        break
      }
      yield { index, time: fps === undefined ? time : start + index / fps, ...size, data }
      index++
    }
    if (late) continue
    if (index === 0)
      throw mediaErrors.NO_FRAMES(file, start > 0 || end < Infinity ? ` from ${start} s on` : '')
    return
  }
}

/**
 * Runs ffmpeg once. `time` is that of the frame where `everyTime` is set (frames pass one by one), else that of the first
 * frame of the range: filters that drop and repeat frames leave no more to be said.
 */
async function* decode(
  file: string,
  source: MediaProbe,
  inputOptions: string[],
  filters: string[],
  bytes: number,
  everyTime: boolean,
  signal: AbortSignal | undefined,
  onDamage: ((complaint: string) => void) | undefined,
): AsyncGenerator<{ time: number; data: Uint8Array }, void, undefined> {
  const output = new PassThrough({
    readableHighWaterMark: Math.max(bytes, 1 << 16),
    writableHighWaterMark: Math.max(bytes, 1 << 16),
    // fluent-ffmpeg kills ffmpeg 20 ms after its output closes, before the exit code is known.
    emitClose: false,
  })
  const command = newCommand(`file:${file}`)
    .inputOptions(inputOptions)
    .noAudio()
    .videoFilters(filters)
    .outputOptions([
      '-map 0:V:0',
      '-sn',
      '-dn',
      '-fps_mode passthrough',
      '-c:v rawvideo',
      '-f rawvideo',
    ])
    .output(output)
  // showinfo writes a frame's time before ffmpeg writes its bytes, so the times are never far behind.
  const times: number[] = []
  let arrived: (() => void) | undefined
  const run = startFfmpeg(command, signal, (line) => {
    const pts = shownPts(line)
    if (pts === undefined) {
      if (isShowinfo(line)) return true
      if (onDamage && damage.test(line)) onDamage(line)
      return false
    }
    if (everyTime || times.length === 0) {
      times.push(pts - source.startTime)
      arrived?.()
    }
    return true
  })
  // A start that fails never touches the output: wake the reader below.
  run.ended.catch((error: Error) => output.destroy(error))
  const nextTime = async (): Promise<number> => {
    if (times.length === 0) {
      await Promise.race([
        new Promise<void>((resolve) => (arrived = resolve)),
        run.ended.then(() => new Promise((resolve) => setImmediate(resolve))),
      ])
    }
    const time = everyTime ? times.shift() : times[0]
    if (time === undefined)
      throw mediaErrors.DECODE_FAILED(file, 'it gave a frame without a time stamp')
    return time
  }

  try {
    for await (const data of splitFrames(output, bytes)) {
      signal?.throwIfAborted()
      yield { time: await nextTime(), data }
    }
    const { code, stderr } = await run.ended
    signal?.throwIfAborted()
    if (code !== 0) throw mediaErrors.DECODE_FAILED(file, lastWords(stderr))
  } catch (error) {
    signal?.throwIfAborted()
    throw error
  } finally {
    run.kill()
    output.destroy()
  }
}

/** Cuts a stream of bytes into frames of `bytes` each; a last part of a frame is dropped. */
export async function* splitFrames(
  stream: AsyncIterable<Uint8Array>,
  bytes: number,
): AsyncGenerator<Uint8Array> {
  let data = new Uint8Array(bytes)
  let filled = 0
  for await (const chunk of stream) {
    let used = 0
    while (used < chunk.length) {
      const take = Math.min(chunk.length - used, bytes - filled)
      data.set(chunk.subarray(used, used + take), filled)
      used += take
      filled += take
      if (filled < bytes) break
      yield data
      data = new Uint8Array(bytes)
      filled = 0
    }
  }
}

/**
 * ffmpeg jumps to the last key frame before this long ahead of the start: pictures are stored up to some frames before they
 * are shown, and what it jumps by is when they are stored.
 */
const runUpSeconds = 0.5

/** Whether reading from `start` may jump. Streams without an index are read from their beginning: a jump can land late. */
export function mayJump({ container }: MediaProbe, start: number): boolean {
  return start > 2 && !/^(mpegts|h264|hevc|mpegvideo|m4v|avi|flv|rm|obu|ivf)/.test(container)
}

/** Whether the first picture came later than the range and the gaps between frames allow: the jump went too far. */
export function landedLate({ frameGap }: MediaProbe, start: number, firstTime: number): boolean {
  return firstTime > start + frameGap.max + 2 * timeTolerance
}

/**
 * ffmpeg's input options for reading from `start` (seconds from the first frame): the file's own clock is kept, so that
 * ranges are compared with it exactly, and ffmpeg jumps to a key frame before it unless told not to.
 */
export function decodeOptions(
  source: MediaProbe,
  start: number,
  {
    threads,
    draft = false,
    jump = true,
  }: { threads?: number | undefined; draft?: boolean; jump?: boolean } = {},
): string[] {
  const options = ['-copyts']
  if (jump && mayJump(source, start))
    options.push('-ss', stamp(source.startTime + start - runUpSeconds))
  if (threads !== undefined) options.push('-threads', String(threads))
  if (draft && (source.codec === 'h264' || source.codec === 'hevc'))
    options.push('-skip_loop_filter', 'all')
  return options
}

/** Bytes of one frame. */
export function frameBytes(
  { width, height }: { width: number; height: number },
  format: FrameFormat,
): number {
  switch (format) {
    case 'rgb24':
      return width * height * 3
    case 'gray':
      return width * height
    case 'yuv420p':
      return width * height + 2 * Math.ceil(width / 2) * Math.ceil(height / 2)
    default:
      return format satisfies never
  }
}
