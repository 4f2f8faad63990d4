import { spawn, type ChildProcess } from 'node:child_process'
import type { Readable } from 'node:stream'
import ffmpeg, { type FfmpegCommand } from 'fluent-ffmpeg'
import { mediaErrors } from './errors.ts'

/** What the installed ffmpeg can do, as far as this package cares. */
export interface FfmpegInfo {
  /** As `ffmpeg -version` says it, such as `5.1.9-0+deb12u1`. */
  version: string
  /** Whether HDR footage can be brought to SDR (filters zscale and tonemap). */
  toneMap: boolean
  /** Video encoders by name. */
  encoders: ReadonlySet<string>
}

// The same rule as fluent-ffmpeg's own for finding the programs.
const ffmpegProgram = () => process.env['FFMPEG_PATH'] || 'ffmpeg'
const ffprobeProgram = () => process.env['FFPROBE_PATH'] || 'ffprobe'

const known = new Map<string, Promise<FfmpegInfo>>()

/**
 * Finds ffmpeg and ffprobe and says what they can do; asked once a process. Throws `MEDIA_NO_FFMPEG` or
 * `MEDIA_FFMPEG_TOO_OLD`, so call it before long work.
 */
export function checkFfmpeg(): Promise<FfmpegInfo> {
  const key = `${ffmpegProgram()}\n${ffprobeProgram()}\n${process.env['PATH'] ?? ''}`
  let info = known.get(key)
  if (!info) {
    info = inspect()
    known.set(key, info)
    info.catch(() => known.delete(key))
  }
  return info
}

async function inspect(): Promise<FfmpegInfo> {
  const [version, filters, encoders] = await Promise.all([
    collect(ffmpegProgram(), ['-hide_banner', '-version']),
    collect(ffmpegProgram(), ['-hide_banner', '-filters']),
    collect(ffmpegProgram(), ['-hide_banner', '-encoders']),
    collect(ffprobeProgram(), ['-hide_banner', '-version']),
  ])
  const name = /version (\S+)/.exec(version.stdout)?.[1] ?? 'unknown'
  // Builds from git are called N-12345-g…; they are newer than any release we could refuse.
  const numbers = /^n?(\d+)\.(\d+)/.exec(name)
  if (numbers && Number(numbers[1]) + Number(numbers[2]) / 100 < 5.01)
    throw mediaErrors.FFMPEG_TOO_OLD(name)
  const has = (filter: string) => new RegExp(`^ \\S+ ${filter} `, 'm').test(filters.stdout)
  return {
    version: name,
    toneMap: has('zscale') && has('tonemap'),
    encoders: new Set(
      Array.from(encoders.stdout.matchAll(/^ V\S* (\S+) /gm), (match) => match[1] ?? ''),
    ),
  }
}

/** Runs ffprobe and gives each line of its output to `onLine`; resolves with its exit code and last words. */
export async function runFfprobe(
  args: readonly string[],
  onLine: (line: string) => void,
  signal?: AbortSignal,
): Promise<{ code: number; stderr: string }> {
  let rest = ''
  const { code, stderr } = await collect(
    ffprobeProgram(),
    ['-hide_banner', ...args],
    signal,
    (text) => {
      const lines = (rest + text).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) onLine(line)
    },
  )
  if (rest) onLine(rest)
  return { code, stderr }
}

async function collect(
  program: string,
  args: readonly string[],
  signal?: AbortSignal,
  onText?: (text: string) => void,
): Promise<{ code: number; stdout: string; stderr: string }> {
  signal?.throwIfAborted()
  return await new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      windowsHide: true,
    })
    const abort = () => child.kill('SIGKILL')
    signal?.addEventListener('abort', abort, { once: true })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (onText) onText(text)
      else stdout += text
    })
    // A damaged file can fill megabytes with complaints: the last ones are enough.
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-16_384)
    })
    child.on('error', (error: NodeJS.ErrnoException) => {
      signal?.removeEventListener('abort', abort)
      reject(
        error.code === 'ENOENT' || error.code === 'EACCES'
          ? mediaErrors.NO_FFMPEG(program, { cause: error })
          : error,
      )
    })
    child.on('close', (code) => {
      signal?.removeEventListener('abort', abort)
      if (signal?.aborted) reject(signal.reason)
      else resolve({ code: code ?? -1, stdout, stderr })
    })
  })
}

/** A running ffmpeg: when it has ended, and its last complaints. */
export interface FfmpegRun {
  /** Resolves with the exit code; -1 when it was killed. Rejects when ffmpeg could not be started. */
  readonly ended: Promise<{ code: number; stderr: string }>
  /** Ends ffmpeg at once. Harmless when it has ended. */
  kill(): void
}

/**
 * Starts a fluent-ffmpeg command. Its `end` and `error` events race with the pipes (it gives ffmpeg 20 ms to exit after
 * its output closes), so the exit code is taken from the process itself.
 *
 * @param onStderr called with each line that ffmpeg says; true keeps the line out of the last complaints
 */
export function startFfmpeg(
  command: FfmpegCommand,
  signal: AbortSignal | undefined,
  onStderr?: (line: string) => boolean,
): FfmpegRun {
  const { promise, resolve, reject } = withResolvers<{ code: number; stderr: string }>()
  // Who reads the output may hear of its end first and never look at this promise.
  promise.catch(() => {})
  const last: string[] = []
  let child: ChildProcess | undefined
  let killed = false
  const kill = () => {
    killed = true
    child?.kill('SIGKILL')
  }
  signal?.addEventListener('abort', kill, { once: true })
  const settle = () => signal?.removeEventListener('abort', kill)
  command.on('stderr', (line: string) => {
    if (onStderr?.(line)) return
    last.push(line)
    if (last.length > 40) last.shift()
  })
  command.on('start', () => {
    child = (command as unknown as { ffmpegProc: ChildProcess }).ffmpegProc
    if (killed) child.kill('SIGKILL')
    child.on('close', (code) => {
      settle()
      resolve({ code: code ?? -1, stderr: last.join('\n') })
    })
  })
  command.on('error', (error: Error & { inputStreamError?: Error }) => {
    if (child && !error.inputStreamError) return // the exit code tells
    settle()
    if (/cannot find ffmpeg|ENOENT/i.test(error.message))
      reject(mediaErrors.NO_FFMPEG('ffmpeg', { cause: error }))
    else reject(error.inputStreamError ?? error)
  })
  command.run()
  return { ended: promise, kill }
}

/** A new fluent-ffmpeg command with the options every one of ours has. */
export function newCommand(input: string | Readable): FfmpegCommand {
  return ffmpeg(input)
    .setFfmpegPath(ffmpegProgram())
    .inputOptions(['-hide_banner', '-nostats', ...(typeof input === 'string' ? ['-nostdin'] : [])])
}

/** Whether ffmpeg's last words say that the disk is full. */
export function saysDiskFull(text: string): boolean {
  return /No space left on device|ENOSPC|Disk quota exceeded/i.test(text)
}

/** The most telling lines of ffmpeg's complaints, in one line. */
export function lastWords(stderr: string): string {
  const lines = stderr
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !/^(Press \[q\]|Stream mapping|Conversion failed)/.test(line))
  return lines.slice(-3).join(' ') || 'it gave no reason'
}

// Promise.withResolvers needs Node 22.
function withResolvers<T>() {
  let resolve!: (value: T) => void
  let reject!: (reason: unknown) => void
  const promise = new Promise<T>((yes, no) => {
    resolve = yes
    reject = no
  })
  return { promise, resolve, reject }
}
