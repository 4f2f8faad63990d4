import { describe, expect, it } from 'vitest'
import { motionStep } from '../../test/motion-step.ts'
import type { MotionStep } from './motion-step.ts'
import { prepareClipsOptions } from './options.ts'
import { planClips, type PlannedClip } from './plan-clips.ts'
import type { VideoAnalysis } from './video-analysis.ts'

const stepSeconds = 1 / 15
const settings = (options: object) =>
  prepareClipsOptions.parse({ source: 's', out: 'o', ...options })

/** Footage of one shot in which the camera pans evenly, with a jerk of one and a half seconds at `jerkAt`. */
function panning(seconds: number, jerkAt = seconds / 2): VideoAnalysis {
  const numFrames = Math.round(seconds * 30)
  const flat = (value: number) => Array.from({ length: numFrames }, () => value)
  const steps = Array.from(
    { length: Math.floor(seconds / stepSeconds) },
    (_, index): MotionStep => {
      const from = index * stepSeconds
      const energy = from >= jerkAt && from < jerkAt + 1.5 ? 0.9 : 0.2
      return motionStep({ from, to: from + stepSeconds, x: -energy, energy })
    },
  )
  return {
    version: 1,
    probe: {
      sizeBytes: 1,
      container: 'mov,mp4',
      codec: 'h264',
      pixFmt: 'yuv420p',
      width: 640,
      height: 360,
      codedWidth: 640,
      codedHeight: 360,
      rotation: 0,
      pixelAspect: 1,
      fps: 30,
      nominalFps: 30,
      vfr: false,
      frameGap: { min: 1 / 30, max: 1 / 30 },
      numFrames,
      duration: seconds,
      startTime: 0,
      interlaced: false,
      hdr: null,
      colorSpace: 'bt709',
      fullRange: false,
      numAudioStreams: 0,
      truncated: null,
    },
    width: 192,
    height: 108,
    frames: {
      time: Array.from({ length: numFrames }, (_, index) => index / 30),
      color: flat(0.01),
      structure: flat(0.1),
      content: flat(2),
      backAfter: flat(0),
      change: flat(3),
      mean: flat(110),
      deviation: flat(40),
      black: flat(0),
      white: flat(0),
    },
    steps,
    borders: steps.map(() => ({ top: 0, bottom: 0, left: 0, right: 0 })),
    gradual: [],
    numDecodeErrors: 0,
  }
}

const plan = (analysis: VideoAnalysis, options: object = {}) =>
  planClips(
    { file: 'a.mp4', stem: 'a', sha256: '0'.repeat(64), analysis, pictures: [] },
    settings(options),
  )

describe('planClips', () => {
  it('divides a long shot into equal parts without a gap', () => {
    const { clips } = plan(panning(25), { maxDuration: 10 })
    expect(clips.map(({ name }) => name)).toEqual(['a_001-1', 'a_001-2', 'a_001-3'])
    expect(clips[0]!.source.start).toBe(0)
    for (const [index, clip] of clips.slice(1).entries())
      expect(clip.source.start).toBe(clips[index]!.source.end)
    expect(clips.at(-1)!.source.end).toBe(25)
    for (const clip of clips) {
      expect(clip.numFrames).toBeGreaterThanOrEqual(133)
      expect(clip.motion?.curve).toHaveLength(clip.numFrames)
    }
  })

  it('shares one short curve among the parts of hours, and loses no peak of it', () => {
    const { clips } = plan(panning(3600), { maxDuration: 5 })
    expect(clips).toHaveLength(720)
    const curves = new Set<PlannedClip['shotCurve']>(clips.map(({ shotCurve }) => shotCurve))
    expect(curves.size).toBe(1)
    const [{ time, energy }] = [...curves] as [PlannedClip['shotCurve']]
    expect(time.length).toBeLessThanOrEqual(440)
    expect(Math.max(...energy)).toBe(0.9)
    expect(time).toEqual(time.toSorted((a, b) => a - b))
  })

  it('takes a range by hand only inside the shot', () => {
    const { clips, edited, dropped } = plan(panning(8), {
      range: ['a_001=6-20'],
      untrim: ['b_001'],
    })
    expect(edited).toEqual(['a_001'])
    expect(clips[0]!.source).toMatchObject({ start: 6, end: 8 })
    expect(clips[0]!.trim).toMatchObject({
      head: 6,
      tail: 0,
      reason: 'The range was set by --range.',
    })
    expect(dropped.map(({ reason }) => reason)).toEqual(['static'])
    expect(plan(panning(8), { range: ['a_001=9-12'] }).clips).toEqual([])
  })

  it('counts frames of clip at the speed that was asked for', () => {
    expect(plan(panning(8), { speed: 2 }).clips[0]!.numFrames).toBe(64)
    expect(plan(panning(8), { speed: 0.5, fps: 24 }).clips[0]!.numFrames).toBe(384)
  })
})
