import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readManifest, type ClipRecord, type DatasetManifest } from '@kinora/config-schema'
import { probe, readFrames } from '@kinora/media'
import type { StageEvent } from '@kinora/stage'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  mergeShards,
  prepareClips,
  prepareClipsIter,
  type PrepareClipsOptions,
} from '../src/index.ts'
import { panning, waiting, writeShots } from './footage.ts'

const fps = 24

const ffmpegProgram = process.env['FFMPEG_PATH'] || 'ffmpeg'

let folder: string
let footage: string
let whole: string
let manifest: DatasetManifest

const run = async (
  options: Partial<PrepareClipsOptions> & { out: string },
): Promise<{ manifest: DatasetManifest; events: StageEvent[] }> => {
  const events: StageEvent[] = []
  const stage = prepareClipsIter({ source: footage, jobs: 2, ...options })
  for (;;) {
    const next = await stage.next()
    if (next.done) return { manifest: next.value, events }
    events.push(next.value)
  }
}

const clipsOf = (all: DatasetManifest, file: string): ClipRecord[] =>
  all.clips.filter(({ source }) => source.file === file)
const reasonsOf = (all: DatasetManifest, file: string): string[] =>
  all.dropped.filter((record) => record.file === file).map(({ reason }) => reason)

function ffmpeg(...args: string[]): void {
  const { status, stderr } = spawnSync(ffmpegProgram, ['-v', 'error', '-y', ...args], {
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(stderr)
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-clip-prep-'))
  footage = join(folder, 'footage')
  whole = join(folder, 'whole')
  await mkdir(join(footage, 'day 2'), { recursive: true })
  await mkdir(join(footage, 'bad'))
  await writeShots(join(footage, 'walk.mp4'), [
    { seed: 1, numFrames: 40, x: panning(3) },
    { seed: 2, numFrames: 96, x: waiting(36, 36, 3) },
    { seed: 3, numFrames: 36 },
  ])
  await writeShots(
    join(footage, 'day 2/mix#1.mp4'),
    [
      { seed: 4, numFrames: 48, x: panning(0.4) },
      { seed: 5, numFrames: 48, x: panning(0.5) },
    ],
    { blend: 16 },
  )
  await writeShots(join(footage, 'tower orbit.mp4'), [{ seed: 6, numFrames: 36, x: panning(3) }])
  ffmpeg(
    '-i',
    join(footage, 'walk.mp4'),
    '-frames:v',
    '38',
    '-crf',
    '30',
    join(footage, 'walk-again.mp4'),
  )
  await copyFile(join(footage, 'tower orbit.mp4'), join(footage, 'z-copy.mp4'))
  const bad = join(footage, 'bad')
  await writeFile(join(bad, 'empty.mp4'), '')
  await writeFile(join(bad, 'text.mp4'), 'not a video\n'.repeat(50))
  ffmpeg('-f', 'lavfi', '-i', 'sine=d=1', join(bad, 'sound.m4a'))
  ffmpeg('-f', 'lavfi', '-i', 'testsrc2=s=64x64:r=5:d=1', join(bad, 'moving.gif'))
  ffmpeg('-f', 'lavfi', '-i', 'testsrc2=s=64x64', '-frames:v', '1', join(bad, 'still.png'))
  await copyFile(join(bad, 'still.png'), join(bad, 'picture.mp4'))
  const ended = join(folder, 'ended.mp4')
  ffmpeg('-i', join(footage, 'walk.mp4'), '-c', 'copy', ended)
  const bytes = await readFile(ended)
  await writeFile(join(bad, 'no-index.mp4'), bytes.subarray(0, bytes.length >> 1))
  const front = join(folder, 'front.mp4')
  ffmpeg('-i', join(footage, 'walk.mp4'), '-c', 'copy', '-movflags', '+faststart', front)
  const fronted = await readFile(front)
  await writeFile(join(bad, 'half.mp4'), fronted.subarray(0, Math.round(fronted.length * 0.6)))
  await writeFile(join(footage, 'notes.txt'), 'no footage')
  manifest = (await run({ out: whole })).manifest
}, 120_000)
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('prepareClips', () => {
  it('cuts shots where they begin and end, and trims stillness', async () => {
    const clips = clipsOf(manifest, 'walk.mp4')
    expect(clips.map(({ source }) => source.shot.index)).toEqual([0, 1])
    const [first, second] = clips as [ClipRecord, ClipRecord]
    expect(first.source.shot).toMatchObject({ start: 0 })
    expect(first.source.shot.end).toBeCloseTo(40 / fps, 5)
    expect(second.source.shot.end).toBeCloseTo(136 / fps, 5)
    // Still for 36 frames, moving for 36, still for 24.
    expect(Math.abs(second.source.start - 76 / fps)).toBeLessThanOrEqual(0.2)
    expect(Math.abs(second.source.end - 112 / fps)).toBeLessThanOrEqual(0.2)
    expect(second.trim.head).toBeGreaterThan(1.2)
    expect(second.trim.tail).toBeGreaterThan(0.7)
    expect(second.motion?.camera).toBe('pan-right')
    expect(second.motion?.panPerSecond).toBeCloseTo((3 * fps) / 192, 1)
    expect(second.motion?.curve).toHaveLength(second.numFrames)
    expect(reasonsOf(manifest, 'walk.mp4').toSorted()).toEqual(['static', 'static', 'still'])
  })

  it('finds a dissolve and leaves it out', () => {
    const gap = manifest.dropped.find(({ reason }) => reason === 'transition')!
    expect(gap).toMatchObject({ file: 'day 2/mix#1.mp4', detail: 'A dissolve.' })
    expect(Math.abs(gap.start! - 32 / fps)).toBeLessThanOrEqual(0.15)
    expect(Math.abs(gap.end! - 48 / fps)).toBeLessThanOrEqual(0.15)
    for (const { source } of clipsOf(manifest, 'day 2/mix#1.mp4'))
      expect(source.end <= gap.start! || source.start >= gap.end!).toBe(true)
  })

  it('writes clips frame-exactly, in real time, with the facts that the manifest says', async () => {
    for (const clip of manifest.clips) {
      const facts = await probe(join(whole, clip.file))
      expect(facts).toMatchObject({
        numFrames: clip.numFrames,
        width: clip.width,
        height: clip.height,
        vfr: false,
      })
      expect(facts.fps).toBeCloseTo(16, 3)
      expect(clip.duration).toBeCloseTo(clip.source.end - clip.source.start, 0)
      expect(existsSync(join(whole, clip.strip!))).toBe(true)
    }
    const [, second] = clipsOf(manifest, 'walk.mp4') as [ClipRecord, ClipRecord]
    const firstOf = async (file: string, start: number) => {
      for await (const { data } of readFrames(file, { start })) return data
      throw new Error('no frame')
    }
    const cut = await firstOf(join(whole, second.file), 0)
    const distance = (other: Uint8Array) =>
      cut.reduce((sum, value, at) => sum + Math.abs(value - other[at]!), 0) / cut.length
    const source = join(footage, 'walk.mp4')
    const at = second.source.start
    const exact = distance(await firstOf(source, at))
    expect(exact).toBeLessThan(2)
    // Two frames on, the window has moved.
    expect(distance(await firstOf(source, at + 4 / fps))).toBeGreaterThan(2 * exact)
  })

  it('names what is wrong with every bad file and goes on', () => {
    const named = Object.fromEntries(
      manifest.dropped
        .filter(({ file }) => file.startsWith('bad/'))
        .map(({ file, reason }) => [file.slice(4), reason]),
    )
    expect(named).toEqual({
      'empty.mp4': 'empty',
      'text.mp4': 'unreadable',
      'sound.m4a': 'audio-only',
      'moving.gif': 'animation',
      'still.png': 'image',
      'picture.mp4': 'image',
      'no-index.mp4': 'unreadable',
      'half.mp4': 'truncated',
    })
    for (const record of manifest.dropped) expect(record.detail).toBeTruthy()
    expect(reasonsOf(manifest, 'z-copy.mp4')).toEqual(['same-bytes'])
    expect(manifest.dropped.some(({ file }) => file === 'notes.txt')).toBe(false)
  })

  it('warns of a name that promises another motion', async () => {
    const [clip] = clipsOf(manifest, 'tower orbit.mp4') as [ClipRecord]
    expect(clip.flags).toContain('name-disagrees')
    const { events } = await run({ out: whole, dryRun: true })
    expect(events).toContainEqual(
      expect.objectContaining({
        type: 'warning',
        code: 'CLIP_PREP_NAME_DISAGREES',
        message: 'tower orbit_001: It is called “orbit”, but nothing turns: the camera goes right.',
      }),
    )
  })

  it('writes a manifest that reads back, and a report that needs no network', async () => {
    const fileName = join(whole, 'manifest.jsonl')
    expect(readManifest(await readFile(fileName, 'utf8'), { fileName })).toEqual(manifest)
    const report = await readFile(join(whole, 'report.html'), 'utf8')
    for (const { file, strip } of manifest.clips) {
      for (const path of [file, strip!])
        expect(report).toContain(path.split('/').map(encodeURIComponent).join('/'))
    }
    expect(report).not.toMatch(/https?:|<script/)
    expect(report.match(/<polyline/g)).toHaveLength(manifest.clips.length)
    for (const word of ['truncated', 'near-duplicate', 'name-disagrees', '--untrim walk_002'])
      expect(report).toContain(word)
  })

  it('does nothing a second time', async () => {
    const times = async () => {
      const names = await readdir(whole, { recursive: true })
      const stats = await Promise.all(names.map((name) => stat(join(whole, name))))
      return Object.fromEntries(names.map((name, index) => [name, stats[index]!.mtimeMs]))
    }
    const before = await times()
    const { manifest: again, events } = await run({ out: whole })
    expect(again).toEqual(manifest)
    const after = await times()
    // The lock comes and goes, so the folder itself is touched.
    expect(Object.entries(after).filter(([name, time]) => before[name] !== time)).toEqual([])
    expect(events.some((event) => event.type === 'progress' && event.phase === 'cut')).toBe(false)
  })

  it('leaves clips out only when asked, and lists each with its reason', async () => {
    const [worse] = clipsOf(manifest, 'walk-again.mp4') as [ClipRecord]
    expect(worse.flags).toContain('near-duplicate')
    const out = join(folder, 'dropping')
    const options = { out, source: footage, drop: ['near-duplicate'] as const }
    const dropping = await prepareClips({ ...options, drop: [...options.drop] })
    expect(clipsOf(dropping, 'walk-again.mp4')).toEqual([])
    expect(dropping.dropped).toContainEqual(
      expect.objectContaining({
        file: 'walk-again.mp4',
        reason: 'near-duplicate',
        detail: 'Nearly the same as clips/walk_001.mp4.',
      }),
    )
    expect(existsSync(join(out, worse.file))).toBe(false)
    // Asked for again, it is cut again.
    const back = await prepareClips({ source: footage, out })
    expect(back.clips).toEqual(manifest.clips)
    expect(existsSync(join(out, worse.file))).toBe(true)
  })

  it('undoes a trim, and takes a range by hand', async () => {
    const out = join(folder, 'by-hand')
    const options = { out, source: join(footage, 'walk.mp4'), report: false }
    const { manifest: edited, events } = await run({
      ...options,
      untrim: ['walk_002', 'walk_003', 'nobody_001'],
      range: ['walk_001=0.25-1.5'],
    })
    const [first, second, third] = edited.clips as [ClipRecord, ClipRecord, ClipRecord]
    expect(first.source).toMatchObject({ start: 0.25, end: 1.5 })
    expect(first.numFrames).toBe(20)
    expect(second.source.start).toBeCloseTo(41 / fps, 3)
    expect(second.trim).toMatchObject({
      head: 0,
      tail: 0,
      reason: 'The trim was undone by --untrim.',
    })
    expect(third.source.shot.index).toBe(2)
    expect(events).toContainEqual(expect.objectContaining({ code: 'CLIP_PREP_NO_SUCH_CLIP' }))
    const plain = await prepareClips(options)
    expect(plain.clips.map(({ source }) => source.start)).toEqual(
      clipsOf(manifest, 'walk.mp4').map(({ source }) => source.start),
    )
  })

  it('records a speed that was asked for, and never speeds up by itself', async () => {
    const out = join(folder, 'fast')
    const source = join(footage, 'tower orbit.mp4')
    const fast = await prepareClips({ source, out, speed: 1.5, report: false, minDuration: 0.5 })
    expect(fast.clips[0]).toMatchObject({ speed: 1.5, numFrames: 16 })
    expect(manifest.clips.every(({ speed }) => speed === 1)).toBe(true)
  })

  it('flags clips of damaged footage', async () => {
    const bytes = await readFile(join(footage, 'tower orbit.mp4'))
    // Inside the pictures, which follow the index.
    const at = bytes.indexOf('mdat') + 4000
    for (let offset = 0; offset < 600; offset++) bytes[at + offset]! ^= 0x5a
    const source = join(folder, 'damaged.mp4')
    await writeFile(source, bytes)
    const out = join(folder, 'damaged')
    const damaged = await prepareClips({ source, out, minDuration: 0, report: false })
    expect(damaged.clips.length).toBeGreaterThan(0)
    for (const { flags } of damaged.clips) expect(flags).toContain('decode-errors')
    expect(manifest.clips.some(({ flags }) => flags.includes('decode-errors'))).toBe(false)
  })

  it('writes nothing on a dry run', async () => {
    const out = join(folder, 'dry')
    const { manifest: planned } = await run({
      out,
      source: join(footage, 'walk.mp4'),
      dryRun: true,
    })
    expect(planned.clips).toHaveLength(2)
    expect(existsSync(out)).toBe(false)
  })

  it('gives the same from shards as from one run', async () => {
    const out = join(folder, 'shards')
    for (const shard of ['1/3', '2/3', '3/3']) await prepareClips({ source: footage, out, shard })
    expect(existsSync(join(out, 'manifest.jsonl'))).toBe(false)
    const merged = await mergeShards({ out })
    const sorted = (lines: readonly object[]) =>
      lines.map((line) => JSON.stringify(line)).toSorted()
    expect(merged.clips).toEqual(manifest.clips)
    expect(sorted(merged.dropped)).toEqual(sorted(manifest.dropped))
    expect(merged.header).toEqual(manifest.header)
    expect(await readFile(join(out, 'report.html'), 'utf8')).toContain('near-duplicate')
    await rm(join(out, 'manifest.2-of-3.jsonl'))
    await expect(mergeShards({ out })).rejects.toMatchObject({ code: 'CLIP_PREP_MISSING_SHARDS' })
    await expect(mergeShards({ out: footage })).rejects.toMatchObject({
      code: 'CLIP_PREP_NO_SHARDS',
    })
  })

  it('stops when it is aborted, and goes on from there', async () => {
    const out = join(folder, 'aborted')
    const controller = new AbortController()
    const stage = prepareClipsIter({ source: footage, out, jobs: 1 }, { signal: controller.signal })
    let finished = 0
    await expect(async () => {
      for (;;) {
        const next = await stage.next()
        if (next.done) return
        if (next.value.type === 'progress' && next.value.phase === 'cut') {
          finished++
          controller.abort()
        }
      }
    }).rejects.toThrow()
    expect(finished).toBe(1)
    expect(existsSync(join(out, 'manifest.jsonl'))).toBe(false)
    const names = await readdir(out, { recursive: true })
    expect(names.filter((name) => /(^|[\\/])\.(?!clip-prep)/.test(name))).toEqual([])
    const { manifest: resumed, events } = await run({ out })
    expect(resumed).toEqual(manifest)
    const cut = events.filter((event) => event.type === 'progress' && event.phase === 'cut')
    expect(cut).toHaveLength(manifest.clips.length - 1)
  })

  it('fails where no file can be used, and says why in the manifest', async () => {
    const out = join(folder, 'nothing')
    await expect(run({ source: join(footage, 'bad'), out })).rejects.toMatchObject({
      code: 'CLIP_PREP_NOTHING_USABLE',
    })
    const text = await readFile(join(out, 'manifest.jsonl'), 'utf8')
    for (const file of await readdir(join(footage, 'bad'))) expect(text).toContain(file)
  })

  it('refuses to write into the footage, and sources that are none', async () => {
    await expect(prepareClips({ source: footage, out: footage })).rejects.toMatchObject({
      code: 'CLIP_PREP_OUT_IN_SOURCE',
    })
    await expect(
      prepareClips({ source: join(folder, 'nowhere'), out: join(folder, 'x') }),
    ).rejects.toMatchObject({ code: 'CLIP_PREP_NO_SOURCE' })
    await expect(
      prepareClips({ source: footage, out: join(folder, 'x'), range: ['walk_001=3-1'] }),
    ).rejects.toMatchObject({ code: 'CLIP_PREP_BAD_OPTIONS' })
  })
})
