import type { ClipMotion, DroppedRecord, Rectangle } from '@kinora/config-schema'
import { createHash } from 'node:crypto'
import type { PictureArea } from './black-bars.ts'
import { classifyMotion } from './classify-motion.ts'
import type { ClipFlag, DropReason } from './clip-flags.ts'
import { detectShots, type Shot, type ShotList } from './detect-shots.ts'
import type { MotionStep } from './motion-step.ts'
import { nameMismatch } from './named-motion.ts'
import { rangeEdit, type PrepareClipsSettings } from './options.ts'
import { findMovingRange, stillEnergy, type MovingRange } from './static-trim.ts'
import type { VideoAnalysis } from './video-analysis.ts'

/** One file of footage and what was measured on it. */
export interface AnalysedFootage {
  /** Relative to the source folder. */
  file: string
  /** Unique beginning of the names of its clips. */
  stem: string
  sha256: string
  analysis: VideoAnalysis
  pictures: readonly PictureArea[]
}

/** A clip to be cut: everything but what only its own pictures can tell. */
export interface PlannedClip {
  /** Names the result: source bytes and name, range, picture and encoder settings. */
  id: string
  /** Relative to the output folder, without ending. */
  name: string
  source: {
    file: string
    sha256: string
    start: number
    end: number
    width: number
    height: number
    fps: number
    shot: { index: number; start: number; end: number }
  }
  trim: { head: number; tail: number; reason: string; threshold: number }
  crop: Rectangle | null
  /** Size of the clip: even sides. */
  width: number
  height: number
  numFrames: number
  motion: ClipMotion | null
  scores: Record<string, number>
  flags: ClipFlag[]
  /** Motion energy over the whole shot, for the report: step times in seconds and values, a few hundred at most. */
  shotCurve: { time: number[]; energy: number[] }
  /** How far the picture gets from where it was, in picture widths. */
  travel: number
}

/** What becomes of one file: its clips, and every range that was left out with its reason. */
export interface FootagePlan {
  clips: PlannedClip[]
  dropped: DroppedRecord[]
  /** The names of `untrim` and `range` that were found in this file. */
  edited: string[]
}

/** Raised whenever cutting changes what comes out, so that finished clips are cut again. */
const cutVersion = 1

/** Less than this between a margin and the first whole frame is rounding, no trim. */
const leastTrimmed = 0.05

function trimmedLength(seconds: number): number {
  return seconds < leastTrimmed ? 0 : round(seconds)
}

/** Settings that say where clips begin and end and how they are cut. */
export type PlanSettings = Pick<
  PrepareClipsSettings,
  | 'fps'
  | 'speed'
  | 'detector'
  | 'threshold'
  | 'cutMargin'
  | 'trim'
  | 'trimPad'
  | 'keepStill'
  | 'untrim'
  | 'range'
  | 'minDuration'
  | 'maxDuration'
  | 'crop'
  | 'maxSide'
  | 'crf'
  | 'preset'
>

/** Decides which ranges of a file become clips. Reads no disk: everything it needs was measured. */
export function planClips(footage: AnalysedFootage, settings: PlanSettings): FootagePlan {
  const { analysis, file } = footage
  const clips: PlannedClip[] = []
  const dropped: DroppedRecord[] = []
  const edited: string[] = []
  const edits = editsOf(settings)
  const drop = (reason: DropReason, start: number, end: number, detail?: string) =>
    dropped.push({
      type: 'dropped',
      file,
      start: round(start),
      end: round(end),
      reason,
      ...(detail === undefined ? {} : { detail }),
    })

  const list = detectShots(analysis, settings)
  const last = analysis.frames.time.length - 1
  for (const { kind, start, end, firstFrame, lastFrame } of list.transitions) {
    if (kind === 'cut') continue
    // Before the first picture and after the last one it leads nowhere.
    if (kind === 'fade' && (firstFrame === 0 || lastFrame >= last))
      drop('blank', start, end, 'One colour, or too little contrast to see anything.')
    else drop('transition', start, end, `A ${kind}.`)
  }
  for (const shot of list.shots) {
    const range = withMargins(shot, list, settings.cutMargin)
    if (range.end <= range.start) {
      drop('short', shot.start, shot.end, 'The shot is shorter than the margins around its cuts.')
      continue
    }
    const steps = stepsWithin(analysis.steps, range)
    const shotName = clipName(footage.stem, shot.index)
    const edit = edits.get(shotName)
    if (edit) edited.push(shotName)
    const moving = edit
      ? editedRange(edit, shot, range)
      : settings.trim
        ? findMovingRange(steps, range, settings.trimPad)
        : { ...range, moves: true, threshold: stillEnergy, reason: 'Trimming was switched off.' }
    if (!moving.moves && !settings.keepStill) {
      drop('still', range.start, range.end, `${moving.reason} Keep it with --untrim ${shotName}.`)
      continue
    }
    // Frames exist at their own times only: the range begins and ends at frames.
    const exact = snapToFrames(analysis, moving)
    const seconds = (exact.end - exact.start) / settings.speed
    if (seconds < settings.minDuration - 1e-3) {
      drop(
        'short',
        exact.start,
        exact.end,
        `${seconds.toFixed(2)} s of clip, less than the ${settings.minDuration} s of --min-duration.`,
      )
      continue
    }
    const numParts = settings.maxDuration
      ? Math.max(1, Math.ceil(seconds / settings.maxDuration - 1e-6))
      : 1
    const shotCurve = curveOfShot(stepsWithin(analysis.steps, shot))
    for (let part = 0; part < numParts; part++) {
      const at = (share: number) => exact.start + share * (exact.end - exact.start)
      const piece =
        numParts === 1
          ? exact
          : snapToFrames(analysis, { start: at(part / numParts), end: at((part + 1) / numParts) })
      if ((piece.end - piece.start) / settings.speed < settings.minDuration - 1e-3) {
        drop('short', piece.start, piece.end, 'A part of a shot that --max-duration divided.')
        continue
      }
      clips.push(
        planClip(footage, settings, {
          shot,
          range: piece,
          name: numParts === 1 ? shotName : `${shotName}-${part + 1}`,
          shotCurve,
          trim: {
            head: part === 0 ? trimmedLength(Math.max(0, exact.start - range.start)) : 0,
            tail: part === numParts - 1 ? trimmedLength(Math.max(0, range.end - exact.end)) : 0,
            reason: moving.reason,
            threshold: round(moving.threshold, 4),
          },
        }),
      )
    }
    const trimmed = { head: exact.start - range.start, tail: range.end - exact.end }
    if (trimmed.head >= leastTrimmed)
      drop('static', range.start, exact.start, 'Trimmed off the start.')
    if (trimmed.tail >= leastTrimmed) drop('static', exact.end, range.end, 'Trimmed off the end.')
  }
  return { clips, dropped, edited }
}

/** Name of a shot's clip, as `untrim` and `range` take it. */
function clipName(stem: string, shotIndex: number): string {
  return `${stem}_${String(shotIndex + 1).padStart(3, '0')}`
}

/** What was asked for by hand for one clip: its own range, or all of its shot. */
type RangeEdit = { start: number; end: number } | 'untrimmed'

function editsOf({ untrim, range }: Pick<PlanSettings, 'untrim' | 'range'>) {
  const edits = new Map<string, RangeEdit>(untrim.map((name) => [name, 'untrimmed']))
  for (const text of range) {
    const [, name, start, end] = rangeEdit.exec(text)!
    edits.set(name!, { start: Number(start), end: Number(end) })
  }
  return edits
}

/** The range that was asked for, inside the shot: a clip never reaches over a cut. */
function editedRange(
  edit: RangeEdit,
  shot: Shot,
  withoutMargins: { start: number; end: number },
): MovingRange {
  const facts = { moves: true, threshold: stillEnergy }
  if (edit === 'untrimmed')
    return { ...withoutMargins, ...facts, reason: 'The trim was undone by --untrim.' }
  const start = Math.min(Math.max(edit.start, shot.start), shot.end)
  const end = Math.max(start, Math.min(edit.end, shot.end))
  return { start, end, ...facts, reason: 'The range was set by --range.' }
}

function withMargins(
  shot: Shot,
  { transitions }: ShotList,
  margin: number,
): { start: number; end: number } {
  const begins = transitions.some(({ end }) => Math.abs(end - shot.start) < 1e-3)
  const ends = transitions.some(({ start }) => Math.abs(start - shot.end) < 1e-3)
  return {
    start: shot.start + (begins ? margin : 0),
    end: shot.end - (ends ? margin : 0),
  }
}

function stepsWithin(
  steps: readonly MotionStep[],
  { start, end }: { start: number; end: number },
): MotionStep[] {
  let first = 0
  for (let high = steps.length; first < high;) {
    const middle = (first + high) >> 1
    if (steps[middle]!.from < start - 1e-3) first = middle + 1
    else high = middle
  }
  let next = first
  // The end of a shot is the first frame of the next: a step that reaches it measures the cut.
  while (next < steps.length && steps[next]!.to < end - 1e-3) next++
  return steps.slice(first, next)
}

/** Parts of which a curve shows the least and the most, so that no peak is lost: as many as a screen shows. */
const curveParts = 220

/** The motion energy of a shot for drawing: step times and values, of a long shot the extremes of each stretch. */
function curveOfShot(steps: readonly MotionStep[]): PlannedClip['shotCurve'] {
  let shown: number[] = []
  if (steps.length <= 2 * curveParts) shown = Array.from(steps, (_, index) => index)
  else {
    for (let part = 0; part < curveParts; part++) {
      const from = Math.floor((part * steps.length) / curveParts)
      const to = Math.floor(((part + 1) * steps.length) / curveParts)
      let low = from
      let high = from
      for (let at = from; at < to; at++) {
        if (steps[at]!.energy < steps[low]!.energy) low = at
        if (steps[at]!.energy > steps[high]!.energy) high = at
      }
      shown.push(Math.min(low, high), Math.max(low, high))
    }
  }
  return {
    time: shown.map((at) => round((steps[at]!.from + steps[at]!.to) / 2, 3)),
    energy: shown.map((at) => round(steps[at]!.energy, 4)),
  }
}

/** The smallest range of whole frames around the given one, that does not leave it by more than rounding. */
function snapToFrames(
  { frames, probe }: VideoAnalysis,
  { start, end }: { start: number; end: number },
): { start: number; end: number } {
  const { time } = frames
  const first = Math.min(lowerBound(time, start - 1e-3), time.length - 1)
  const next = lowerBound(time, end - 1e-3)
  return {
    start: time[first]!,
    end: time[next] ?? Math.max(probe.duration, time.at(-1)! + 1e-3),
  }
}

function lowerBound(time: readonly number[], moment: number): number {
  let low = 0
  let high = time.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (time[middle]! < moment) low = middle + 1
    else high = middle
  }
  return low
}

function planClip(
  { file, sha256, analysis, pictures }: AnalysedFootage,
  settings: PlanSettings,
  {
    shot,
    range,
    name,
    trim,
    shotCurve,
  }: {
    shot: Shot
    range: { start: number; end: number }
    name: string
    trim: PlannedClip['trim']
    shotCurve: PlannedClip['shotCurve']
  },
): PlannedClip {
  const { probe } = analysis
  const bars = pictures.find(
    (area) =>
      (range.start + range.end) / 2 >= area.start && (range.start + range.end) / 2 < area.end,
  )?.picture
  const crop = chooseCrop(settings.crop, bars, probe)
  const size = clipSize(crop ?? probe, settings.maxSide)
  const seconds = (range.end - range.start) / settings.speed
  const numFrames = Math.max(1, Math.ceil((seconds - 0.0005 / settings.speed) * settings.fps))
  const steps = stepsWithin(analysis.steps, range)
  const motion = classifyMotion(steps)
  if (motion) motion.curve = curveOfFrames(steps, range, settings, numFrames)
  const barArea = bars ? 1 - (bars.width * bars.height) / (probe.width * probe.height) : 0
  const { scores, flags } = scoreRange(analysis, range, steps, settings, barArea)
  if (bars && settings.crop === 'none') flags.push('black-bars')
  if (motion && nameMismatch(file, motion)) flags.push('name-disagrees')
  const id = createHash('sha256')
    .update(
      JSON.stringify([
        cutVersion,
        sha256,
        name,
        range.start.toFixed(6),
        range.end.toFixed(6),
        settings.fps,
        settings.speed,
        crop,
        size,
        settings.crf,
        settings.preset,
      ]),
    )
    .digest('hex')
    .slice(0, 16)
  return {
    id,
    name,
    source: {
      file,
      sha256,
      start: round(range.start, 6),
      end: round(range.end, 6),
      width: probe.width,
      height: probe.height,
      fps: round(probe.fps, 4),
      shot: { index: shot.index, start: round(shot.start, 6), end: round(shot.end, 6) },
    },
    trim,
    crop,
    ...size,
    numFrames,
    motion,
    scores,
    flags,
    shotCurve,
    travel: travelOf(steps),
  }
}

/** How far the camera gets from where it was, along each of its four ways; trembling on the spot gets nowhere. */
function travelOf(steps: readonly MotionStep[]): number {
  const at = [0, 0, 0, 0]
  const low = [0, 0, 0, 0]
  const high = [0, 0, 0, 0]
  for (const step of steps) {
    const seconds = step.to - step.from
    for (const [way, speed] of [step.x, step.y, 0.3 * step.zoom, 0.3 * step.roll].entries()) {
      at[way]! += speed * seconds
      low[way] = Math.min(low[way]!, at[way]!)
      high[way] = Math.max(high[way]!, at[way]!)
    }
  }
  return Math.max(...at.map((_, way) => high[way]! - low[way]!))
}

function chooseCrop(
  wanted: string,
  bars: Rectangle | undefined,
  { width, height }: { width: number; height: number },
): Rectangle | null {
  if (wanted === 'none') return null
  if (wanted === 'bars') return bars ?? null
  const [w, h, x, y] = wanted.match(/\d+/g)!.map(Number) as [number, number, number, number]
  // Footage of several sizes may be in one folder: what the rectangle leaves of this one.
  const left = Math.min(x, width - 1)
  const top = Math.min(y, height - 1)
  return {
    x: left,
    y: top,
    width: Math.max(1, Math.min(w, width - left)),
    height: Math.max(1, Math.min(h, height - top)),
  }
}

function clipSize(
  { width, height }: { width: number; height: number },
  maxSide: number | undefined,
): { width: number; height: number } {
  const scale = Math.min(1, (maxSide ?? Infinity) / Math.max(width, height))
  const even = (side: number) =>
    Math.max(2, scale === 1 ? side & ~1 : 2 * Math.round((side * scale) / 2))
  return { width: even(width), height: even(height) }
}

/** The energy of the step that each frame of the clip lies in. */
function curveOfFrames(
  steps: readonly MotionStep[],
  { start }: { start: number },
  { fps, speed }: PlanSettings,
  numFrames: number,
): number[] {
  const curve: number[] = []
  let index = 0
  for (let frame = 0; frame < numFrames; frame++) {
    const moment = start + (frame * speed) / fps
    while (index + 1 < steps.length && steps[index]!.to <= moment) index++
    curve.push(round(steps[index]!.energy, 4))
  }
  return curve
}

// --- Scores of a range ----------------------------------------------------------------------------------------------

/** Frames that differ by less than this are the same picture, in gray levels: what decoding twice would leave. */
const repeatChange = 0.05
const freezeSeconds = 0.5
const mostClipped = 0.15
const darkMean = 40
/** Share of repeated frames among moving ones from which footage juddered: a third is 24 in 36, a half 30 in 60. */
const judderShare = 0.2
const lowMotion = 0.05
/** Sway over way: how much of the camera's path is to and fro. */
const shakyEnergy = 0.25

function scoreRange(
  analysis: VideoAnalysis,
  { start, end }: { start: number; end: number },
  steps: readonly MotionStep[],
  { fps, speed }: PlanSettings,
  barArea: number,
): { scores: Record<string, number>; flags: ClipFlag[] } {
  const { frames } = analysis
  const first = lowerBound(frames.time, start - 1e-3)
  const last = Math.max(first, lowerBound(frames.time, end - 1e-3) - 1)
  const mean = (list: readonly number[]) => {
    let sum = 0
    for (let index = first; index <= last; index++) sum += list[index]!
    return sum / (last - first + 1)
  }
  let repeats = 0
  let still = 0
  let longestFreeze = 0
  let freezeFrom = frames.time[first]!
  for (let index = first + 1; index <= last; index++) {
    if (frames.change[index]! < repeatChange) {
      repeats++
      still = frames.time[index]! - freezeFrom
      longestFreeze = Math.max(longestFreeze, still)
    } else freezeFrom = frames.time[index]!
  }
  const energy = steps.reduce((sum, step) => sum + step.energy * (step.to - step.from), 0)
  const seconds = steps.reduce((sum, step) => sum + (step.to - step.from), 0)
  // Of the picture without its bars, which are black (16) and part of every frame's measures.
  const inside = 1 - barArea
  const black = Math.max(0, mean(frames.black) - barArea) / inside
  const white = mean(frames.white) / inside
  const brightness = (mean(frames.mean) - 16 * barArea) / inside
  const motionEnergy = seconds > 0 ? energy / seconds : 0
  const repeated = repeats / Math.max(1, last - first)
  const shake = shakeOf(steps)
  const scores = {
    brightness: round(brightness, 1),
    contrast: round(mean(frames.deviation), 1),
    black: round(black, 3),
    white: round(white, 3),
    motionEnergy: round(motionEnergy, 4),
    shake: round(shake, 4),
    repeatedFrames: round(repeated, 3),
    longestFreeze: round(longestFreeze, 3),
    barArea: round(barArea, 4),
  }
  const flags: ClipFlag[] = []
  if (brightness < darkMean || black > mostClipped) flags.push('dark')
  if (white > mostClipped) flags.push('overexposed')
  if (longestFreeze >= freezeSeconds && motionEnergy >= lowMotion) flags.push('frozen')
  else if (repeated >= judderShare && motionEnergy >= lowMotion) flags.push('judder')
  if (shake >= shakyEnergy) flags.push('shaky')
  if (motionEnergy < lowMotion) flags.push('low-motion')
  const sourceFps = (last - first + 1) / Math.max(end - start, 1e-3)
  if (sourceFps * speed < 0.9 * fps) flags.push('few-frames')
  if (analysis.numDecodeErrors > 0) flags.push('decode-errors')
  return { scores, flags }
}

/** Mean speed of the camera's path about its own average over half a second, in picture widths a second. */
function shakeOf(steps: readonly MotionStep[]): number {
  let sum = 0
  let seconds = 0
  for (let index = 0; index < steps.length; index++) {
    let x = 0
    let y = 0
    let count = 0
    for (
      let other = Math.max(0, index - 3);
      other <= Math.min(steps.length - 1, index + 3);
      other++
    ) {
      x += steps[other]!.x
      y += steps[other]!.y
      count++
    }
    const step = steps[index]!
    const length = step.to - step.from
    sum += Math.hypot(step.x - x / count, step.y - y / count) * length
    seconds += length
  }
  return seconds > 0 ? sum / seconds : 0
}

function round(value: number, digits = 4): number {
  const scale = 10 ** digits
  return Math.round(value * scale) / scale
}
