import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { spawnSync } from 'node:child_process'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  cutVideo,
  nearestFrames,
  probe,
  readFrames,
  writeVideo,
  type MediaProbe,
  type VideoFrame,
} from '../index.ts'

// Frames that say which one they are: eight blocks, one a bit, black or white.

const size = { width: 128, height: 64 }

function* countedFrames(numFrames: number): Generator<VideoFrame> {
  for (let index = 0; index < numFrames; index++) {
    const data = new Uint8Array(size.width * size.height * 3)
    for (let y = 0; y < size.height; y++) {
      for (let x = 0; x < size.width; x++) {
        const bit = (index >> (x >> 4)) & 1
        data.fill(bit ? 235 : 20, 3 * (y * size.width + x), 3 * (y * size.width + x) + 3)
      }
    }
    yield { index, time: 0, ...size, data }
  }
}

/** Reads the number that a frame shows, wherever its right way up is. */
function numberOf({ data, width, height }: VideoFrame): number {
  let number = 0
  for (let bit = 0; bit < 8; bit++) {
    const at = 3 * ((height >> 1) * width + Math.floor(((bit + 0.5) * width) / 8))
    if (data[at]! > 128) number |= 1 << bit
  }
  return number
}

async function numbersIn(file: string, facts?: MediaProbe): Promise<number[]> {
  const numbers: number[] = []
  for await (const frame of readFrames(file, { probe: facts })) numbers.push(numberOf(frame))
  return numbers
}

function runFfmpeg(...args: string[]): void {
  const { status, stderr } = spawnSync(ffmpegProgram, ['-v', 'error', '-y', ...args], {
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(stderr)
}

const ffmpegProgram = process.env['FFMPEG_PATH'] || 'ffmpeg'

let folder: string
let counted: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-media-'))
  counted = join(folder, 'counted.mp4')
  await writeVideo(counted, countedFrames(150), { fps: 30, crf: 10 })
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('cutVideo', () => {
  it.each([
    { start: 0, end: 5, fps: 30, speed: 1 },
    { start: 1, end: 2.5, fps: 16, speed: 1 },
    { start: 3.1, end: 4.4, fps: 16, speed: 1 },
    { start: 0.5, end: 4.5, fps: 16, speed: 2 },
    { start: 2.2, end: 3, fps: 60, speed: 1 },
    { start: 1, end: 2, fps: 16, speed: 0.5 },
  ])(
    'gives the frame nearest to each moment of $start to $end at $fps fps, $speed times as fast',
    async (range) => {
      const target = join(folder, 'clip.mp4')
      const written = await cutVideo(counted, target, { ...range, crf: 10 })
      const times = Float64Array.from({ length: 150 }, (_, index) => index / 30)
      const first = times.findIndex((time) => time >= range.start - 1e-6)
      const inside = times.filter((time) => time >= range.start - 1e-6 && time < range.end - 1e-6)
      const count = Math.ceil(((range.end - range.start) / range.speed) * range.fps - 1e-6)
      const wanted = Array.from(
        nearestFrames(inside, { ...range, count }),
        (index) => first + index,
      )
      expect(written).toEqual({ ...size, numFrames: count })
      expect(await numbersIn(target)).toEqual(wanted)
      const facts = await probe(target)
      expect(facts.fps).toBeCloseTo(range.fps, 3)
      expect(facts.vfr).toBe(false)
    },
  )

  it('keeps real time where frames come at uneven times', async () => {
    const uneven = join(folder, 'uneven.mp4')
    // Between 1 and 3 s only every third frame is left.
    runFfmpeg(
      '-i',
      counted,
      '-vf',
      "select='not(between(n,30,89))+not(mod(n,3))'",
      '-fps_mode',
      'vfr',
      '-c:v',
      'libx264',
      '-crf',
      '10',
      uneven,
    )
    expect((await probe(uneven)).vfr).toBe(true)
    const target = join(folder, 'even.mp4')
    await cutVideo(uneven, target, { start: 0, end: 5, fps: 16, crf: 10 })
    const numbers = await numbersIn(target)
    expect(numbers).toHaveLength(80)
    for (const [index, number] of numbers.entries())
      expect(Math.abs(number - (30 * index) / 16)).toBeLessThanOrEqual(1.6)
  })

  it('leaves nothing behind when it is aborted', async () => {
    const long = join(folder, 'aborted.mp4')
    await expect(
      cutVideo(counted, long, { start: 0, end: 5, fps: 240 }, { signal: AbortSignal.timeout(60) }),
    ).rejects.toThrow()
    expect((await readdir(folder)).filter((name) => name.includes('aborted'))).toEqual([])
  })
})

describe('formats', () => {
  const encoders = spawnSync(ffmpegProgram, ['-hide_banner', '-encoders'], {
    encoding: 'utf8',
  }).stdout
  const can = (encoder: string) => new RegExp(`^ V\\S* ${encoder} `, 'm').test(encoders)
  const gop = ['-g', '15']

  it.for([
    ['mov', 'libx264', []],
    ['mkv', 'libx264', ['-bf', '2']],
    ['avi', 'mpeg4', ['-q:v', '2']],
    ['webm', 'libvpx', ['-b:v', '2M']],
    ['webm', 'libvpx-vp9', ['-crf', '15', '-b:v', '0', '-cpu-used', '8', '-deadline', 'realtime']],
    ['mp4', 'libx265', ['-pix_fmt', 'yuv420p10le', '-x265-params', 'log-level=0', '-crf', '10']],
    ['mp4', 'libsvtav1', ['-crf', '20', '-preset', '12']],
    ['ts', 'libx264', []],
    ['mov', 'prores_ks', []],
    ['mp4', 'libx264', ['-pix_fmt', 'yuv444p', '-vf', 'crop=127:63:0:0']],
  ] as const)('reads %s of %s frame by frame', async ([ending, encoder, options], { skip }) => {
    skip(!can(encoder), `This ffmpeg has no ${encoder}.`)
    const file = join(folder, `${encoder}.${ending}`)
    runFfmpeg('-i', counted, '-frames:v', '60', '-c:v', encoder, ...gop, ...options, file)
    const facts = await probe(file)
    expect(facts).toMatchObject({ numFrames: 60, truncated: null, hdr: null })
    expect(await numbersIn(file, facts)).toEqual(Array.from({ length: 60 }, (_, index) => index))
    const target = join(folder, 'cut.mp4')
    await cutVideo(file, target, { start: 0.5, end: 1.5, fps: 30, crf: 10, probe: facts })
    expect(await numbersIn(target)).toEqual(Array.from({ length: 30 }, (_, index) => 15 + index))
  })

  it.each([90, 180, 270] as const)('turns footage upright that says %d°', async (turn) => {
    const file = join(folder, `turned-${turn}.mp4`)
    const transpose = { 90: 'transpose=2', 180: 'hflip,vflip', 270: 'transpose=1' }[turn]
    const coded = join(folder, `coded-${turn}.mp4`)
    runFfmpeg('-i', counted, '-frames:v', '20', '-vf', transpose, '-c:v', 'libx264', coded)
    runFfmpeg('-i', coded, '-c', 'copy', '-metadata:s:v:0', `rotate=${360 - turn}`, file)
    const facts = await probe(file)
    expect(facts).toMatchObject(size)
    expect([turn, 360 - turn]).toContain(facts.rotation)
    expect(await numbersIn(file, facts)).toEqual(Array.from({ length: 20 }, (_, index) => index))
  })

  it('deinterlaces what says that it is interlaced', async () => {
    const file = join(folder, 'interlaced.mp4')
    runFfmpeg(
      '-f',
      'lavfi',
      '-i',
      'testsrc2=s=320x240:r=50:d=1',
      '-vf',
      'tinterlace=interleave_top,fieldorder=tff',
      '-c:v',
      'libx264',
      '-flags',
      '+ilme+ildct',
      file,
    )
    expect(await probe(file)).toMatchObject({ interlaced: true })
    // The comb of two fields is a change from row to row that the single fields have not.
    const comb = async (...filters: string[]): Promise<number> => {
      const plain = join(folder, 'plain.mp4')
      if (filters.length > 0)
        runFfmpeg(
          '-i',
          file,
          '-vf',
          ...filters,
          '-c:v',
          'libx264',
          '-crf',
          '10',
          '-flags',
          '-ilme-ildct',
          plain,
        )
      let sum = 0
      for await (const { data, width, height } of readFrames(filters.length > 0 ? plain : file, {
        format: 'gray',
      }))
        for (let y = 1; y < height - 1; y++)
          for (let x = 0; x < width; x++) {
            const at = y * width + x
            const a = data[at]! - data[at - width]!
            const b = data[at]! - data[at + width]!
            if (a * b > 0) sum += Math.min(Math.abs(a), Math.abs(b))
          }
      return sum
    }
    expect(await comb()).toBeLessThan(0.6 * (await comb('setfield=prog')))
  })

  it.for([
    ['smpte2084', 'pq'],
    ['arib-std-b67', 'hlg'],
  ] as const)('brings HDR of %s to SDR', async ([transfer, hdr], { skip }) => {
    skip(!can('libx265'), 'This ffmpeg has no libx265.')
    const file = join(folder, `${hdr}.mp4`)
    runFfmpeg(
      '-f',
      'lavfi',
      '-i',
      'testsrc2=s=320x180:r=25:d=0.4',
      '-pix_fmt',
      'yuv420p10le',
      '-c:v',
      'libx265',
      '-x265-params',
      `log-level=0:colorprim=bt2020:transfer=${transfer}:colormatrix=bt2020nc`,
      '-color_primaries',
      'bt2020',
      '-color_trc',
      transfer,
      '-colorspace',
      'bt2020nc',
      file,
    )
    expect(await probe(file)).toMatchObject({ hdr })
    const target = join(folder, `sdr-${hdr}.mp4`)
    await cutVideo(file, target, { start: 0, end: 0.4, fps: 25 })
    expect(await probe(target)).toMatchObject({ hdr: null, colorSpace: 'bt709', pixFmt: 'yuv420p' })
    expect((await stat(target)).size).toBeGreaterThan(1000)
  })

  it.each([
    ['MEDIA_AUDIO_ONLY', 'sound.m4a', ['-f', 'lavfi', '-i', 'sine=d=1']],
    ['MEDIA_IS_ANIMATION', 'moving.gif', ['-f', 'lavfi', '-i', 'testsrc2=s=64x64:r=5:d=1']],
    ['MEDIA_IS_IMAGE', 'still.png', ['-f', 'lavfi', '-i', 'testsrc2=s=64x64', '-frames:v', '1']],
  ])('refuses by name: %s', async (code, name, args) => {
    const file = join(folder, name)
    runFfmpeg(...args, file)
    await expect(probe(file)).rejects.toMatchObject({ code })
  })
})
