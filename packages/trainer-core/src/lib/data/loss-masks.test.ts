import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { TrainDataset } from '@kinora/config-schema'
import { writeImage, writeVideo } from '@kinora/media'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { findMask, maskWeights, readMaskCells } from './loss-masks.ts'

// Samples of 32 × 16 pixels and 5 frames: cells [2, 2, 4]. Masks are white on the left half of each row of cells that says so.

const [width, height, numFrames] = [32, 16, 5]
const bucket = { width, height, numFrames, resolution: 32, batchSize: 1, items: [] }
const item = {
  clip: 'a.mp4',
  dataset: 0,
  frameIndices: [0, 2, 4, 6, 8],
  speedUp: 1,
  resize: { width, height },
  crop: { x: 0, y: 0, width, height },
  flip: false,
  weight: 1,
  regularisation: false,
}
let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-masks-'))
})
afterAll(() => rm(folder, { recursive: true }))

/** RGB pixels of a picture that is white where `isWhite`. */
function picture(isWhite: (x: number, y: number) => boolean, scale = 1): Uint8Array {
  return Uint8Array.from({ length: width * height * 3 * scale * scale }, (_, i) => {
    const pixel = Math.floor(i / 3)
    const [x, y] = [pixel % (width * scale), Math.floor(pixel / (width * scale))]
    return isWhite(x / scale, y / scale) ? 255 : 0
  })
}
const rows = (values: Float32Array): number[][] =>
  Array.from({ length: values.length / 4 }, (_, row) =>
    [...values.subarray(4 * row, 4 * row + 4)].map((value) => Math.round(20 * value) / 20),
  )

describe('cells of a mask', () => {
  const half = join('half.png')
  const leftOnTop = (x: number, y: number): boolean => x < 12 && y < 8
  beforeAll(() =>
    writeImage(join(folder, half), {
      width: 2 * width,
      height: 2 * height,
      data: picture(leftOnTop, 2),
    }),
  )
  const read = (changes: object, invert = false) =>
    readMaskCells(
      { item: { ...item, ...changes }, bucket },
      { file: join(folder, half), kind: 'image', invert },
    )

  it('of a picture are means over their pixels, the same for every frame', async () => {
    const { shape, values } = await read({})
    expect(shape).toEqual([2, 2, 4])
    const frame = [
      [1, 0.5, 0, 0],
      [0, 0, 0, 0],
    ]
    expect(rows(values)).toEqual([...frame, ...frame])
  })

  it('are turned over, flipped and cut as the clip is', async () => {
    const first = (values: Float32Array) => rows(values).slice(0, 2)
    expect(first((await read({}, true)).values)).toEqual([
      [0, 0.5, 1, 1],
      [1, 1, 1, 1],
    ])
    expect(first((await read({ flip: true, flipVertical: true })).values)).toEqual([
      [0, 0, 0, 0],
      [0, 0, 0.5, 1],
    ])
    // Half as large in the middle of the sample: black around it, turned over or not.
    const resize = { width: width / 2, height: height / 2 }
    const crop = { x: -8, y: 0, width, height }
    expect(first((await read({ resize, crop })).values)).toEqual([
      [0, 0.4, 0, 0],
      [0, 0, 0, 0],
    ])
    expect(first((await read({ resize, crop }, true)).values)).toEqual([
      [0, 0.6, 1, 0],
      [0, 0, 0, 0],
    ])
  })

  it('of a video are means over the frames of a cell, by the clip’s numbers', async () => {
    const file = join(folder, 'moving.mp4')
    // Frames 0, 2, 4, 6, 8 are read: the first is white, of the other four two are.
    const white = [0, 2, 4]
    const frames = Array.from({ length: 10 }, (_, index) => ({
      index,
      time: index / 8,
      width,
      height,
      data: picture(() => white.includes(index)),
    }))
    await writeVideo(file, frames, { fps: 8, crf: 1 })
    const source = { file, kind: 'video', invert: false } as const
    const { values } = await readMaskCells({ item, bucket }, source)
    for (const value of values.subarray(0, 8)) expect(value).toBeCloseTo(1, 1)
    for (const value of values.subarray(8)) expect(value).toBeCloseTo(0.5, 1)
    const late = { ...item, frameIndices: [0, 2, 4, 6, 30] }
    await expect(readMaskCells({ item: late, bucket }, source)).rejects.toMatchObject({
      code: 'TRAINER_CLIP_TOO_SHORT',
    })
  })

  it('are taken from an alpha channel, and refused where there is none', async () => {
    const raw = join(folder, 'raw')
    const numPixels = width * height
    const frame = Uint8Array.from({ length: numPixels * 4 }, (_, i) =>
      i % 4 < 3 ? 90 : (i >> 2) % width < 16 ? 255 : 51,
    )
    await writeFile(raw, Buffer.concat(Array<Uint8Array>(10).fill(frame)))
    const file = join(folder, 'clear.mov')
    const input = ['-f', 'rawvideo', '-pix_fmt', 'rgba', '-s', `${width}x${height}`, '-r', '8']
    await promisify(execFile)('ffmpeg', ['-v', 'error', ...input, '-i', raw, '-c:v', 'png', file])
    const source = { file, kind: 'alpha', invert: false } as const
    const { values } = await readMaskCells({ item, bucket }, source)
    expect(rows(values)).toEqual(Array(4).fill([1, 1, 0.2, 0.2]))
    const opaque = { ...source, file: join(folder, 'moving.mp4') }
    await expect(readMaskCells({ item, bucket }, opaque)).rejects.toMatchObject({
      code: 'MEDIA_NO_ALPHA',
    })
  })
})

describe('findMask', () => {
  const set = (changes: Partial<TrainDataset>) =>
    ({ mask_path: null, alpha_mask: false, invert_mask: false, ...changes }) as TrainDataset

  it('takes the file with the clip’s name, a video before a picture, else the alpha channel', async () => {
    const find = (clip: string, changes: Partial<TrainDataset>) => findMask(clip, set(changes))
    expect(await find('/clips/half.mp4', { mask_path: folder, invert_mask: true })).toEqual({
      file: join(folder, 'half.png'),
      kind: 'image',
      invert: true,
    })
    await writeFile(join(folder, 'half.mp4'), '')
    expect(await find('/clips/half.mov', { mask_path: folder })).toMatchObject({ kind: 'video' })
    expect(await find('/clips/other.mp4', { mask_path: folder })).toBeUndefined()
    expect(await find('/clips/other.mp4', { mask_path: folder, alpha_mask: true })).toEqual({
      file: '/clips/other.mp4',
      kind: 'alpha',
      invert: false,
    })
    expect(await find('/clips/half.mp4', {})).toBeUndefined()
  })
})

describe('maskWeights', () => {
  it('have a mean of 1, from the least for black', () => {
    expect([...maskWeights(Float32Array.of(0, 1, 0.5, 0.5), 0)]).toEqual([0, 2, 1, 1])
    const weights = maskWeights(Float32Array.of(0, 1), 0.1)
    expect(weights[0]! / weights[1]!).toBeCloseTo(0.1, 6)
    expect(weights[0]! + weights[1]!).toBeCloseTo(2, 6)
    expect([...maskWeights(Float32Array.of(0, 0), 0)]).toEqual([0, 0])
    expect([...maskWeights(Float32Array.of(0, 0), 0.5)]).toEqual([1, 1])
  })
})
