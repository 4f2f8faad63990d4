import { candidateDissimilarity } from './analyse-video.ts'
import { dissimilarity } from './frame-signature.ts'
import type { VideoAnalysis } from './video-analysis.ts'

/** One shot: frames `[first, last]`, both inclusive, seen from the frame list of the analysis. */
export interface Shot {
  index: number
  firstFrame: number
  lastFrame: number
  /** In seconds from the first frame of the file; `end` is exclusive. */
  start: number
  end: number
}

/** What lies between two shots. A cut lasts no time; `firstFrame` is the first frame of the new shot. */
export interface Transition {
  kind: 'cut' | 'dissolve' | 'fade'
  start: number
  end: number
  /** First frame after the cut; first and last frames that show the dissolve or fade. */
  firstFrame: number
  lastFrame: number
  score: number
}

/** A video as shots, in order, and what lies between them. */
export interface ShotList {
  shots: Shot[]
  transitions: Transition[]
}

/** How shots are told apart, by name. */
export const shotDetectors = {
  /** Colour and structure together, with flashes bridged, dissolves and fades (after Koala-36M's colour and structure). */
  'color-structure': detectByColorAndStructure,
  /** PySceneDetect's ContentDetector: a fixed threshold of the change of hue, saturation and value. Hard cuts only. */
  content: detectByContent,
  /** PySceneDetect's AdaptiveDetector: the same change beside its neighbours. Hard cuts only. */
  adaptive: detectByAdaptiveContent,
} satisfies Record<string, (analysis: VideoAnalysis, threshold: number | undefined) => Transition[]>

export type ShotDetector = keyof typeof shotDetectors

/**
 * Splits a video into shots.
 *
 * @param threshold of the detector in its own unit; not set: its default
 */
export function detectShots(
  analysis: VideoAnalysis,
  { detector, threshold }: { detector: ShotDetector; threshold?: number | undefined },
): ShotList {
  const transitions = shotDetectors[detector](analysis, threshold)
  const { time } = analysis.frames
  const end = analysis.probe.duration
  const shots: Shot[] = []
  let firstFrame = 0
  const close = (lastFrame: number) => {
    if (lastFrame < firstFrame) return
    shots.push({
      index: shots.length,
      firstFrame,
      lastFrame,
      start: time[firstFrame]!,
      end: time[lastFrame + 1] ?? Math.max(end, time[lastFrame]!),
    })
  }
  for (const transition of transitions) {
    close(transition.firstFrame - 1)
    firstFrame = transition.kind === 'cut' ? transition.firstFrame : transition.lastFrame + 1
  }
  close(time.length - 1)
  return { shots, transitions }
}

// --- Colour and structure -------------------------------------------------------------------------------------------

/**
 * Dissimilarity from which a lone jump is a cut. Two unrelated pictures differ by 0.45 and more (they share at most half
 * their colours and none of their edges); a shaken camera, with no edge in place, stays below 0.4 because its colours stay.
 */
const sureCut = 0.42
/** A sure jump must still stand out from its neighbours, which whip pans and strobe light do not. */
const sureContrast = 1.3
/** Below `sureCut`, down to the candidates' 0.2 (a cut between two views of one scene), it must stand out by this factor. */
const unsureContrast = 3
/** Structure always changes at a cut; a change of light alone leaves at least 0.7 of the edges' correlation. */
const leastStructure = 0.3
/** How far around a jump its neighbours are looked at, in seconds. */
const neighbourSeconds = 0.12
/** Two cuts closer than this are one (a blended frame, the end of a flash): the eye needs longer to see a picture. */
const leastShotSeconds = 0.12

function detectByColorAndStructure(
  analysis: VideoAnalysis,
  threshold: number | undefined,
): Transition[] {
  const { frames } = analysis
  const { time, structure } = frames
  const sure = threshold ?? sureCut
  const value = frames.color.map((color, index) =>
    dissimilarity({ color, structure: structure[index]! }),
  )
  const flash = flashFrames(frames.backAfter)
  const fades = findFades(analysis)

  const cuts: Transition[] = []
  for (let index = 1; index < time.length; index++) {
    const jump = value[index]!
    if (jump < candidateDissimilarity || structure[index]! < leastStructure || flash[index])
      continue
    if (fades.some((fade) => index >= fade.firstFrame && index <= fade.lastFrame + 1)) continue
    let neighbour = 0
    for (const step of [-1, 1]) {
      for (let other = index + step; other > 0 && other < time.length; other += step) {
        if (Math.abs(time[other]! - time[index]!) > neighbourSeconds) break
        if (!flash[other]) neighbour = Math.max(neighbour, value[other]!)
      }
    }
    const contrast = jump / Math.max(neighbour, 1e-3)
    if (!(jump >= sure ? contrast >= sureContrast : contrast >= unsureContrast)) continue
    const last = cuts.at(-1)
    const cut = newCut(time, index, jump)
    if (last && time[index]! - last.start < leastShotSeconds) {
      if (jump > last.score) cuts[cuts.length - 1] = cut
    } else cuts.push(cut)
  }
  const dissolves = findDissolves(analysis, cuts, fades)
  return [...cuts, ...fades, ...dissolves].sort((a, b) => a.start - b.start)
}

function newCut(time: readonly number[], index: number, score: number): Transition {
  return {
    kind: 'cut',
    start: time[index]!,
    end: time[index]!,
    firstFrame: index,
    lastFrame: index,
    score,
  }
}

/** Marks the jumps into, during and out of flashes. */
function flashFrames(backAfter: readonly number[]): Uint8Array {
  const marks = new Uint8Array(backAfter.length)
  for (let index = 0; index < backAfter.length; index++) {
    const length = backAfter[index]!
    if (length > 0) marks.fill(1, index, index + length + 1)
  }
  return marks
}

/** Contrast below which a picture is blank, in gray levels. */
const blankDeviation = 4
const leastBlankSeconds = 0.08
const longestFadeSeconds = 3

/** Blank stretches (black, white, one colour) together with the ramps that lead into and out of them. */
function findFades(analysis: VideoAnalysis): Transition[] {
  const { time, deviation } = analysis.frames
  const fades: Transition[] = []
  for (let index = 0; index < time.length; index++) {
    if (deviation[index]! >= blankDeviation) continue
    let last = index
    while (last + 1 < time.length && deviation[last + 1]! < blankDeviation) last++
    const endTime = time[last + 1] ?? analysis.probe.duration
    if (endTime - time[index]! >= leastBlankSeconds) {
      const firstFrame = rampEnd(time, deviation, index, -1)
      const lastFrame = rampEnd(time, deviation, last, 1)
      const before = fades.at(-1)
      if (before && firstFrame <= before.lastFrame + 1) {
        before.lastFrame = lastFrame
        before.end = time[lastFrame + 1] ?? endTime
      } else {
        fades.push({
          kind: 'fade',
          start: time[firstFrame]!,
          end: time[lastFrame + 1] ?? Math.max(endTime, time[lastFrame]!),
          firstFrame,
          lastFrame,
          score: 1,
        })
      }
    }
    index = last
  }
  return fades
}

/** Follows rising contrast away from a blank stretch: a fade rises frame by frame, a cut jumps. */
function rampEnd(
  time: readonly number[],
  deviation: readonly number[],
  from: number,
  step: 1 | -1,
): number {
  let at = from
  let stalled = 0
  let top = from
  for (;;) {
    const next = at + step
    if (next < 0 || next >= time.length) break
    if (Math.abs(time[next]! - time[from]!) > longestFadeSeconds) break
    const rise = deviation[next]! - deviation[at]!
    // A jump of more than 15 levels (from black: a third of a usual picture's contrast) is the picture itself.
    if (at === from && rise > 15) break
    if (rise > 0.02 * deviation[next]!) {
      stalled = 0
      top = next
    } else if (++stalled > 1) break
    at = next
  }
  return top
}

/** How sure the best window of a dissolve must be. */
const leastDissolveScore = 0.24

/** Joins the windows of the scan that overlap and keeps those that no cut explains. */
function findDissolves(
  analysis: VideoAnalysis,
  cuts: readonly Transition[],
  fades: readonly Transition[],
): Transition[] {
  const { time } = analysis.frames
  const windows = analysis.gradual
    .filter(({ score }) => score >= leastDissolveScore)
    .toSorted((a, b) => b.score - a.score)
  const found: Transition[] = []
  for (const window of windows) {
    const overlaps = (other: { start: number; end: number }) =>
      window.from < other.end + 0.1 && window.to > other.start - 0.1
    if (found.some(overlaps) || cuts.some(overlaps) || fades.some(overlaps)) continue
    const start = Math.max(0, window.from)
    const end = Math.min(analysis.probe.duration, window.to)
    const firstFrame = firstAtOrAfter(time, start)
    const lastFrame = Math.max(firstFrame, firstAtOrAfter(time, end) - 1)
    if (firstFrame === 0 || lastFrame >= time.length - 1) continue
    found.push({
      kind: 'dissolve',
      // At frames, as shots are: margins are dropped where a shot meets a transition.
      start: time[firstFrame]!,
      end: time[lastFrame + 1]!,
      firstFrame,
      lastFrame,
      score: window.score,
    })
  }
  return found
}

/** Index of the first frame whose time is not below `moment`; the length of the list when all are. */
export function firstAtOrAfter(time: readonly number[], moment: number): number {
  let low = 0
  let high = time.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (time[middle]! < moment - 1e-6) low = middle + 1
    else high = middle
  }
  return low
}

// --- PySceneDetect's detectors --------------------------------------------------------------------------------------

/** Their own defaults: threshold 27, 15 frames at least between cuts; adaptive ratio 3 over 2 frames each side, content 15. */
const contentThreshold = 27
const adaptiveThreshold = 3
const adaptiveWindow = 2
const adaptiveContent = 15
const leastSceneFrames = 15

function detectByContent(analysis: VideoAnalysis, threshold = contentThreshold): Transition[] {
  const { time, content } = analysis.frames
  return spaced(time, content, (index) => content[index]! >= threshold)
}

function detectByAdaptiveContent(
  analysis: VideoAnalysis,
  threshold = adaptiveThreshold,
): Transition[] {
  const { time, content } = analysis.frames
  return spaced(time, content, (index) => {
    const value = content[index]!
    if (value < adaptiveContent) return false
    let sum = 0
    for (let other = index - adaptiveWindow; other <= index + adaptiveWindow; other++)
      if (other !== index) sum += content[other] ?? 0
    const mean = sum / (2 * adaptiveWindow)
    return mean < 1e-5 ? true : value / mean >= threshold
  })
}

function spaced(
  time: readonly number[],
  content: readonly number[],
  isCut: (index: number) => boolean,
): Transition[] {
  const cuts: Transition[] = []
  let last = 0
  for (let index = 1; index < time.length; index++) {
    if (!isCut(index) || index - last < leastSceneFrames) continue
    cuts.push(newCut(time, index, content[index]!))
    last = index
  }
  return cuts
}
