import { createHash } from 'node:crypto'
import { access, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readBucketPlan, readManifest } from '@kinora/config-schema'
import { readImage, probe } from '@kinora/media'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { DemoReport } from '../src/demo/demo.ts'
import { runKinora, type FinishedRun } from './run-kinora.ts'

// The whole way through the program, small: a few steps at 32 × 32, whose previews are no better for it. What the demo's own
// settings teach is measured by `npm run demo` itself.

const settings = [
  '--steps',
  '4',
  '--turn',
  '2',
  '--rank',
  '4',
  '--size',
  '32',
  '--sample-steps',
  '2',
]

let folder: string
let first: FinishedRun
let second: FinishedRun
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-demo-'))
  const args = ['demo', '--out', join(folder, 'demo'), '--json', ...settings]
  first = await runKinora(args)
  second = await runKinora(args)
}, 400_000)
afterAll(() => rm(folder, { recursive: true, force: true }))

const file = (name: string): string => join(folder, 'demo', name)
const reportOf = (run: FinishedRun): DemoReport => {
  expect(run.exitCode, run.stderr).toBe(0)
  return (run.events.at(-1) as { result: DemoReport }).result
}

describe('kinora demo', () => {
  it('goes from footage to two LoRAs and says what came of it', async () => {
    const report = reportOf(first)
    expect(JSON.parse(await readFile(file('report.json'), 'utf8'))).toEqual(reportOf(second))
    expect(report.adapter.adapter).not.toBe('')
    expect(Object.keys(report.seconds)).toEqual([
      'prep',
      'caption',
      'plan',
      'cache',
      'previews before',
      'train',
      'export',
      'previews after',
      'contact sheet',
    ])
    expect(report.losses.map(({ step, expert }) => `${step} ${expert}`)).toEqual([
      '1 high',
      '2 high',
      '3 low',
      '4 low',
    ])
    for (const { loss } of report.losses) expect(loss).toBeGreaterThan(0)
    expect(report.psnr.clips).toHaveLength(6)
    for (const { before, after } of report.psnr.clips) {
      expect(before).toBeGreaterThan(5)
      expect(after).toBeGreaterThan(5)
    }
    expect(report.psnr.after).not.toBe(report.psnr.before)
    const mean = report.psnr.clips.reduce((sum, { after }) => sum + after, 0) / 6
    expect(report.psnr.after).toBeCloseTo(mean, 1)
  })

  it('leaves every file that it names, with the hash that it names', async () => {
    const { files } = reportOf(first)
    expect(Object.keys(files)).toEqual(
      expect.arrayContaining([
        'demo_high_noise.safetensors',
        'demo_low_noise.safetensors',
        'contact-sheet.png',
        'dataset/manifest.jsonl',
        'job.yaml',
        ...['before', 'after'].flatMap((name) =>
          [1, 2, 3, 4, 5, 6].map((n) => `previews/${name}/${n}.mp4`),
        ),
      ]),
    )
    for (const [name, hash] of Object.entries(files)) {
      expect(
        createHash('sha256')
          .update(await readFile(file(name)))
          .digest('hex'),
        name,
      ).toBe(hash)
    }
  })

  it('finds the twelve shots of the footage, captions them, and plans them', async () => {
    const manifest = file('dataset/manifest.jsonl')
    const { clips } = readManifest(await readFile(manifest, 'utf8'), { fileName: manifest })
    expect(clips).toHaveLength(12)
    for (const clip of clips) {
      const caption = await readFile(file(`dataset/${clip.file}`).replace(/mp4$/, 'txt'), 'utf8')
      expect(caption.trim()).toContain('the camera rises')
      expect(clip.numFrames).toBeGreaterThanOrEqual(16)
      expect(clip.numFrames).toBeLessThanOrEqual(19)
    }
    const plan = file('training/demo/bucket-plan.json')
    const { buckets } = readBucketPlan(await readFile(plan, 'utf8'), { fileName: plan })
    expect(buckets.reduce((sum, { items }) => sum + items.length, 0)).toBe(12)
  })

  it('writes previews of the right size and a sheet of all of them', async () => {
    const { width, height, numFrames, fps } = await probe(file('previews/after/6.mp4'))
    expect({ width, height, numFrames, fps }).toEqual({
      width: 32,
      height: 32,
      numFrames: 17,
      fps: 16,
    })
    const sheet = await readImage(file('contact-sheet.png'))
    expect(sheet.width).toBeGreaterThan(600)
  })

  it('makes nothing again that is there already', async () => {
    const report = reportOf(second)
    expect(report.reused).toEqual(['cache', 'previews before', 'train', 'previews after'])
    expect(report.psnr).toEqual(reportOf(first).psnr)
    expect(report.files).toEqual(reportOf(first).files)
    expect(report.seconds['cache']).toBe(reportOf(first).seconds['cache'])
  })

  it('writes LoRAs that fit the base and that programs load', async () => {
    for (const expert of ['high', 'low']) {
      const lora = file(`demo_${expert}_noise.safetensors`)
      const base = join(process.cwd(), 'packages/tiny-wan/checkpoint')
      await access(base)
      const { exitCode, stderr, events } = await runKinora([
        'export',
        lora,
        '--verify',
        '--base',
        base,
        '--expert',
        expert,
        '--json',
      ])
      expect(exitCode, stderr).toBe(0)
      expect(JSON.stringify(events.at(-1))).toContain('"layout":"comfyui"')
    }
  })
})
