import {
  formatManifest,
  type ClipRecord,
  type DatasetManifest,
  type DroppedRecord,
  type ManifestHeader,
} from '@kinora/config-schema'
import {
  checkFfmpeg,
  checkVideoOutput,
  cutVideo,
  type MediaProbe,
  type VideoFrame,
} from '@kinora/media'
import {
  drain,
  lockFolder,
  parseOptions,
  writeFileAtomic,
  type ProgressEvent,
  type RunContext,
  type StageEvent,
} from '@kinora/stage'
import { readFile, stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { clipFlags, type DropReason } from './clip-flags.ts'
import {
  createPictureScorer,
  judgePictures,
  previewCount,
  previewSide,
  type PictureScores,
} from './clip-scores.ts'
import { drawContactStrip, stripCount } from './contact-strip.ts'
import { chooseClips, type ChosenClips } from './choose-clips.ts'
import { clipPrepErrors } from './errors.ts'
import { isInShard, listFootage, type FootageFile } from './list-footage.ts'
import {
  prepareClipsOptions,
  rangeEdit,
  type PrepareClipsOptions,
  type PrepareClipsSettings,
} from './options.ts'
import { nameMismatch } from './named-motion.ts'
import { planClips, type FootagePlan, type PlannedClip } from './plan-clips.ts'
import { readFootage, refusalOf } from './read-footage.ts'
import { writeReport } from './report.ts'
import { releaseMemory } from './release-memory.ts'
import { runPool } from './task-pool.ts'
import type { VideoAnalysis } from './video-analysis.ts'
import { toolName } from './tool-name.ts'
import {
  hashFile,
  openWorkState,
  type StoredAnalysis,
  type StoredClip,
  type WorkState,
} from './work-state.ts'

/** What a run says while it works: see `prepareClipsIter` for its phases. */
export type PrepareClipsEvent = StageEvent

/**
 * Cuts a folder of footage into clips: finds shots, trims stillness, crops black bars, resamples to 16 fps by time stamps,
 * scores what it finds and writes it all down. Only `out` is written to. Finished work is kept and found again, whatever ends
 * the run. Returns the manifest that it wrote (or, on a dry run, would write, with clip hashes of zeros).
 *
 * Phases: `analyse` counts files, `cut` counts clips.
 */
export async function* prepareClipsIter(
  options: PrepareClipsOptions,
  context: RunContext = {},
): AsyncGenerator<PrepareClipsEvent, DatasetManifest> {
  const settings = parseOptions('CLIP_PREP', prepareClipsOptions, options)
  const shard = parseShard(settings.shard)
  const all = await listFootage(settings.source, settings.out)
  const files = shard ? all.filter(({ file }) => isInShard(file, shard.index, shard.count)) : all

  const lock = settings.dryRun
    ? undefined
    : await lockFolder(
        shard
          ? join(settings.out, '.clip-prep', `shard-${shard.index}-of-${shard.count}`)
          : settings.out,
      )
  try {
    return yield* prepareLocked(settings, files, context)
  } finally {
    await lock?.release()
  }
}

/** Runs `prepareClipsIter` to its end. */
export function prepareClips(
  options: PrepareClipsOptions,
  context?: RunContext,
): Promise<DatasetManifest> {
  return drain(prepareClipsIter(options, context))
}

async function* prepareLocked(
  settings: PrepareClipsSettings,
  files: readonly FootageFile[],
  context: RunContext,
): AsyncGenerator<PrepareClipsEvent, DatasetManifest> {
  const state = openWorkState(settings.out, { readOnly: settings.dryRun })
  const jobs = settings.jobs ?? availableParallelism()

  const { plans, dropped, numRefused } = yield* analyseAll(settings, files, state, jobs, context)
  const footage = new Map<string, MediaProbe>()
  for (const { file, path } of files) {
    const probe = plans.get(file)?.probe
    if (probe) footage.set(file, { ...probe, file: path })
  }
  const clips = files.flatMap(({ file }) => plans.get(file)?.clips ?? [])
  yield* warnings(clips, [...plans.values()], settings)
  let cut: StoredClip[]
  let chosen: ChosenClips
  if (settings.dryRun) {
    cut = clips.map((clip) => plannedOnly(clip, settings))
    chosen = chooseClips(cut, settings)
  } else {
    cut = yield* cutAll(settings, footage, clips, state, dropped, false, context)
    chosen = chooseClips(cut, settings)
    // A clip that an earlier run left out and took away may be wanted now.
    if (chosen.kept.some(({ droppedFor }) => droppedFor !== undefined)) {
      const wanted = new Set(chosen.kept.map(({ id }) => id))
      const again = clips.filter(({ id }) => wanted.has(id))
      const rest = cut.filter(({ id }) => !wanted.has(id))
      cut = [...rest, ...(yield* cutAll(settings, footage, again, state, dropped, true, context))]
      chosen = chooseClips(cut, settings)
    }
  }
  dropped.push(...chosen.dropped)
  const manifest: DatasetManifest = {
    header: headerOf(settings),
    clips: chosen.kept.map(({ record }) => record),
    dropped,
  }
  if (!settings.dryRun) {
    await state.hideClips(chosen.hidden)
    if (settings.shard) {
      const name = `manifest.${settings.shard.replace('/', '-of-')}.jsonl`
      await writeIfChanged(join(settings.out, name), formatManifest(manifest))
    } else {
      const text = formatManifest(manifest)
      await writeIfChanged(join(settings.out, 'manifest.jsonl'), text)
      await state.removeOtherClips(new Set(cut.map(({ id }) => id)))
      if (settings.report) await writeReport(settings.out, manifest, chosen.kept)
    }
  }
  yield { type: 'note', message: summary(manifest, files.length, numRefused) }
  if (settings.maxSkipped !== undefined && numRefused > settings.maxSkipped)
    throw clipPrepErrors.TOO_MANY_SKIPPED(numRefused, files.length, settings.maxSkipped)
  // A shard may have got the bad files alone.
  if (numRefused === files.length && settings.shard === undefined)
    throw clipPrepErrors.NOTHING_USABLE(files.length)
  return manifest
}

/** From this length on, memory is given back as soon as a file is planned. */
const longSeconds = 600

/** A file that breaks off is refused or used by what is asked for today. */
function needsAnotherLook(stored: StoredAnalysis, { salvage }: PrepareClipsSettings): boolean {
  return stored.kind === 'refused'
    ? stored.refusal.reason === 'truncated' && salvage
    : stored.analysis.probe.truncated !== null && !salvage
}

interface AnalysedPlan extends FootagePlan {
  probe: VideoAnalysis['probe']
}

async function* analyseAll(
  settings: PrepareClipsSettings,
  files: readonly FootageFile[],
  state: WorkState,
  jobs: number,
  context: RunContext,
): AsyncGenerator<
  PrepareClipsEvent,
  { plans: Map<string, AnalysedPlan>; dropped: DroppedRecord[]; numRefused: number }
> {
  const plans = new Map<string, AnalysedPlan>()
  const refused = new Map<string, DroppedRecord>()
  const hashes = new Map<string, string>()
  // One core measures what the others decode.
  const threads = threadsOf(Math.min(jobs, files.length), availableParallelism() - 1)
  let done = 0
  yield { type: 'started', phase: 'analyse', total: files.length }
  // Shares of the files under way, so that a long one shows progress of its own.
  const underWay = new Map<string, number>()
  const progress = (item: string): ProgressEvent => {
    let sum = done
    for (const share of underWay.values()) sum += share
    return {
      type: 'progress',
      phase: 'analyse',
      done: Math.round(sum * 100) / 100,
      total: files.length,
      item,
    }
  }
  let checked: Promise<unknown> | undefined
  let tell: (event: PrepareClipsEvent) => void = () => {}
  // What was measured is held by this function alone, so that it is gone when a plan is made of it.
  const planFile = async (
    footage: FootageFile,
    sha256: string,
  ): Promise<
    Extract<StoredAnalysis, { kind: 'refused' }> | { kind: 'plan'; plan: AnalysedPlan }
  > => {
    let stored = await state.readAnalysis(sha256)
    if (stored && needsAnotherLook(stored, settings)) stored = undefined
    if (!stored) {
      await (checked ??= settings.dryRun ? checkFfmpeg() : checkVideoOutput('.mp4'))
      stored = await readFootage(footage, {
        ...context,
        salvage: settings.salvage,
        threads,
        onProgress: (seconds, duration) => {
          underWay.set(footage.file, Math.min(0.99, seconds / duration))
          tell(progress(footage.file))
        },
      })
      await state.writeAnalysis(sha256, stored)
    }
    if (stored.kind === 'refused') return stored
    const { analysis, pictures } = stored
    const { file, stem } = footage
    const plan = planClips({ file, stem, sha256, analysis, pictures }, settings)
    return { kind: 'plan', plan: { ...plan, probe: analysis.probe } }
  }
  yield* runPool<FootageFile, PrepareClipsEvent>(files, jobs, async (footage, say) => {
    tell = say
    context.signal?.throwIfAborted()
    const sha256 = await state.hashSource(footage, context.signal)
    hashes.set(footage.file, sha256)
    const outcome = await planFile(footage, sha256)
    if (outcome.kind === 'refused') {
      refused.set(footage.file, { type: 'dropped', file: footage.file, ...outcome.refusal })
      const { reason, detail } = outcome.refusal
      say({ type: 'skipped', item: footage.file, reason, ...(detail ? { detail } : {}) })
    } else {
      plans.set(footage.file, outcome.plan)
      if (outcome.plan.probe.duration >= longSeconds) releaseMemory()
    }
    underWay.delete(footage.file)
    done++
    say(progress(footage.file))
  })

  // In the order of the files, whoever came first.
  const dropped: DroppedRecord[] = []
  const firstOf = new Map<string, string>()
  for (const { file } of files) {
    const sha256 = hashes.get(file)!
    const same = firstOf.get(sha256)
    if (same !== undefined && plans.has(file)) {
      plans.delete(file)
      dropped.push({
        type: 'dropped',
        file,
        reason: 'same-bytes' satisfies DropReason,
        detail: `The same bytes as ${same}.`,
      })
      yield { type: 'skipped', item: file, reason: 'same-bytes', detail: `As ${same}.` }
    } else firstOf.set(sha256, file)
    const refusal = refused.get(file)
    if (refusal) dropped.push(refusal)
    dropped.push(...(plans.get(file)?.dropped ?? []))
  }
  return { plans, dropped, numRefused: refused.size }
}

/**
 * Threads of each ffmpeg when so many run at once, on the cores that are left to them. Every thread of a decoder holds pictures
 * of its own (3 MB each at 1080p) and costs a tenth more time in all; beyond two it only waits.
 */
function threadsOf(jobs: number, cores = availableParallelism()): number {
  return Math.max(1, Math.min(2, Math.floor(cores / Math.max(1, jobs))))
}

/**
 * Large pictures are cut by half as many ffmpegs, of two threads each: as fast, and each takes more than 100 MB at 1080p. Small
 * ones take little, and starting ffmpeg is most of their time.
 */
function cutsAtOnce(clips: readonly PlannedClip[]): number {
  const cores = availableParallelism()
  const isLarge = clips.some(({ source }) => source.width * source.height > 1280 * 720)
  return isLarge ? Math.ceil(cores / 2) : cores
}

/** What the plan already shows to be amiss, before anything is cut. */
function* warnings(
  clips: readonly PlannedClip[],
  plans: readonly FootagePlan[],
  { untrim, range, shard }: PrepareClipsSettings,
): Generator<PrepareClipsEvent> {
  for (const { name, source, motion } of clips) {
    const mismatch = motion && nameMismatch(source.file, motion)
    if (mismatch)
      yield {
        type: 'warning',
        code: 'CLIP_PREP_NAME_DISAGREES',
        message: `${name}: ${mismatch}`,
        fix: clipFlags['name-disagrees'].fix,
      }
  }
  // Another shard may have the clip.
  if (shard !== undefined) return
  const found = new Set(plans.flatMap(({ edited }) => edited))
  for (const name of [...untrim, ...range.map((text) => rangeEdit.exec(text)![1]!)]) {
    if (!found.has(name))
      yield {
        type: 'warning',
        code: 'CLIP_PREP_NO_SUCH_CLIP',
        message: `No shot is called ${name}, so its --untrim or --range did nothing.`,
        fix: 'Take the name from report.html or the manifest: folder/file_001, without clips/ and .mp4.',
      }
  }
}

async function* cutAll(
  settings: PrepareClipsSettings,
  footage: ReadonlyMap<string, MediaProbe>,
  clips: readonly PlannedClip[],
  state: WorkState,
  dropped: DroppedRecord[],
  evenDropped: boolean,
  context: RunContext,
): AsyncGenerator<PrepareClipsEvent, StoredClip[]> {
  const found = await Promise.all(clips.map(({ id }) => state.readClip(id)))
  const finished = new Map<string, StoredClip>()
  const missing: PlannedClip[] = []
  for (const [index, clip] of clips.entries()) {
    const stored = found[index]
    const usable =
      stored !== undefined &&
      (stored.droppedFor === undefined ||
        (!evenDropped && settings.drop.includes(stored.droppedFor))) &&
      // A strip that is wanted now needs the pictures.
      (stored.record.strip !== undefined || !settings.strips)
    if (usable) finished.set(clip.id, refreshed(stored, clip, settings))
    else missing.push(clip)
  }
  yield { type: 'started', phase: 'cut', total: clips.length }
  let done = clips.length - missing.length
  const jobs = settings.jobs ?? cutsAtOnce(missing)
  const threads = threadsOf(Math.min(jobs, missing.length))
  yield* runPool<PlannedClip, PrepareClipsEvent>(missing, jobs, async (clip, say) => {
    context.signal?.throwIfAborted()
    const probe = footage.get(clip.source.file)!
    try {
      const stored = await cutClip(settings, probe, clip, threads, context)
      await state.writeClip(stored)
      finished.set(clip.id, stored)
    } catch (error) {
      context.signal?.throwIfAborted()
      const refusal = refusalOf(error, probe.file)
      if (!refusal) throw error
      const { file, start, end } = clip.source
      dropped.push({ type: 'dropped', file, start, end, ...refusal })
      say({ type: 'skipped', item: clip.name, ...refusal })
    }
    done++
    say({ type: 'progress', phase: 'cut', done, total: clips.length, item: clip.name })
  })
  return clips.flatMap(({ id }) => finished.get(id) ?? [])
}

async function cutClip(
  settings: PrepareClipsSettings,
  probe: MediaProbe,
  clip: PlannedClip,
  threads: number,
  context: RunContext,
): Promise<StoredClip> {
  const file = `clips/${clip.name}.mp4`
  const target = join(settings.out, file)
  const scorer = createPictureScorer()
  const every = Math.max(1, Math.floor(clip.numFrames / previewCount))
  const pictures: VideoFrame[] = []
  const written = await cutVideo(
    probe.file,
    target,
    {
      probe,
      start: clip.source.start,
      end: clip.source.end,
      fps: settings.fps,
      speed: settings.speed,
      crf: settings.crf,
      preset: settings.preset,
      threads,
      ...(clip.crop ? { crop: clip.crop } : {}),
      ...(settings.maxSide ? { width: clip.width, height: clip.height } : {}),
      preview: {
        every,
        maxSide: previewSide,
        onFrame: (frame) => {
          scorer.add(frame)
          pictures.push(frame)
        },
      },
    },
    context,
  )
  const scores = scorer.finish(clip.travel)
  let strip: string | undefined
  if (settings.strips && pictures.length > 0) {
    const count = Math.min(stripCount, pictures.length)
    const chosen = Array.from(
      { length: count },
      (_, index) => pictures[Math.floor((index * pictures.length) / count)]!,
    )
    strip = `strips/${clip.name}.jpg`
    await writeFileAtomic(join(settings.out, strip), await drawContactStrip(chosen))
  }
  const [sha256, { size }] = await Promise.all([hashFile(target, context.signal), stat(target)])
  return {
    id: clip.id,
    record: recordOf({ ...clip, ...written }, settings, sha256, scores, strip),
    sizeBytes: size,
    pictures: scores,
    shotCurve: clip.shotCurve,
  }
}

function recordOf(
  clip: PlannedClip,
  { fps, speed }: PrepareClipsSettings,
  sha256: string,
  pictures: PictureScores | undefined,
  strip: string | undefined,
): ClipRecord {
  const found = pictures ? judgePictures(pictures) : { scores: {}, flags: [] }
  return {
    type: 'clip',
    id: clip.id,
    file: `clips/${clip.name}.mp4`,
    sha256,
    width: clip.width,
    height: clip.height,
    fps,
    numFrames: clip.numFrames,
    duration: clip.numFrames / fps,
    source: clip.source,
    trim: clip.trim,
    speed,
    crop: clip.crop,
    motion: clip.motion,
    scores: { ...clip.scores, ...found.scores },
    flags: [...clip.flags, ...found.flags],
    ...(strip === undefined ? {} : { strip }),
  }
}

/** A clip of a dry run: nothing is cut, so its bytes have no hash. */
function plannedOnly(clip: PlannedClip, settings: PrepareClipsSettings): StoredClip {
  return {
    id: clip.id,
    record: recordOf(clip, settings, '0'.repeat(64), undefined, undefined),
    sizeBytes: 0,
    pictures: { sharpness: 0, overlay: null, hashes: [] },
    shotCurve: clip.shotCurve,
  }
}

/** A finished clip with what the plan says of it today: measures may have improved while the file stays the same. */
function refreshed(
  stored: StoredClip,
  clip: PlannedClip,
  settings: PrepareClipsSettings,
): StoredClip {
  const { sha256, strip } = stored.record
  return {
    ...stored,
    record: recordOf(clip, settings, sha256, stored.pictures, strip),
    shotCurve: clip.shotCurve,
  }
}

function headerOf({
  source,
  out: _out,
  jobs: _jobs,
  ...settings
}: PrepareClipsSettings): ManifestHeader {
  // Where it was written and how many worked on it changes nothing of what came out.
  return { type: 'manifest', version: 1, tool: toolName, source, options: settings }
}

function parseShard(text: string | undefined): { index: number; count: number } | undefined {
  if (text === undefined) return undefined
  const [index, count] = text.split('/').map(Number)
  return { index: index!, count: count! }
}

/** Writes a text unless the file has it already, so that a run that changes nothing touches nothing. */
async function writeIfChanged(file: string, text: string): Promise<void> {
  const before = await readFile(file, 'utf8').catch(() => undefined)
  if (before !== text) await writeFileAtomic(file, text)
}

function summary(manifest: DatasetManifest, numFiles: number, numRefused: number): string {
  const seconds = manifest.clips.reduce((sum, { duration }) => sum + duration, 0)
  const flagged = manifest.clips.filter(({ flags }) => flags.length > 0).length
  return [
    `${manifest.clips.length} clips, ${seconds.toFixed(1)} s, from ${numFiles - numRefused} of ${numFiles} files`,
    ...(numRefused > 0 ? [`${numRefused} files left out`] : []),
    ...(flagged > 0 ? [`${flagged} clips flagged`] : []),
  ].join('; ')
}
