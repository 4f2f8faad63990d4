import { readdir, rm } from 'node:fs/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { makeDataset, type TestDataset } from '../../test/make-dataset.ts'
import { captionClips, captionClipsIter } from './caption-clips.ts'
import type { CaptionClipsOptions } from './options.ts'

let dataset: TestDataset
beforeEach(async () => {
  dataset = await makeDataset({
    'clips/a.mp4': { bytes: 'a', motion: { camera: 'pan-left', panPerSecond: -0.2 } },
    'clips/b.mp4': { bytes: 'b' },
  })
})
afterEach(() => dataset[Symbol.asyncDispose]())

function run(options: Partial<CaptionClipsOptions> = {}) {
  return captionClips({ source: dataset.folder, trigger: 'sks', ...options })
}
const statuses = async (options?: Partial<CaptionClipsOptions>) =>
  (await run(options)).clips.map(({ status }) => status)

describe('whose caption it is', () => {
  it('writes where there is none, and rewrites its own', async () => {
    expect(await statuses()).toEqual(['written', 'written'])
    expect(await dataset.read('clips/a.txt')).toBe('sks, the camera pans left\n')
    expect(await statuses()).toEqual(['unchanged', 'unchanged'])
    expect(await statuses({ motionName: 'swing' })).toEqual(['written', 'written'])
    expect(await dataset.read('clips/a.txt')).toBe('sks, swing\n')
  })

  it('keeps what a person wrote or edited, for good', async () => {
    await dataset.write('clips/a.txt', 'mine\n')
    expect(await statuses()).toEqual(['kept', 'written'])
    await dataset.write('clips/b.txt', `${await dataset.read('clips/b.txt')} and more`)
    for (const motionName of ['one', 'two']) {
      expect(await statuses({ motionName })).toEqual(['kept', 'kept'])
    }
    expect(await dataset.read('clips/a.txt')).toBe('mine\n')
  })

  it('fills a blank caption, and one that was deleted', async () => {
    await dataset.write('clips/a.txt', ' \n')
    expect(await statuses()).toEqual(['written', 'written'])
    await rm(dataset.path('clips/b.txt'))
    expect(await statuses()).toEqual(['unchanged', 'written'])
  })

  it('takes a caption for a person’s when the journal is lost or broken', async () => {
    await run()
    await dataset.write('.captioner.jsonl', '{"file": "clips/a.txt", "sha')
    expect(await statuses({ motionName: 'other' })).toEqual(['kept', 'kept'])
    await rm(dataset.path('clips/a.txt'))
    // What is added after half a line is a line of its own.
    expect(await statuses({ motionName: 'other' })).toEqual(['written', 'kept'])
    expect(await statuses({ motionName: 'third' })).toEqual(['written', 'kept'])
  })

  it('does not take a hash of one caption for another', async () => {
    await run({ motionName: 'same' })
    await dataset.write('clips/b.txt', 'sks, older\n')
    expect(await statuses({ motionName: 'older' })).toEqual(['written', 'kept'])
  })
})

describe('drafts', () => {
  it('stand beside the captions, which stay as they are', async () => {
    await dataset.write('clips/a.txt', 'mine')
    const { clips } = await run({ review: true })
    expect(clips.map(({ file, status }) => [file, status])).toEqual([
      ['clips/a.draft.txt', 'written'],
      ['clips/b.draft.txt', 'written'],
    ])
    expect(await dataset.read('clips/a.txt')).toBe('mine')
    expect(await readdir(dataset.path('clips'))).not.toContain('b.txt')
  })

  it('that someone edited are kept', async () => {
    await run({ review: true })
    await dataset.write('clips/a.draft.txt', 'better')
    expect(await statuses({ review: true, motionName: 'other' })).toEqual(['kept', 'written'])
    expect(await dataset.read('clips/a.draft.txt')).toBe('better')
  })
})

it('writes nothing in a dry run and says what it would', async () => {
  const before = await readdir(dataset.folder, { recursive: true })
  const { clips } = await run({ dryRun: true })
  expect(clips[0]).toEqual({
    clip: 'clips/a.mp4',
    file: 'clips/a.txt',
    status: 'planned',
    text: 'sks, the camera pans left',
  })
  expect(await readdir(dataset.folder, { recursive: true })).toEqual(before)
})

it('takes another extension, with or without its dot', async () => {
  await run({ extension: 'caption' })
  expect(await dataset.read('clips/a.caption')).toBe('sks, the camera pans left\n')
})

it('says for which clips there was nothing to say', async () => {
  const { clips, counts } = await captionClips({ source: dataset.folder })
  expect(counts).toMatchObject({ written: 1, failed: 1 })
  expect(clips[1]).toMatchObject({ clip: 'clips/b.mp4', reason: 'nothing-to-say' })
  const strict = captionClips({ source: dataset.folder, maxSkipped: 0 })
  await expect(strict).rejects.toMatchObject({ code: 'CAPTIONER_TOO_MANY_SKIPPED' })
})

it('refuses a dataset that another run is captioning, and leaves no lock behind', async () => {
  const first = captionClipsIter({ source: dataset.folder, trigger: 'sks' })
  await first.next()
  await expect(run()).rejects.toMatchObject({ code: 'STAGE_FOLDER_IN_USE' })
  await first.return(undefined as never)
  expect(await statuses()).toEqual(['written', 'written'])
  expect(await readdir(dataset.folder)).not.toContain('.kinora.lock')
})

it('reads the manifest, its folder, or a folder of clips', async () => {
  const from = async (source: string) => (await captionClips({ source, trigger: 's' })).clips
  expect(await from(dataset.path('manifest.jsonl'))).toHaveLength(2)
  expect(await from(dataset.folder)).toHaveLength(2)
  expect(await from(dataset.path('clips'))).toMatchObject([{ clip: 'a.mp4' }, { clip: 'b.mp4' }])
})

it('refuses two clips that would share a caption file', async () => {
  await dataset.write('clips/a.webm', '')
  const shared = captionClips({ source: dataset.path('clips') })
  await expect(shared).rejects.toMatchObject({
    code: 'CAPTIONER_SHARED_CAPTION',
    message: expect.stringContaining('a.mp4 and a.webm'),
  })
})

it.each([
  ['CAPTIONER_NO_CLIPS', 'empty'],
  ['STAGE_NO_SUCH_FILE', 'nowhere'],
])('fails with %s for a source that is %s', async (code, source) => {
  await using empty = await makeDataset({})
  const folder = source === 'empty' ? empty.folder : empty.path('nowhere')
  await expect(captionClips({ source: folder })).rejects.toMatchObject({ code })
})
