import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { formatBucketPlan, parseTrainJob, recipe, type TrainJob } from '@kinora/config-schema'
import { readImage, writeImage, writeVideo, writeWebp, type RgbImage } from '@kinora/media'
import { compareMotion, motionProfile } from '@kinora/run-log'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { writeCheckpointSheets } from './checkpoint-sheet.ts'
import { describePreviews } from './describe-previews.ts'
import { listPreviews, meanChange, previewName, readPreview } from './preview-files.ts'

let run: string
let samples: string
beforeEach(async () => {
  run = await mkdtemp(join(tmpdir(), 'kinora-previews-'))
  samples = join(run, 'samples')
  await mkdir(samples)
})
afterEach(() => rm(run, { recursive: true, force: true }))

/** A texture that a camera pans over, in picture widths a second at 16 frames a second. */
function panning(widthsPerSecond: number, numFrames = 17, size = 64): RgbImage[] {
  return Array.from({ length: numFrames }, (_, frame) => {
    const data = new Uint8Array(size * size * 3)
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        const u = (x + 0.5) / size + (widthsPerSecond * frame) / 16
        const v = (y + 0.5) / size
        const value =
          128 +
          45 * Math.sin(17 * u + 3 * Math.sin(11 * v)) +
          45 * Math.sin(23 * v + 2 * Math.sin(13 * u))
        data.fill(Math.round(value), 3 * (y * size + x), 3 * (y * size + x) + 3)
      }
    }
    return { width: size, height: size, data }
  })
}

const gray = (value: number, size = 32): RgbImage => ({
  width: size,
  height: size,
  data: new Uint8Array(size * size * 3).fill(value),
})

describe('preview files', () => {
  it.each(['mp4', 'webp'])('are read back frame by frame from %s', async (format) => {
    const frames = [40, 90, 140, 190].map((value) => gray(value))
    const file = join(samples, previewName(250, 1, format))
    if (format === 'mp4') await writeVideo(file, frames, { fps: 16 })
    else await writeWebp(file, frames, { fps: 16, quality: 80 })
    const read = await readPreview(file)
    expect(read.map(({ width, height }) => [width, height])).toEqual(frames.map(() => [32, 32]))
    for (const [index, frame] of read.entries()) {
      expect(Math.abs(frame.data[300]! - frames[index]!.data[0]!)).toBeLessThanOrEqual(3)
    }
  })

  it('are listed by step and prompt, and nothing else is', async () => {
    for (const name of ['000000250_1.png', '000000000_0.png', '000000250_0.png']) {
      await writeImage(join(samples, name), gray(1))
    }
    await writeFile(join(samples, 'sheet_0.png'), '')
    await writeFile(join(samples, '.000000500_0.png'), '')
    expect((await listPreviews(samples)).map(({ step, index }) => [step, index])).toEqual([
      [0, 0],
      [250, 0],
      [250, 1],
    ])
    expect(await listPreviews(join(run, 'none'))).toEqual([])
  })

  it('differ by the mean of their absolute differences', () => {
    expect(meanChange([gray(10), gray(20)], [gray(10), gray(26)])).toBe(3)
    expect(meanChange([gray(10)], [gray(10, 16)])).toBeUndefined()
  })
})

describe('writeCheckpointSheets', () => {
  it('lays the previews of a prompt below one another, step by step', async () => {
    for (const [step, value] of [
      [0, 250],
      [10, 200],
      [20, 100],
    ] as const) {
      await writeImage(join(samples, previewName(step, 0, 'png')), gray(value))
      await writeImage(join(samples, previewName(step, 3, 'png')), gray(value - 50))
    }
    const files = await writeCheckpointSheets(samples)
    expect(files).toEqual([join(samples, 'sheet_0.png'), join(samples, 'sheet_3.png')])
    const { data, width, height } = await readImage(files[0]!)
    // Five times as large; the column in the middle of the frames goes through all rows.
    const column = width - 16 - 4 - 80
    const seen: number[] = []
    for (let y = 0; y < height; y++) {
      const value = data[3 * (y * width + column)]!
      if (value !== seen.at(-1)) seen.push(value)
    }
    expect(seen.filter((value) => [250, 200, 100].includes(value))).toEqual([250, 200, 100])
  })

  it('shrinks large frames, keeps the first and the newest of many, and skips other sizes', async () => {
    for (let step = 0; step < 30; step++) {
      await writeImage(join(samples, previewName(step, 0, 'png')), gray(100 + step, 320))
    }
    await writeImage(join(samples, previewName(30, 0, 'png')), {
      width: 320,
      height: 160,
      data: new Uint8Array(320 * 160 * 3),
    })
    const { height } = await readImage((await writeCheckpointSheets(samples))[0]!)
    // 23 rows of 160 pixels: one of the 24 has another shape.
    expect(height).toBeGreaterThan(23 * 164)
    expect(height).toBeLessThan(24 * 164)
  })
})

describe('describePreviews', () => {
  async function describeRun(pan: number, speedUp: number) {
    const clips = join(run, 'clips')
    await mkdir(clips)
    for (const [index, trained] of [0.28, 0.3, 0.32].entries()) {
      await writeVideo(join(clips, `${index}.mp4`), panning(trained), { fps: 16, crf: 12 })
    }
    const plan = join(run, 'bucket-plan.json')
    await writeFile(
      plan,
      formatBucketPlan({
        version: 1,
        tool: 'test',
        fps: 16,
        options: {},
        buckets: [
          {
            width: 64,
            height: 64,
            numFrames: 17,
            resolution: 64,
            batchSize: 1,
            items: [0, 1, 2].map((index) => ({
              clip: `clips/${index}.mp4`,
              dataset: 0,
              frameIndices: Array.from({ length: 17 }, (_, i) => i),
              speedUp,
              resize: { width: 64, height: 64 },
              crop: { x: 0, y: 0, width: 64, height: 64 },
              flip: false,
              weight: 1,
              regularisation: false,
            })),
          },
        ],
        skipped: [],
      }),
    )
    const job: TrainJob = parseTrainJob(recipe('motion', 24, { clips }), {
      fileName: 'job.yaml',
    })
    const write = (step: number, frames: readonly RgbImage[]): Promise<void> =>
      writeVideo(join(samples, previewName(step, 0, 'mp4')), frames, { fps: 16, crf: 12 })
    await write(0, panning(0))
    await write(100, panning(pan))
    const items = [{ fps: 16, network_multiplier: 1 }]
    const described = async (step: number) =>
      describePreviews({ job, plan, samples, step, items }, {})
    return { before: await described(0), after: await described(100) }
  }

  it('tells how fast previews move beside the samples, and how far they are from the first', async () => {
    const { before, after } = await describeRun(0.2, 1)
    expect(before.files[0]).not.toHaveProperty('change')
    expect(before.sheets).toEqual(['samples/sheet_0.png'])
    expect(after.files[0]!.change).toBeGreaterThan(10)
    expect(after.files[0]!.motion!.camera).toBe('pan-right')
    const { sentence, ratio } = compareMotion(
      after.trained!,
      motionProfile([after.files[0]!.motion!])!,
    )
    expect(sentence).toMatch(
      /^Trained on pans to the right of 0\.30 widths\/s; previews pan 0\.20 widths\/s \(6[678] %\)\.$/,
    )
    expect(ratio).toBeCloseTo(2 / 3, 1)
  })

  it('counts the speed at which samples play', async () => {
    const { after } = await describeRun(0.6, 2)
    expect(after.trained!.movements.pan.speed).toBeCloseTo(0.6, 1)
    const { ratio } = compareMotion(after.trained!, motionProfile([after.files[0]!.motion!])!)
    expect(ratio).toBeCloseTo(1, 1)
  })
})
