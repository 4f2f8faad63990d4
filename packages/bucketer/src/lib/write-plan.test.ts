import { bucketPlanSchema, readBucketPlan, type ClipRecord } from '@kinora/config-schema'
import { runBin } from '@kinora/stage/bin'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { bucketerCommands } from './bucketer-commands.ts'
import type { PlanBucketsOptions } from './options.ts'
import type { ReadContext } from './read-clips.ts'
import { planBucketsIter, writeBucketPlan } from './write-plan.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bucketer-'))
})
afterEach(() => rm(folder, { recursive: true }))

function clipRecord(file: string, facts: Partial<ClipRecord> = {}): ClipRecord {
  return {
    type: 'clip',
    id: file,
    file,
    sha256: 'a'.repeat(64),
    width: 1280,
    height: 720,
    fps: 16,
    numFrames: 81,
    duration: 81 / 16,
    source: {
      file: 'take.mp4',
      sha256: 'b'.repeat(64),
      start: 0,
      end: 81 / 16,
      width: 1280,
      height: 720,
      fps: 24,
      shot: { index: 0, start: 0, end: 10 },
    },
    trim: { head: 0, tail: 0, reason: 'It moves throughout.', threshold: 0.01 },
    speed: 1,
    crop: null,
    motion: null,
    scores: {},
    flags: [],
    ...facts,
  }
}

/** A dataset on disk: a manifest, and an empty file for each clip. */
async function writeDataset(name: string, records: readonly object[]): Promise<string> {
  const header = { type: 'manifest', version: 1, tool: 'test', source: 'footage', options: {} }
  await mkdir(join(folder, name, 'clips'), { recursive: true })
  const lines = [header, ...records].map((record) => JSON.stringify(record))
  await writeFile(join(folder, name, 'manifest.jsonl'), `${lines.join('\n')}\n`)
  for (const record of records) {
    if ('file' in record && 'id' in record)
      await writeFile(join(folder, name, String(record.file)), '')
  }
  return join(folder, name)
}

async function readPlan(file: string) {
  return readBucketPlan(await readFile(file, 'utf8'), { fileName: file })
}

async function events(options: PlanBucketsOptions, context?: ReadContext) {
  const all = []
  for await (const event of planBucketsIter(options, context)) all.push(event)
  return all
}

describe('planBucketsIter', () => {
  it('takes still pictures only where they are asked for, and as clips of one frame', async () => {
    const source = join(folder, 'mixed')
    await mkdir(source)
    for (const file of ['a.mp4', 'b.PNG', 'c.webp', 'd.txt'])
      await writeFile(join(source, file), '')
    const probe: ReadContext['probe'] = (file) =>
      Promise.resolve({
        width: 640,
        height: 360,
        fps: 16,
        numFrames: file.endsWith('.mp4') ? 81 : 1,
      })
    const planned = async (options: Partial<PlanBucketsOptions>) => {
      const { plan } = await writeBucketPlan(
        { out: join(folder, 'plan.json'), rule: 'ai-toolkit', datasets: [{ source }], ...options },
        { probe },
      )
      const items = plan.buckets.flatMap((bucket) =>
        bucket.items.map(({ clip, frameIndices }) => [clip, frameIndices.length]),
      )
      return { items, skipped: plan.skipped.map(({ clip, reason }) => [clip, reason]) }
    }
    expect(await planned({ numFrames: 1 })).toEqual({ items: [['mixed/a.mp4', 1]], skipped: [] })
    expect(await planned({ numFrames: 1, datasets: [{ source, images: true }] })).toEqual({
      items: [
        ['mixed/a.mp4', 1],
        ['mixed/b.PNG', 1],
        ['mixed/c.webp', 1],
      ],
      skipped: [],
    })
    expect(await planned({ numFrames: 5, images: true })).toEqual({
      items: [['mixed/a.mp4', 5]],
      skipped: [
        ['mixed/b.PNG', 'single-frame'],
        ['mixed/c.webp', 'single-frame'],
      ],
    })
  })

  it('writes a plan whose clips are named from its own folder', async () => {
    const source = await writeDataset('data', [
      clipRecord('clips/a.mp4'),
      { type: 'dropped', file: 'take.mp4', reason: 'too-short' },
    ])
    const out = join(folder, 'run', 'bucket-plan.json')
    const { file } = await writeBucketPlan({ source, out })
    expect(file).toBe(out)
    const plan = await readPlan(out)
    expect(plan.buckets[0]!.items[0]).toMatchObject({
      clip: '../data/clips/a.mp4',
      clipSha256: 'a'.repeat(64),
    })
    expect(await readdir(join(folder, 'run'))).toEqual(['bucket-plan.json'])
  })

  it('takes the manifest itself, and several datasets', async () => {
    const one = await writeDataset('one', [clipRecord('clips/a.mp4')])
    const two = await writeDataset('two', [clipRecord('clips/a.mp4')])
    const out = join(folder, 'plan.json')
    const { plan } = await writeBucketPlan({
      datasets: [{ source: join(one, 'manifest.jsonl') }, { source: two, repeats: 2 }],
      out,
    })
    expect(plan.buckets[0]!.items.map((item) => [item.clip, item.dataset])).toEqual([
      ['one/clips/a.mp4', 0],
      ['two/clips/a.mp4', 1],
      ['two/clips/a.mp4', 1],
    ])
  })

  it('gives the same bytes twice', async () => {
    const source = await writeDataset('data', [
      clipRecord('clips/b.mp4', { numFrames: 300, sha256: 'c'.repeat(64) }),
      clipRecord('clips/a.mp4', { numFrames: 200 }),
    ])
    const out = join(folder, 'plan.json')
    const options = { source, out, repeats: 3, cropPosition: 'random' } as const
    await writeBucketPlan(options)
    const first = await readFile(out, 'utf8')
    await writeBucketPlan(options)
    expect(await readFile(out, 'utf8')).toBe(first)
  })

  it('skips a clip whose file is gone, and says so in the plan', async () => {
    const source = await writeDataset('data', [
      clipRecord('clips/a.mp4'),
      clipRecord('clips/b.mp4'),
    ])
    await rm(join(source, 'clips', 'b.mp4'))
    const out = join(folder, 'plan.json')
    expect(await events({ source, out })).toContainEqual(
      expect.objectContaining({
        type: 'skipped',
        item: 'data/clips/b.mp4',
        reason: 'missing-file',
      }),
    )
    const plan = await readPlan(out)
    expect(plan.skipped.map(({ reason }) => reason)).toEqual(['missing-file'])
    await expect(writeBucketPlan({ source, out, maxSkipped: 0 })).rejects.toMatchObject({
      code: 'BUCKETER_TOO_MANY_SKIPPED',
    })
    await writeBucketPlan({ source, out, maxSkipped: 1 })
  })

  it('writes nothing in a dry run, nor after an abort', async () => {
    const source = await writeDataset('data', [clipRecord('clips/a.mp4')])
    const out = join(folder, 'plan.json')
    const { plan, file } = await writeBucketPlan({ source, out, dryRun: true })
    expect(plan.buckets).toHaveLength(1)
    expect(file).toBeNull()
    const signal = AbortSignal.abort()
    await expect(writeBucketPlan({ source, out }, { signal })).rejects.toThrow(/abort/i)
    expect(await readdir(folder)).toEqual(['data'])
  })

  it('probes a folder of bare clips, and goes on past those that cannot be read', async () => {
    await mkdir(join(folder, 'bare', 'sub'), { recursive: true })
    await mkdir(join(folder, 'bare', '.hidden'))
    for (const name of ['a.mp4', 'sub/b.MOV', 'bad.mkv', 'notes.txt', '.hidden/c.mp4', '.d.mp4']) {
      await writeFile(join(folder, 'bare', name), '')
    }
    const source = join(folder, 'bare')
    const out = join(folder, 'plan.json')
    const probe = async (file: string) => {
      if (file.endsWith('bad.mkv')) throw new Error('It is no video.')
      return { width: 640, height: 360, fps: 24, numFrames: 121, vfr: file.endsWith('b.MOV') }
    }
    const all = await events({ source, out }, { probe })
    expect(all.filter(({ type }) => type === 'skipped' || type === 'warning')).toEqual([
      expect.objectContaining({ code: 'BUCKETER_VARIABLE_FRAME_RATE' }),
      { type: 'skipped', item: 'bare/bad.mkv', reason: 'unreadable', detail: 'It is no video.' },
    ])
    const plan = await readPlan(out)
    expect(plan.buckets[0]!.items.map((item) => item.clip)).toEqual([
      'bare/a.mp4',
      'bare/sub/b.MOV',
    ])
  })

  it.each([
    ['BUCKETER_NO_SOURCE', {}],
    ['BUCKETER_NO_CLIPS', { source: 'empty' }],
    ['BUCKETER_NO_PROBE', { source: 'bare' }],
    ['CONFIG_BAD_MANIFEST', { source: 'broken' }],
    ['STAGE_NO_SUCH_FILE', { source: 'nowhere' }],
  ])('fails with %s for %j', async (code, { source }: { source?: string }) => {
    await writeDataset('empty', [])
    await mkdir(join(folder, 'bare'))
    await writeDataset('broken', [{ ...clipRecord('clips/a.mp4'), width: 'wide' }])
    const options = source === undefined ? {} : { source: join(folder, source) }
    const run = writeBucketPlan({ ...options, out: join(folder, 'plan.json') })
    await expect(run).rejects.toMatchObject({ code })
  })

  it('names the line of a manifest that is wrong', async () => {
    const source = await writeDataset('broken', [{ ...clipRecord('clips/a.mp4'), width: 'wide' }])
    const run = writeBucketPlan({ source, out: join(folder, 'plan.json') })
    await expect(run).rejects.toThrow(/manifest\.jsonl:2:\d+: .*width/)
  })
})

describe('the bin', () => {
  async function bin(...args: string[]) {
    let stdout = ''
    let stderr = ''
    const code = await runBin(bucketerCommands({}), {
      args,
      stdout: { write: (text) => (stdout += text) },
      stderr: { write: (text) => (stderr += text) },
      signals: false,
    })
    return { code, stdout, stderr }
  }

  it('prints the table on stdout and the warnings on stderr', async () => {
    const source = await writeDataset('data', [
      clipRecord('clips/a.mp4', { numFrames: 200, duration: 12.5 }),
      clipRecord('clips/b.mp4', { width: 720, height: 1280 }),
    ])
    const out = join(folder, 'plan.json')
    const { code, stdout, stderr } = await bin('plan', source, '--out', out, '--batch-size', '2')
    expect(code).toBe(0)
    expect(stdout).toMatch(/^bucket +clips +samples +batch +steps +used s +unused s +speed$/m)
    expect(stdout).toMatch(/^672x384 x 81 @ 512 +1 +2 +2 +1 +5\.1 +7\.4 +real time$/m)
    expect(stdout).toMatch(/^384x672 x 81 @ 512 +1 +2 +2 +1 +5\.1 +0\.0 +real time$/m)
    expect(stdout).toMatch(/1 sample left over, the last batch filled with 1 repeated\./)
    expect(stderr).toMatch(/BUCKETER_FEWER_CLIPS_THAN_BATCH/)
  })

  it('prints the plan as JSON in a dry run, and events a line with --json', async () => {
    const source = await writeDataset('data', [clipRecord('clips/a.mp4')])
    const dry = await bin('plan', source, '--dry-run')
    expect(bucketPlanSchema.parse(JSON.parse(dry.stdout).plan).buckets).toHaveLength(1)
    const json = await bin('plan', source, '--out', join(folder, 'plan.json'), '--json')
    const lines = json.stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(lines.at(-1)).toMatchObject({ type: 'result', result: { report: { rows: [{}] } } })
  })

  it('reads numFrames as one number or several', async () => {
    const source = await writeDataset('data', [clipRecord('clips/a.mp4', { numFrames: 40 })])
    for (const [text, numFrames] of [
      ['17', 17],
      ['17,33', 33],
    ] as const) {
      const { stdout } = await bin('plan', source, '--dry-run', '--num-frames', text)
      expect(JSON.parse(stdout).plan.buckets[0].numFrames).toBe(numFrames)
    }
  })

  it('exits with 2 for a flag that does not exist', async () => {
    expect(await bin('plan', '--resolution', '512')).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/Did you mean --resolutions\?/),
    })
  })
})
