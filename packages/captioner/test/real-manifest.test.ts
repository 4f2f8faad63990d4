import { captionFile, readManifest } from '@kinora/config-schema'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { captionClips } from '../src/lib/caption-clips.ts'
import { lintCaptions } from '../src/lib/lint/lint-captions.ts'

// What clip-prep measured on real footage, and what comes of it here.

const fileName = join(import.meta.dirname, 'fixtures/camera-motions.jsonl')
let source: string
let files: string[]

beforeEach(async () => {
  source = await mkdtemp(join(tmpdir(), 'captioner-'))
  const text = await readFile(fileName, 'utf8')
  await writeFile(join(source, 'manifest.jsonl'), text)
  await mkdir(join(source, 'clips'))
  files = readManifest(text, { fileName }).clips.map(({ file }) => file)
  for (const file of files) await writeFile(join(source, file), '')
})
afterEach(() => rm(source, { recursive: true }))

it('names the camera motion of every clip', async () => {
  const { clips } = await captionClips({ source, trigger: 'sks' })
  expect(Object.fromEntries(clips.map(({ clip, text }) => [clip, text]))).toEqual({
    'clips/dog-static-camera_001.mp4': 'sks, the camera is still while the subject moves',
    'clips/drone-forward_001.mp4': 'sks, the camera moves in',
    'clips/orbit-figure_001.mp4': 'sks, the camera orbits around the subject',
    'clips/pan-right-known_001.mp4': 'sks, the camera pans right',
    'clips/push-in-toy_001.mp4': 'sks, the camera moves in',
    'clips/roof-pan-portrait-hevc10_001.mp4': 'sks, the camera pans left',
    'clips/still-lead-in-and-out_001.mp4': 'sks, the camera moves in',
    'clips/zoom-in-known_001.mp4': 'sks, the camera moves in',
  })
})

it('lints these captions, and the names of the clips, without a doubt about any motion', async () => {
  await captionClips({ source, trigger: 'sks' })
  const { findings } = await lintCaptions({ source, trigger: 'sks' })
  expect(findings.map(({ rule }) => rule)).toEqual(['near-identical'])
})

it.each([
  ['the camera orbits around it', ['orbit-figure']],
  ['the camera pans right', ['orbit-figure', 'pan-right']],
  ['a static shot of it', ['dog-static']],
  ['the camera pushes in', ['drone', 'push-in', 'still-lead', 'zoom-in']],
  ['the camera pulls back', []],
])('doubts "%s" in every clip but those that do it', async (caption, right) => {
  for (const file of files) await writeFile(join(source, captionFile(file)), caption)
  const { findings } = await lintCaptions({ source })
  const doubted = findings
    .filter(({ rule, severity }) => rule === 'motion-mismatch' && severity === 'warning')
    .map(({ file }) => file)
  const wrong = files.filter((file) => !right.some((name) => file.startsWith(`clips/${name}`)))
  expect(doubted).toEqual(wrong.map((file) => captionFile(file)).toSorted())
})
