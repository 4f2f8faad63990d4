import { readBucketPlan } from '@kinora/config-schema'
import { probe, readFrames } from '@kinora/media'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { expect, it } from 'vitest'
import { writeBucketPlan } from './write-plan.ts'

const footage = join(import.meta.dirname, '../../../tiny-wan/footage')

it('names frames of real footage that lie where the true speed wants them', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'bucketer-'))
  try {
    const out = join(folder, 'bucket-plan.json')
    await writeBucketPlan({ source: footage, out, numFrames: 33, repeats: 2 }, { probe })
    const plan = readBucketPlan(await readFile(out, 'utf8'), { fileName: out })
    const items = plan.buckets.flatMap((bucket) => bucket.items)
    expect(items).toHaveLength(8)
    // The second window of each take, which does not start with it.
    for (const { clip, frameIndices, resize } of items.filter((_, index) => index % 2 === 1)) {
      const file = resolve(dirname(out), clip)
      const facts = await probe(file)
      const times: number[] = []
      for await (const frame of readFrames(file, { ...resize, probe: facts }))
        times.push(frame.time)
      expect(times).toHaveLength(facts.numFrames)
      const start = times[frameIndices[0]!]!
      expect(start).toBeGreaterThan(0)
      frameIndices.forEach((index, k) => {
        expect(Math.abs(times[index]! - start - k / 16)).toBeLessThanOrEqual(0.5 / facts.fps + 1e-6)
      })
    }
  } finally {
    await rm(folder, { recursive: true })
  }
})
