import { describe, expect, it } from 'vitest'
import type { BucketPlan } from './bucket-plan.ts'
import {
  formatBucketPlan,
  formatManifest,
  formatManifestRecord,
  readBucketPlan,
  readManifest,
} from './dataset-files.ts'
import type { ClipRecord, DatasetManifest } from './dataset-manifest.ts'
import { ConfigError, type ConfigIssue } from './errors.ts'
import { loraMetadataSchema } from './lora-metadata.ts'

const sha = 'a'.repeat(64)

function clip(id: string): ClipRecord {
  return {
    type: 'clip',
    id,
    file: `clips/${id}.mp4`,
    sha256: sha,
    width: 640,
    height: 480,
    fps: 16,
    numFrames: 48,
    duration: 3,
    source: {
      file: 'take.mp4',
      sha256: sha,
      start: 1,
      end: 4,
      width: 640,
      height: 480,
      fps: 24,
      shot: { index: 0, start: 0, end: 5 },
    },
    trim: { head: 1, tail: 0, reason: 'Still until 1.0 s.', threshold: 0.01 },
    speed: 1,
    crop: null,
    motion: null,
    scores: { sharpness: 0.5 },
    flags: [],
  }
}

const manifest: DatasetManifest = {
  header: { type: 'manifest', version: 1, tool: 'clip-prep 0.1.0', source: 'footage', options: {} },
  clips: [clip('one'), clip('two')],
  dropped: [{ type: 'dropped', file: 'noise.wav', reason: 'no-video' }],
}

const plan: BucketPlan = {
  version: 1,
  tool: 'bucketer 0.1.0',
  fps: 16,
  options: {},
  buckets: [
    {
      width: 512,
      height: 384,
      numFrames: 5,
      resolution: 448,
      batchSize: 1,
      items: [
        {
          clip: 'clips/one.mp4',
          dataset: 0,
          frameIndices: [0, 1, 2, 3, 4],
          speedUp: 1,
          resize: { width: 512, height: 384 },
          crop: { x: 0, y: 0, width: 512, height: 384 },
          flip: false,
          weight: 1,
          regularisation: false,
        },
      ],
    },
  ],
  skipped: [],
}

function issuesOf(read: () => unknown): readonly ConfigIssue[] {
  try {
    read()
  } catch (error) {
    if (error instanceof ConfigError) return error.issues
    throw error
  }
  return []
}

describe('manifest.jsonl', () => {
  it('comes back as it was written', () => {
    const text = formatManifest(manifest)
    expect(text.split('\n')).toHaveLength(5)
    expect(readManifest(text, { fileName: 'manifest.jsonl' })).toEqual(manifest)
    expect(formatManifest(readManifest(text, { fileName: 'm' }))).toBe(text)
  })

  const [header, one] = formatManifest(manifest).split('\n') as [string, string]
  it.each<[string, string, [number, number][], RegExp]>([
    ['nothing', '', [[1, 1]], /no header/],
    ['no header', `${one}\n`, [[1, 1]], /no header/],
    ['a cut line', `${header}\n${one.slice(0, 40)}`, [[2, 41]], /Not JSON/],
    [
      'a key that is unknown',
      `${header}\n${one.replace('"fps":16', '"fps":16,"fsp":16')}`,
      [[2, 0]],
      /"fsp"/,
    ],
    [
      'a value that cannot be',
      `${header}\n${one.replace('"numFrames":48', '"numFrames":0')}`,
      [[2, 0]],
      /numFrames.*above 0/,
    ],
    [
      'a missing key',
      `${header}\n${one.replace(`"sha256":"${sha}",`, '')}`,
      [[2, 1]],
      /"sha256" is missing/,
    ],
    ['a clip named twice', `${header}\n${one}\n${one}\n`, [[3, 1]], /line 2/],
    ['a header in the middle', `${header}\n${one}\n${header}\n`, [[3, 1]], /after other lines/],
    [
      'two bad lines',
      `${header}\n{"type":"clip"\n[]\n`,
      [
        [2, 15],
        [3, 1],
      ],
      /JSON/,
    ],
  ])('with %s says where', (_, text, places, words) => {
    const issues = issuesOf(() => readManifest(text, { fileName: 'manifest.jsonl' }))
    expect(issues.map(({ line }) => line)).toEqual(places.map(([line]) => line))
    for (const [index, [, column]] of places.entries()) {
      if (column > 0) expect(issues[index]?.column).toBe(column)
      else expect(issues[index]?.column).toBeGreaterThan(1)
    }
    expect(`${issues[0]?.message} ${issues[0]?.fix}`).toMatch(words)
  })

  it('is written a line a record', () => {
    expect(formatManifestRecord(clip('x'))).toMatch(/^\{"type":"clip".*\}\n$/)
  })
})

describe('bucket-plan.json', () => {
  it('comes back as it was written', () => {
    expect(readBucketPlan(formatBucketPlan(plan), { fileName: 'p' })).toEqual(plan)
  })

  const text = formatBucketPlan(plan)
  it.each<[string, string, number, RegExp]>([
    ['a cut file', text.slice(0, -20), 0, /JSON/],
    ['a size off the grid', text.replace('"width": 512', '"width": 500'), 8, /width.*500/],
    [
      'too few frames',
      text.replace('"numFrames": 5', '"numFrames": 9'),
      17,
      /5 frames in a bucket of 9/,
    ],
    ['frames that are not 4n+1', text.replace('"numFrames": 5', '"numFrames": 6'), 10, /6 frames/],
    ['frames that go back', text.replace(/3,\s+4/, '3, 1'), 17, /backwards/],
    ['an unknown key', text.replace('"fps"', '"speed": 1, "fps"'), 4, /"speed"/],
  ])('with %s says where', (_, bad, line, words) => {
    const issues = issuesOf(() => readBucketPlan(bad, { fileName: 'p.json' }))
    expect(issues.length).toBeGreaterThan(0)
    if (line > 0) expect(issues[0]?.line).toBe(line)
    expect(issues.map((issue) => issue.message).join(' ')).toMatch(words)
  })
})

describe('LoRA metadata', () => {
  it('are read as AI Toolkit writes them', () => {
    expect(
      loraMetadataSchema.parse({
        format: 'pt',
        training_info: '{"step": 250, "epoch": 3}',
        ss_base_model_version: 'wan_2.2_14b',
        ss_tag_frequency: '{"1_0rbit": {"0rbit": 1}}',
        software: '{"name": "ai-toolkit", "repo": "https://example.org", "version": "0.12"}',
        sshs_model_hash: sha,
        sshs_legacy_hash: '01234567',
        anything: 'else',
      }),
    ).toMatchObject({ training_info: { step: 250, epoch: 3 }, anything: 'else' })
  })

  it.each([
    [{ training_info: 'step 5' }],
    [{ training_info: '{"step": -1}' }],
    [{ sshs_model_hash: 'xyz' }],
    [{ format: 'np' }],
    [{ other: 5 }],
  ])('%j is refused', (metadata) =>
    expect(loraMetadataSchema.safeParse(metadata).success).toBe(false),
  )
})
