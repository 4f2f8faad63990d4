import { formatBucketPlan, type BucketPlan } from '@kinora/config-schema'
import { runBin } from '@kinora/stage/bin'
import { readdir } from 'node:fs/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { makeDataset, type TestDataset } from '../../../test/make-dataset.ts'
import { acceptDrafts } from '../accept-drafts.ts'
import { captionClips } from '../caption-clips.ts'
import { captionerCommands } from '../captioner-commands.ts'
import type { LintCaptionsOptions } from '../options.ts'
import { lintCaptions } from './lint-captions.ts'

let dataset: TestDataset
beforeEach(async () => {
  dataset = await makeDataset({
    'clips/a.mp4': { bytes: 'a', motion: { camera: 'pan-left', panPerSecond: -0.2 } },
    'clips/b.mp4': { bytes: 'b', motion: {} },
  })
  await dataset.write('clips/a.txt', 'sks, the camera pans left past a wall\n')
  await dataset.write('clips/b.txt', 'sks, a dog sleeps\n')
})
afterEach(() => dataset[Symbol.asyncDispose]())

async function lint(options: Partial<LintCaptionsOptions> = {}) {
  const result = await lintCaptions({ source: dataset.folder, trigger: 'sks', ...options })
  return { ...result, found: result.findings.map(({ file, rule }) => `${file} ${rule}`) }
}

describe('lintCaptions', () => {
  it('finds nothing in captions that are right', async () => {
    expect(await lint()).toMatchObject({
      numClips: 2,
      findings: [],
      counts: { error: 0, warning: 0, info: 0 },
    })
  })

  it('finds nothing in what captioner writes itself', async () => {
    await using own = await makeDataset({
      'a.mp4': { bytes: 'a', motion: { camera: 'pan-left', panPerSecond: -0.2 } },
      'b.mp4': { bytes: 'b', motion: { camera: 'orbit', parallax: 0.4 } },
      'c.mp4': { bytes: 'c', motion: { camera: 'mixed', panPerSecond: 0.3, zoomPerSecond: -0.5 } },
    })
    await captionClips({ source: own.folder, trigger: 'sks' })
    expect((await lintCaptions({ source: own.folder, trigger: 'sks' })).findings).toEqual([])
  })

  it('compares captions with each other, and names captions without a clip', async () => {
    await dataset.write('clips/b.txt', 'sks, the camera pans left past a wall')
    await dataset.write('clips/gone.txt', 'sks, the clip was dropped')
    expect((await lint()).found).toEqual([
      'clips/a.txt near-identical',
      'clips/b.txt motion-mismatch',
      'clips/gone.txt orphan-caption',
    ])
    const { findings } = await lint({ goal: 'style' })
    expect(findings[0]).toMatchObject({ severity: 'warning', others: ['clips/b.txt'] })
  })

  it('reads from a plan which clips are flipped', async () => {
    const item: BucketPlan['buckets'][number]['items'][number] = {
      clip: '../clips/a.mp4',
      dataset: 0,
      frameIndices: [0],
      speedUp: 1,
      resize: { width: 16, height: 16 },
      crop: { x: 0, y: 0, width: 16, height: 16 },
      flip: true,
      weight: 1,
      regularisation: false,
    }
    await dataset.write('clips/b.txt', 'sks, a dog looks right')
    const plan: BucketPlan = {
      version: 1,
      tool: 'test',
      fps: 16,
      options: {},
      buckets: [
        {
          width: 16,
          height: 16,
          numFrames: 1,
          resolution: 16,
          batchSize: 1,
          items: [item, { ...item, clip: dataset.path('clips/b.mp4'), flip: false }],
        },
      ],
      skipped: [],
    }
    await dataset.write('clips/plan.json', formatBucketPlan({ ...plan, buckets: [] }))
    expect((await lint({ plan: dataset.path('clips/plan.json') })).found).toEqual([])
    const file = dataset.path('clips/plan.json')
    await dataset.write('clips/plan.json', formatBucketPlan(plan))
    expect((await lint({ plan: file })).found).toEqual(['clips/a.txt left-right-with-flip'])
    expect((await lint({ flipX: true })).found).toEqual([
      'clips/a.txt left-right-with-flip',
      'clips/b.txt left-right-with-flip',
    ])
    await dataset.write('clips/plan.json', '{}')
    await expect(lint({ plan: file })).rejects.toMatchObject({ code: 'CONFIG_BAD_PLAN' })
  })

  it('mends what is safe to mend, and says what is left', async () => {
    await dataset.write('clips/a.txt', ' he asks,  the camera pans left ')
    await dataset.write('clips/b.txt', '')
    const { counts, fixed, findings } = await lint({ fix: true })
    expect(fixed).toEqual(['clips/a.txt'])
    expect(counts).toEqual({ error: 1, warning: 0, info: 0 })
    expect(findings.filter(({ fixable }) => fixable === 'done')).toHaveLength(2)
    expect(await dataset.read('clips/a.txt')).toBe('sks, he asks, the camera pans left\n')
    expect(await dataset.read('clips/b.txt')).toBe('')
    expect((await lint()).found).toEqual(['clips/b.txt empty'])
  })

  it('writes nothing in a dry run of a fix', async () => {
    await dataset.write('clips/a.txt', 'a dog')
    expect((await lint({ fix: true, dryRun: true })).fixed).toEqual(['clips/a.txt'])
    expect(await dataset.read('clips/a.txt')).toBe('a dog')
  })

  it('leaves a mended caption to whom it belonged', async () => {
    await dataset.write('clips/a.txt', 'mine')
    await lint({ fix: true })
    const { clips } = await captionClips({ source: dataset.folder, trigger: 'new' })
    expect(clips[0]).toMatchObject({ status: 'kept' })
    expect(await dataset.read('clips/a.txt')).toBe('sks, mine\n')
  })
})

describe('acceptDrafts', () => {
  it('turns drafts into captions that are a person’s from then on', async () => {
    await dataset.write('clips/a.txt', '')
    await captionClips({ source: dataset.folder, motionName: 'swing' })
    await captionClips({ source: dataset.folder, motionName: 'other' })
    await captionClips({ source: dataset.folder, motionName: 'swing', review: true })
    const { accepted, left } = await acceptDrafts({ source: dataset.folder })
    expect(accepted).toEqual([{ clip: 'clips/a.mp4', file: 'clips/a.txt', text: 'swing' }])
    expect(left).toEqual([{ clip: 'clips/b.mp4', reason: 'human-caption' }])
    expect(await dataset.read('clips/a.txt')).toBe('swing\n')
    expect(await dataset.read('clips/b.txt')).toBe('sks, a dog sleeps\n')
    expect((await readdir(dataset.path('clips'))).filter((name) => name.includes('draft'))).toEqual(
      ['b.draft.txt'],
    )
    // It was ours once, word for word; what was accepted stays.
    const { clips } = await captionClips({ source: dataset.folder, motionName: 'third' })
    expect(clips[0]).toMatchObject({ status: 'kept' })
  })

  it('replaces a person’s caption only when told to, and never by a blank one', async () => {
    await dataset.write('clips/a.draft.txt', ' better \n')
    await dataset.write('clips/b.draft.txt', ' ')
    const dry = await acceptDrafts({ source: dataset.folder, replace: true, dryRun: true })
    expect(dry.accepted).toHaveLength(1)
    expect(await dataset.read('clips/a.txt')).toMatch(/^sks/)
    const { left } = await acceptDrafts({ source: dataset.folder, replace: true })
    expect(left).toEqual([{ clip: 'clips/b.mp4', reason: 'empty' }])
    expect(await dataset.read('clips/a.txt')).toBe('better\n')
    expect(await dataset.read('clips/b.txt')).toMatch(/^sks/)
  })
})

describe('the bin', () => {
  async function bin(...args: string[]) {
    let stdout = ''
    let stderr = ''
    let errors = 0
    const code = await runBin(
      captionerCommands(({ counts }) => (errors = counts.error)),
      {
        args,
        stdout: { write: (text) => (stdout += text) },
        stderr: { write: (text) => (stderr += text) },
        signals: false,
      },
    )
    return { code, errors, stdout, stderr }
  }

  it('prints findings file by file, and the counts last', async () => {
    await dataset.write('clips/a.txt', 'a vibrant dog')
    await dataset.write('clips/b.txt', '')
    const { code, errors, stdout } = await bin('lint', dataset.folder, '--trigger', 'sks')
    expect([code, errors]).toEqual([0, 1])
    expect(stdout).toBe(`clips/a.txt
  warning  The trigger sks is missing. Put it in front (--fix does). [missing-trigger]
  warning  The caption describes the look: vibrant. Take it out, or the motion is tied to that look. [look-in-motion-caption]
clips/b.txt
  error    The caption is blank. Write one, or run captioner caption. [empty]
2 clips: 1 error, 2 warnings, 0 to look at.
`)
  })

  it('prints findings as data with --json', async () => {
    await dataset.write('clips/b.txt', '')
    const { stdout } = await bin('lint', dataset.folder, '--json')
    const last = JSON.parse(stdout.trimEnd().split('\n').at(-1)!)
    expect(last.result.findings).toEqual([
      {
        rule: 'empty',
        severity: 'error',
        file: 'clips/b.txt',
        message: 'The caption is blank.',
        fix: 'Write one, or run captioner caption.',
        fixable: 'no',
      },
    ])
  })

  it('captions, drafts and accepts', async () => {
    await using fresh = await makeDataset({ 'a.mp4': { bytes: 'a' } })
    const { stdout } = await bin('caption', fresh.folder, '--trigger', 'sks', '--review')
    expect(stdout).toBe('1 clip: 1 written.\n')
    expect((await bin('accept', fresh.folder)).stdout).toBe('1 draft accepted, 0 left.\n')
    expect(await fresh.read('a.txt')).toBe('sks\n')
  })

  it('exits with 2 for a flag that does not exist', async () => {
    const { code, stderr } = await bin('caption', dataset.folder, '--vision.modle', 'x')
    expect(code).toBe(2)
    expect(stderr).toMatch(/Did you mean --vision\.model\?/)
  })
})
