import { readManifest } from '@kinora/config-schema'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { formatReport } from '../src/lib/bucket-report.ts'
import { planBuckets } from '../src/lib/plan-buckets.ts'

const fileName = join(import.meta.dirname, 'fixtures/camera-motions.jsonl')
const { clips } = readManifest(await readFile(fileName, 'utf8'), { fileName })

it('takes the clips of a real manifest as they are', () => {
  const { report } = planBuckets([{ clips }], { numFrames: [81, 49, 17] })
  expect(formatReport(report)).toBe(
    `
bucket              clips  samples  batch  steps  used s  unused s      speed
──────────────────  ─────  ───────  ─────  ─────  ──────  ────────  ─────────
672x384 x 81 @ 512      2        2      1      2    10.1      11.7  real time
624x416 x 81 @ 512      2        2      1      2    10.1       3.6  real time
528x352 x 49 @ 512      1        1      1      1     3.1       1.1  real time
480x256 x 17 @ 512      2        2      1      2     2.1       3.9  real time
384x672 x 17 @ 512      1        1      1      1     1.1       1.6  real time
──────────────────  ─────  ───────  ─────  ─────  ──────  ────────  ─────────
total                   8        8             8    26.5      21.8`.trimStart(),
  )
})

it('uses all but the last frames of each clip in windows one after another', () => {
  const { report } = planBuckets([{ clips }], { numFrames: 17, frameMode: 'chunk' })
  const { secondsUsed, secondsUnused } = report.total
  expect(secondsUsed + secondsUnused).toBeCloseTo(
    clips.reduce((sum, { numFrames, fps }) => sum + numFrames / fps, 0),
    2,
  )
  expect(secondsUnused).toBeLessThan((clips.length * 17) / 16)
})

it('squeezes whole clips as AI Toolkit does, and says how much too fast they play', () => {
  const { plan, report } = planBuckets([{ clips }], { rule: 'ai-toolkit', numFrames: 41 })
  for (const { clip, frameIndices } of plan.buckets.flatMap(({ items }) => items)) {
    const { numFrames } = clips.find(({ file }) => file === clip)!
    expect([frameIndices[0], frameIndices.at(-1)]).toEqual([0, numFrames - 1])
  }
  expect(report.total.secondsUnused).toBe(0)
  expect(report.warnings.map(({ code }) => code)).toContain('BUCKETER_SQUEEZED')
})
