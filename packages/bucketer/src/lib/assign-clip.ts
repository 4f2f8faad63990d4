import type { PlanItem } from '@kinora/config-schema'
import { createHash } from 'node:crypto'
import { aiToolkitBucket, areaBucket, nearestSize, placeFrame, type Size } from './bucket-grid.ts'
import {
  autoNumFrames,
  headFrameIndices,
  longestNumFrames,
  realTimeFrameIndices,
  realTimeSpan,
  strideFrameIndices,
  uniformFrameIndices,
} from './frame-times.ts'
import type { DatasetSettings } from './options.ts'

/** What bucketer must know of a clip; a clip record of a manifest is one. */
export interface PlanClip {
  /** As it will stand in the plan. */
  file: string
  sha256?: string | undefined
  /** Pixels of the picture as shown. */
  width: number
  height: number
  /** Frames a second. */
  fps: number
  numFrames: number
}

/**
 * Why a clip, or a sample of it, is not in the plan.
 *
 * - `too-short`: fewer frames than the shortest sample allowed
 * - `too-small`: no bucket without enlarging it
 * - `single-frame`: one frame, where the sample has several
 * - `same-size`: a smaller resolution already uses it at this very size
 * - `leftover`: its samples did not fill a batch (`lastBatch: 'drop'`)
 * - `missing-file`, `unreadable`: the file is not there, or is no video
 */
export type SkipReason =
  | 'too-short'
  | 'too-small'
  | 'single-frame'
  | 'same-size'
  | 'leftover'
  | 'missing-file'
  | 'unreadable'

/** The bucket of a clip and its samples, or why there is none. */
export type Assignment =
  | { bucket: Size & { numFrames: number; resolution: number }; items: PlanItem[] }
  | { reason: SkipReason; detail: string }

/**
 * Samples of one clip at one resolution (or, with sizes, at the fitting size): a pure function of the clip's facts, the
 * settings and the seed.
 */
export function assignClip(
  clip: PlanClip,
  dataset: number,
  settings: DatasetSettings,
  resolution: number | undefined,
): Assignment {
  const bucket = chooseSize(clip, settings, resolution)
  if (!bucket) {
    return {
      reason: 'too-small',
      detail: `${clip.width}x${clip.height} fits no bucket without being enlarged.`,
    }
  }
  const numFrames = chooseNumFrames(clip, settings)
  if (typeof numFrames !== 'number') return numFrames
  const items: PlanItem[] = []
  for (let repeat = 0; repeat < settings.repeats; repeat++) {
    for (const window of chooseFrames(clip, numFrames, repeat, settings)) {
      const placement = placeFrame(clip, bucket, {
        fit: settings.fit,
        upscale: settings.upscale,
        rounding: settings.rule === 'ai-toolkit' ? 'up' : 'nearest',
        ...(settings.cropPosition === 'random' && {
          at: [
            draw(settings.seed, clip, repeat, 'across'),
            draw(settings.seed, clip, repeat, 'down'),
          ],
        }),
      })
      const item: PlanItem = {
        clip: clip.file,
        ...(clip.sha256 !== undefined && { clipSha256: clip.sha256 }),
        dataset,
        frameIndices: window.frameIndices,
        speedUp: window.speedUp,
        ...placement,
        flip: false,
        weight: settings.weight,
        regularisation: settings.regularisation,
      }
      items.push(...flipped(item, settings))
    }
  }
  return {
    bucket: {
      ...bucket,
      numFrames,
      resolution: resolution ?? Math.ceil(Math.sqrt(bucket.width * bucket.height)),
    },
    items,
  }
}

function chooseSize(
  clip: PlanClip,
  settings: DatasetSettings,
  resolution: number | undefined,
): Size | undefined {
  if (resolution === undefined) return nearestSize(clip, parseSizes(settings.sizes ?? []), settings)
  if (settings.rule === 'ai-toolkit') return aiToolkitBucket(clip, resolution, settings.divisor)
  return areaBucket(clip, { ...settings, resolution })
}

/** Sizes written as 832x480. */
export function parseSizes(sizes: readonly string[]): Size[] {
  return sizes.map((size) => {
    const [width = 0, height = 0] = size.split('x').map(Number)
    return { width, height }
  })
}

function chooseNumFrames(
  clip: PlanClip,
  settings: DatasetSettings,
): number | { reason: SkipReason; detail: string } {
  const ratio = clip.fps / settings.fps
  const shortest = settings.numFrames.at(-1)!
  if (clip.numFrames === 1 && shortest > 1) {
    return { reason: 'single-frame', detail: `One frame, and samples have ${shortest} or more.` }
  }
  if (settings.frameRule === 'ai-toolkit') {
    if (!settings.autoNumFrames) return settings.numFrames[0]!
    const duration = clip.numFrames / clip.fps
    return autoNumFrames(duration, settings.fps, settings.frameMode !== 'uniform')
  }
  const longest = longestNumFrames(clip.numFrames, ratio)
  const allowed = settings.autoNumFrames
    ? longest
    : settings.numFrames.find((numFrames) => numFrames <= longest)
  const least = settings.autoNumFrames
    ? settings.minNumFrames
    : Math.min(settings.minNumFrames, shortest)
  if (allowed !== undefined && allowed >= least) return allowed
  if (!settings.autoNumFrames) {
    if (settings.shortClips === 'snap' && longest >= least) return longest
    if (settings.shortClips === 'stretch') return shortest
  }
  const wanted = settings.shortClips === 'skip' && !settings.autoNumFrames ? shortest : least
  return {
    reason: 'too-short',
    detail: `${clip.numFrames} frames at ${round(clip.fps)} fps hold ${longest} at ${settings.fps} fps, and ${wanted} are needed.`,
  }
}

interface Window {
  frameIndices: number[]
  speedUp: number
}

function chooseFrames(
  clip: PlanClip,
  numFrames: number,
  repeat: number,
  settings: DatasetSettings,
): Window[] {
  const ratio = clip.fps / settings.fps
  const measured = (frameIndices: number[]): Window => ({
    frameIndices,
    speedUp: speedUp(frameIndices, ratio),
  })
  if (settings.frameRule === 'ai-toolkit') {
    return [measured(aiToolkitFrames(clip, numFrames, ratio, repeat, settings))]
  }
  const span = realTimeSpan(numFrames, ratio)
  if (settings.frameMode === 'uniform' || span > clip.numFrames) {
    return [measured(uniformFrameIndices(clip.numFrames, numFrames))]
  }
  const slack = clip.numFrames - span
  // Each frame is the one nearest to its moment, so the speed is 1 although the last index may be rounded.
  const realTime = (firstFrame: number): Window => ({
    frameIndices: realTimeFrameIndices(firstFrame, numFrames, ratio),
    speedUp: 1,
  })
  switch (settings.frameMode) {
    case 'head':
      return [realTime(0)]
    case 'real-time':
      return [realTime(windowStart(clip, slack, repeat, settings))]
    case 'slide':
    case 'chunk': {
      const stride =
        settings.frameMode === 'chunk'
          ? numFrames
          : (settings.slideStride ?? Math.max(1, Math.floor(numFrames / 2)))
      const windows: Window[] = []
      for (let k = 0; ; k++) {
        const firstFrame = Math.floor(k * stride * ratio + 0.5)
        if (firstFrame > slack) return windows
        windows.push(realTime(firstFrame))
      }
    }
    default:
      return settings.frameMode satisfies never
  }
}

function aiToolkitFrames(
  clip: PlanClip,
  numFrames: number,
  ratio: number,
  repeat: number,
  settings: DatasetSettings,
): number[] {
  if (settings.frameMode === 'uniform') return uniformFrameIndices(clip.numFrames, numFrames)
  if (settings.autoNumFrames) return headFrameIndices(clip.numFrames, numFrames, ratio)
  if (settings.frameMode === 'head') return strideFrameIndices(clip.numFrames, numFrames, ratio, 0)
  const unit = draw(settings.seed, clip, repeat, 'window')
  return strideFrameIndices(clip.numFrames, numFrames, ratio, unit)
}

/** Repeats share the room out, so that together they see all of the clip. */
function windowStart(
  clip: PlanClip,
  slack: number,
  repeat: number,
  settings: DatasetSettings,
): number {
  switch (settings.windowStart) {
    case 'start':
      return 0
    case 'centre':
      return Math.floor(slack / 2)
    case 'random': {
      const unit = draw(settings.seed, clip, repeat, 'window')
      return Math.floor(((repeat + unit) / settings.repeats) * (slack + 1))
    }
    default:
      return settings.windowStart satisfies never
  }
}

/** Clip time a second of the sample, to four places; 1 for a single frame. */
function speedUp(frameIndices: readonly number[], ratio: number): number {
  if (frameIndices.length === 1) return 1
  const clipTime = (frameIndices.at(-1)! - frameIndices[0]!) / ratio
  return Math.max(0.0001, Math.round((clipTime / (frameIndices.length - 1)) * 1e4) / 1e4)
}

/** AI Toolkit's order: a mirrored copy, then copies turned upside down of everything so far. */
function flipped(item: PlanItem, settings: DatasetSettings): PlanItem[] {
  const items = settings.flipX ? [item, { ...item, flip: true }] : [item]
  return settings.flipY
    ? [...items, ...items.map((each) => ({ ...each, flipVertical: true }))]
    : items
}

/** A number in [0, 1) that depends on the seed, the clip and the purpose, not on what else is in the dataset. */
export function draw(seed: number, clip: PlanClip, repeat: number, purpose: string): number {
  const digest = createHash('sha256')
    .update(JSON.stringify([seed, clip.sha256 ?? clip.file, repeat, purpose]))
    .digest()
  return digest.readUIntBE(0, 6) / 2 ** 48
}

function round(value: number): number {
  return Math.round(value * 100) / 100
}
