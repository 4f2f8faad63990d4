import { PassThrough } from 'node:stream'
import type { RunContext } from '@kinora/stage'
import { replaceFile } from './atomic-file.ts'
import { mediaErrors } from './errors.ts'
import { checkFfmpeg, lastWords, newCommand, saysDiskFull, startFfmpeg } from './ffmpeg.ts'
import { decodeOptions, landedLate, mayJump, splitFrames, type VideoFrame } from './frame-source.ts'
import {
  countResampled,
  isShowinfo,
  resampleFilters,
  shownPts,
  timeTolerance,
} from './frame-times.ts'
import {
  outputMatrix,
  pictureFilters,
  pictureSize,
  type OutputMatrix,
  type PictureOptions,
} from './picture-filters.ts'
import { probe, type MediaProbe } from './probe.ts'
import { checkVideoOutput, h264Options, type X264Preset } from './write-video.ts'

export interface CutVideoOptions extends PictureOptions {
  /** First moment kept, in seconds from the first frame of the file. */
  start: number
  /** End of the range, exclusive, in seconds. */
  end: number
  /** Frames a second of the result; the range is resampled by time stamps as in `readFrames`. */
  fps: number
  /** Seconds of footage a second of the result: 1 (default) keeps real time. */
  speed?: number | undefined
  /** Quality of x264, 0 to 51. Default: 16. */
  crf?: number | undefined
  /** Speed of x264. Default: `medium`. */
  preset?: X264Preset | undefined
  probe?: MediaProbe | undefined
  threads?: number | undefined
  /** Some frames of the result, small, for looking at while the clip is cut: they cost no second reading. */
  preview?: CutPreview | undefined
}

/** Small pictures of a clip, handed out while it is cut. */
export interface CutPreview {
  /** Of every so many frames of the result, the first. All are held until the end: a dozen is plenty. */
  every: number
  /** Longest side of the preview in pixels; a smaller picture keeps its size. */
  maxSide: number
  /** Called with each when the clip is cut, as RGB, in order; `time` is from the start of the clip. */
  onFrame: (frame: VideoFrame) => void
}

/**
 * Cuts a range of a video into an mp4 of its own, frame-exactly, inside one ffmpeg: nothing passes through this process. Odd
 * sides lose their last column or row. Same picture and colour rules as `readFrames`, same file rules as `writeVideo`.
 *
 * @returns what was written
 */
export async function cutVideo(
  file: string,
  target: string,
  options: CutVideoOptions,
  context: RunContext = {},
): Promise<{ width: number; height: number; numFrames: number }> {
  const { signal } = context
  signal?.throwIfAborted()
  await checkVideoOutput('.mp4')
  const ffmpeg = await checkFfmpeg()
  const source = options.probe ?? (await probe(file, context))
  const { start, fps, speed = 1, crf, preset, threads } = options
  const end = Math.min(options.end, source.duration + timeTolerance)
  if (!(start >= 0) || !(end > start))
    throw mediaErrors.BAD_RANGE(`from ${start} s to ${options.end} s`)
  if (!(fps > 0 && fps <= 1000 && speed > 0)) throw mediaErrors.BAD_RANGE(`${fps} fps at ${speed}×`)
  const wanted = pictureSize(source, options)
  const size = { width: wanted.width & ~1, height: wanted.height & ~1 }
  if (size.width < 2 || size.height < 2)
    throw mediaErrors.BAD_RANGE(`a picture of ${wanted.width}×${wanted.height}`)
  // An odd side is cropped, not squeezed, so that a pixel of footage stays a pixel.
  const crop = options.crop ?? { x: 0, y: 0, width: source.width, height: source.height }
  const evenCrop =
    options.width === undefined && options.height === undefined
      ? { ...crop, ...size }
      : options.crop
  const numFrames = countResampled(end - start, fps, speed)
  const matrix = outputMatrix(source)
  const filters = [
    ...resampleFilters({
      start: source.startTime + start,
      end: source.startTime + end,
      fps,
      speed,
      count: numFrames,
      sourceFps: source.nominalFps,
    }),
    ...pictureFilters(
      source,
      {
        ...options,
        crop:
          evenCrop && (evenCrop.width !== source.width || evenCrop.height !== source.height)
            ? evenCrop
            : undefined,
      },
      size,
      'yuv420p',
      ffmpeg,
      matrix,
    ),
  ]
  await replaceFile(target, async (temporary) => {
    for (const jump of [true, false]) {
      const firstTime = await cutOnce(
        file,
        temporary,
        target,
        decodeOptions(source, start, { threads, jump }),
        filters,
        h264Options({ crf, preset, matrix }),
        options.preview && previewOf(options.preview, size, matrix, fps),
        signal,
      )
      const late =
        jump && mayJump(source, start) && landedLate(source, start, firstTime - source.startTime)
      if (!late) break
    }
  })
  return { ...size, numFrames }
}

/** Runs ffmpeg once; returns the time of the first frame that it used, on the file's own clock. */
async function cutOnce(
  file: string,
  temporary: string,
  target: string,
  inputOptions: string[],
  filters: string[],
  encoderOptions: string[],
  preview: Preview | undefined,
  signal: AbortSignal | undefined,
): Promise<number> {
  const chain = `[0:V:0]${filters.join(',')}`
  const command = newCommand(`file:${file}`)
    .inputOptions(inputOptions)
    .complexFilter(
      preview ? `${chain},split=2[clip][copy];[copy]${preview.filters}[preview]` : `${chain}[clip]`,
    )
    .output(temporary)
    .outputOptions(['-map [clip]', '-fps_mode passthrough', ...encoderOptions])
  const output = new PassThrough({ emitClose: false })
  if (preview) {
    command
      .output(output)
      .outputOptions([
        '-map [preview]',
        '-fps_mode passthrough',
        '-c:v rawvideo',
        '-pix_fmt rgb24',
        '-f rawvideo',
      ])
  }
  let firstTime = -Infinity
  const run = startFfmpeg(command, signal, (line) => {
    if (firstTime === -Infinity) firstTime = shownPts(line) ?? -Infinity
    return isShowinfo(line)
  })
  run.ended.catch((error: Error) => output.destroy(error))
  try {
    if (preview) {
      const frames: VideoFrame[] = []
      for await (const data of splitFrames(output, preview.bytes)) {
        const index = frames.length
        frames.push({ index, time: index * preview.interval, ...preview.size, data })
      }
      const { code } = await run.ended
      if (code === 0) for (const frame of frames) preview.onFrame(frame)
    }
    const { code, stderr } = await run.ended
    signal?.throwIfAborted()
    if (code !== 0) {
      if (saysDiskFull(stderr)) throw mediaErrors.DISK_FULL(target)
      throw mediaErrors.DECODE_FAILED(file, lastWords(stderr))
    }
    return firstTime
  } finally {
    run.kill()
    output.destroy()
  }
}

interface Preview {
  size: { width: number; height: number }
  bytes: number
  filters: string
  /** Seconds of clip between two. */
  interval: number
  onFrame: (frame: VideoFrame) => void
}

function previewOf(
  { every, maxSide, onFrame }: CutPreview,
  clip: { width: number; height: number },
  matrix: OutputMatrix,
  fps: number,
): Preview {
  const scale = Math.min(1, maxSide / Math.max(clip.width, clip.height))
  const size = {
    width: Math.max(1, Math.round(clip.width * scale)),
    height: Math.max(1, Math.round(clip.height * scale)),
  }
  return {
    size,
    bytes: size.width * size.height * 3,
    filters: `select='not(mod(n,${every}))',scale=${size.width}:${size.height}:flags=area:in_color_matrix=${matrix},format=rgb24`,
    interval: every / fps,
    onFrame,
  }
}
