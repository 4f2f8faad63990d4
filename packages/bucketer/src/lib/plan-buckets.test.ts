import { bucketPlanSchema } from '@kinora/config-schema'
import { isCodedError } from '@kinora/stage'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { PlanClip } from './assign-clip.ts'
import { uniformFrameIndices } from './frame-times.ts'
import type { PlanBucketsOptions } from './options.ts'
import { planBuckets } from './plan-buckets.ts'

function clip(file: string, facts: Partial<PlanClip> = {}): PlanClip {
  return { file, width: 1280, height: 720, fps: 16, numFrames: 81, ...facts }
}

function plan(clips: PlanClip[], options: PlanBucketsOptions = {}) {
  return planBuckets([{ clips }], options).plan
}

const clips = fc.uniqueArray(
  fc.record({
    file: fc.integer({ min: 0, max: 999 }).map((n) => `clips/${n}.mp4`),
    width: fc.integer({ min: 8, max: 2000 }),
    height: fc.integer({ min: 8, max: 2000 }),
    fps: fc.constantFrom(8, 15, 16, 23.976, 24, 25, 29.97, 60),
    numFrames: fc.integer({ min: 1, max: 400 }),
  }),
  { selector: ({ file }) => file, minLength: 1, maxLength: 12 },
)
const options: fc.Arbitrary<PlanBucketsOptions> = fc.record({
  resolutions: fc.uniqueArray(fc.integer({ min: 48, max: 1024 }), { minLength: 1, maxLength: 3 }),
  numFrames: fc.oneof(
    fc.integer({ min: 1, max: 121 }),
    fc.array(fc.integer({ min: 1, max: 121 }), { minLength: 1, maxLength: 3 }),
  ),
  autoNumFrames: fc.boolean(),
  frameMode: fc.constantFrom('real-time', 'uniform', 'head', 'slide', 'chunk'),
  windowStart: fc.constantFrom('random', 'start', 'centre'),
  shortClips: fc.constantFrom('snap', 'skip', 'stretch'),
  fit: fc.constantFrom('crop', 'pad'),
  cropPosition: fc.constantFrom('centre', 'random'),
  divisor: fc.constantFrom(16 as const, 32 as const),
  upscale: fc.boolean(),
  repeats: fc.integer({ min: 1, max: 3 }),
  flipX: fc.boolean(),
  flipY: fc.boolean(),
  batchSize: fc.integer({ min: 1, max: 4 }),
  lastBatch: fc.constantFrom('repeat', 'short', 'drop'),
  seed: fc.nat(),
})

function withShuffle(some: PlanClip[]): fc.Arbitrary<[PlanClip[], PlanClip[]]> {
  return fc.tuple(fc.constant(some), fc.shuffledSubarray(some, { minLength: some.length }))
}

/** Undefined where no clip fits, which is an error of its own. */
function tryPlan(some: PlanClip[], chosen: PlanBucketsOptions) {
  try {
    return plan(some, chosen)
  } catch (error) {
    if (isCodedError(error, 'BUCKETER_NO_BUCKET_FITS')) return undefined
    throw error
  }
}

describe('every plan', () => {
  it('is a valid plan file', () => {
    fc.assert(
      fc.property(clips, options, (some, chosen) => {
        const made = tryPlan(some, chosen)
        if (made) expect(bucketPlanSchema.parse(JSON.parse(JSON.stringify(made)))).toEqual(made)
      }),
    )
  })

  it('puts every clip in exactly one bucket a resolution, or lists it with a reason', () => {
    fc.assert(
      fc.property(clips, options, (some, chosen) => {
        const made = tryPlan(some, chosen)
        if (!made) return
        for (const { file } of some) {
          for (const resolution of chosen.resolutions!) {
            const homes = made.buckets.filter(
              (bucket) =>
                bucket.resolution === resolution && bucket.items.some((item) => item.clip === file),
            )
            const reasons = new Set(
              made.skipped
                .filter((entry) => entry.clip === file && entry.resolution === resolution)
                .map(({ reason }) => reason),
            )
            expect(homes.length).toBeLessThanOrEqual(1)
            if (homes.length === 0) expect(reasons.size).toBe(1)
            // A clip that is used can only have lost samples that filled no batch.
            else reasons.forEach((reason) => expect(reason).toBe('leftover'))
          }
        }
      }),
    )
  })

  it('reads frames of the clip only, in time order, as many as the bucket says', () => {
    fc.assert(
      fc.property(clips, options, (some, chosen) => {
        const byFile = new Map(some.map((each) => [each.file, each]))
        for (const bucket of tryPlan(some, chosen)?.buckets ?? []) {
          expect(bucket.numFrames % 4).toBe(1)
          for (const { clip: file, frameIndices } of bucket.items) {
            expect(frameIndices).toHaveLength(bucket.numFrames)
            expect(Math.min(...frameIndices)).toBeGreaterThanOrEqual(0)
            expect(Math.max(...frameIndices)).toBeLessThan(byFile.get(file)!.numFrames)
            expect(frameIndices).toEqual(frameIndices.toSorted((a, b) => a - b))
          }
        }
      }),
    )
  })

  it('keeps every bucket within its area budget, on the grid', () => {
    fc.assert(
      fc.property(clips, options, (some, chosen) => {
        for (const { width, height, resolution } of tryPlan(some, chosen)?.buckets ?? []) {
          expect(width * height).toBeLessThanOrEqual(resolution * resolution)
          expect([width % chosen.divisor!, height % chosen.divisor!]).toEqual([0, 0])
        }
      }),
    )
  })

  it('is the same whatever the order of the clips', () => {
    fc.assert(
      fc.property(clips.chain(withShuffle), options, ([some, shuffled], chosen) => {
        expect(tryPlan(shuffled, chosen)).toEqual(tryPlan(some, chosen))
      }),
    )
  })

  it('fills its batches, unless told to leave the last one short', () => {
    fc.assert(
      fc.property(clips, options, (some, chosen) => {
        for (const { items, batchSize } of tryPlan(some, chosen)?.buckets ?? []) {
          if (chosen.lastBatch !== 'short') expect(items.length % batchSize).toBe(0)
        }
      }),
    )
  })

  it('plays at the true speed in every mode but uniform, unless a short clip is stretched', () => {
    fc.assert(
      fc.property(clips, options, (some, chosen) => {
        if (chosen.frameMode === 'uniform' || chosen.shortClips === 'stretch') return
        for (const { items } of tryPlan(some, chosen)?.buckets ?? []) {
          items.forEach(({ speedUp }) => expect(speedUp).toBe(1))
        }
      }),
    )
  })
})

describe('frame modes', () => {
  const long = clip('a.mp4', { numFrames: 100 })
  const windows = (chosen: PlanBucketsOptions) =>
    plan([long], { numFrames: 33, ...chosen }).buckets[0]!.items.map(({ frameIndices }) => [
      frameIndices[0],
      frameIndices.at(-1),
    ])

  it('head takes one window from the start', () => {
    expect(windows({ frameMode: 'head' })).toEqual([[0, 32]])
  })

  it('chunk takes windows one after another and leaves the rest', () => {
    expect(windows({ frameMode: 'chunk' })).toEqual([
      [0, 32],
      [33, 65],
      [66, 98],
    ])
  })

  it('slide takes windows half a window apart, or as far as told', () => {
    expect(windows({ frameMode: 'slide' }).map(([start]) => start)).toEqual([0, 16, 32, 48, 64])
    expect(windows({ frameMode: 'slide', slideStride: 60 }).map(([start]) => start)).toEqual([
      0, 60,
    ])
  })

  it('uniform squeezes the whole clip with AI Toolkit’s indices and tells the speed', () => {
    const [item] = plan([long], { numFrames: 33, frameMode: 'uniform' }).buckets[0]!.items
    expect(item!.frameIndices).toEqual(uniformFrameIndices(100, 33))
    expect(item!.speedUp).toBeCloseTo(99 / 32, 3)
  })

  it('real-time draws a window by seed, and spreads the windows of repeats over the clip', () => {
    const drawn = windows({ frameMode: 'real-time', repeats: 4 }).map(([start]) => start!)
    drawn.forEach((start, k) => {
      expect(start).toBeGreaterThanOrEqual(17 * k)
      expect(start).toBeLessThan(17 * (k + 1))
    })
    expect(windows({ frameMode: 'real-time', repeats: 4 }).map(([start]) => start)).toEqual(drawn)
    expect(windows({ repeats: 4, seed: 7 }).map(([start]) => start)).not.toEqual(drawn)
    expect(windows({ windowStart: 'start' })[0]![0]).toBe(0)
    expect(windows({ windowStart: 'centre' })[0]![0]).toBe(33)
  })

  it('real-time resamples other frame rates by time', () => {
    const other = clip('b.mp4', { fps: 24, numFrames: 25 })
    const [bucket] = plan([other], { numFrames: 17 }).buckets
    expect(bucket!.items[0]!.frameIndices).toEqual([
      0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24,
    ])
    expect(bucket!.items[0]!.speedUp).toBe(1)
  })

  it('takes of several lengths the longest that the clip holds', () => {
    const made = plan([clip('a.mp4'), clip('b.mp4', { numFrames: 50 })], {
      numFrames: [33, 81, 17],
    })
    expect(made.buckets.map(({ numFrames }) => numFrames)).toEqual([81, 33])
  })

  it('deals with clips that are too short as told', () => {
    const short = [clip('a.mp4'), clip('b.mp4', { numFrames: 42 })]
    const lengths = (shortClips: 'snap' | 'skip' | 'stretch') =>
      plan(short, { shortClips }).buckets.flatMap(({ numFrames, items }) =>
        items.map((item) => [item.clip, numFrames, item.speedUp]),
      )
    expect(lengths('snap')).toEqual([
      ['a.mp4', 81, 1],
      ['b.mp4', 41, 1],
    ])
    expect(lengths('skip')).toEqual([['a.mp4', 81, 1]])
    expect(lengths('stretch')).toEqual([
      ['a.mp4', 81, 1],
      ['b.mp4', 81, 0.5125],
    ])
    expect(plan(short, { shortClips: 'skip' }).skipped).toEqual([
      {
        clip: 'b.mp4',
        resolution: 512,
        reason: 'too-short',
        detail: '42 frames at 16 fps hold 41 at 16 fps, and 81 are needed.',
      },
    ])
  })
})

describe("AI Toolkit's rule", () => {
  const options = { rule: 'ai-toolkit', frameMode: 'uniform', numFrames: 41 } as const

  it('uses a small clip at every resolution, the same size each time', () => {
    const made = plan([clip('a.mp4', { width: 640, height: 360 })], {
      ...options,
      resolutions: [512, 768, 1024],
    })
    expect(
      made.buckets.map(({ width, height, resolution }) => [width, height, resolution]),
    ).toEqual([
      [640, 352, 512],
      [640, 352, 768],
      [640, 352, 1024],
    ])
    expect(made.skipped).toEqual([])
  })

  it('our own rule lists the copies instead', () => {
    const made = plan([clip('a.mp4', { width: 640, height: 360 })], { resolutions: [512, 768] })
    expect(made.buckets).toHaveLength(1)
    expect(made.skipped).toMatchObject([{ clip: 'a.mp4', resolution: 768, reason: 'same-size' }])
  })

  it('stretches short clips by repeating frames', () => {
    const made = plan([clip('a.mp4', { numFrames: 5 })], { ...options, numFrames: 9 })
    expect(made.buckets[0]!.items[0]!.frameIndices).toEqual([0, 0, 1, 2, 2, 2, 3, 4, 4])
  })

  it('counts frames automatically, trimmed or squeezed', () => {
    const made = (frameMode: 'head' | 'uniform') =>
      plan([clip('a.mp4', { fps: 24, numFrames: 120 })], {
        ...options,
        frameMode,
        autoNumFrames: true,
      }).buckets[0]!
    expect(made('head').numFrames).toBe(77)
    expect(made('head').items[0]!.frameIndices.slice(0, 5)).toEqual([0, 2, 3, 4, 6])
    expect(made('uniform').numFrames).toBe(81)
    expect(made('uniform').items[0]!.frameIndices).toEqual(uniformFrameIndices(120, 81))
  })

  it('never mixes datasets, and appends flipped copies', () => {
    const { plan: made } = planBuckets([{ clips: [clip('a.mp4')] }, { clips: [clip('b.mp4')] }], {
      ...options,
      flipX: true,
      flipY: true,
    })
    expect(made.buckets).toHaveLength(2)
    expect(
      made.buckets[0]!.items.map(({ flip, flipVertical }) => [flip, flipVertical ?? false]),
    ).toEqual([
      [false, false],
      [true, false],
      [false, true],
      [true, true],
    ])
  })

  it('leaves modes it does not have to our frames, with its sizes', () => {
    const small = clip('a.mp4', { width: 640, height: 360, fps: 24, numFrames: 97 })
    const made = plan([small], { ...options, numFrames: 33, frameMode: 'chunk' })
    expect(made.buckets[0]).toMatchObject({ width: 640, height: 352 })
    expect(made.buckets[0]!.items.map((item) => [item.frameIndices[0], item.speedUp])).toEqual([
      [0, 1],
    ])
  })

  it('steps over whole frames, where by-time keeps the true speed', () => {
    const faster = clip('a.mp4', { fps: 24, numFrames: 200 })
    const speed = (frameRule: 'by-time' | 'ai-toolkit') =>
      plan([faster], { ...options, frameMode: 'real-time', frameRule }).buckets[0]!.items[0]!
        .speedUp
    expect(speed('ai-toolkit')).toBeCloseTo(4 / 3, 4)
    expect(speed('by-time')).toBe(1)
  })
})

describe('datasets', () => {
  it('take what they do not set from the job', () => {
    const { plan: made } = planBuckets(
      [
        { clips: [clip('a.mp4')], settings: { repeats: 3, weight: 0.5 } },
        { clips: [clip('b.mp4')], settings: { numFrames: 33, weight: 2 } },
      ],
      { numFrames: 81, windowStart: 'start' },
    )
    const items = made.buckets.flatMap(({ numFrames, items: own }) =>
      own.map((item) => [item.clip, item.dataset, numFrames, item.weight]),
    )
    expect(items).toEqual([
      ['a.mp4', 0, 81, 0.5],
      ['a.mp4', 0, 81, 0.5],
      ['a.mp4', 0, 81, 0.5],
      ['b.mp4', 1, 33, 2],
    ])
  })

  it('share a bucket, except regularisation sets', () => {
    const sets = (regularisation: boolean) =>
      planBuckets(
        [{ clips: [clip('a.mp4')] }, { clips: [clip('b.mp4')], settings: { regularisation } }],
        { batchSize: 2 },
      )
    expect(sets(false).plan.buckets).toHaveLength(1)
    const { plan: made, report } = sets(true)
    expect(made.buckets.map(({ items }) => items[0]!.regularisation)).toEqual([false, true])
    expect(report.warnings.map(({ code }) => code)).toEqual([
      'BUCKETER_FEWER_CLIPS_THAN_BATCH',
      'BUCKETER_FEWER_CLIPS_THAN_BATCH',
    ])
  })
})

describe('leftovers', () => {
  const five = ['a', 'b', 'c', 'd', 'e'].map((name) => clip(`${name}.mp4`))

  it('are filled up with samples of the bucket, no clip more than once over', () => {
    const { plan: made, report } = planBuckets([{ clips: five }], { batchSize: 4 })
    const counts = five.map(
      ({ file }) => made.buckets[0]!.items.filter((item) => item.clip === file).length,
    )
    expect(counts.toSorted()).toEqual([1, 1, 2, 2, 2])
    expect(report.rows[0]).toMatchObject({ numLeftOver: 1, numFilled: 3, numSteps: 2 })
  })

  it('are dropped by name, or left in a short batch', () => {
    const dropped = plan(five, { batchSize: 4, lastBatch: 'drop' })
    expect(dropped.buckets[0]!.items).toHaveLength(4)
    expect(dropped.skipped).toMatchObject([{ reason: 'leftover', resolution: 512 }])
    const { report } = planBuckets([{ clips: five }], { batchSize: 4, lastBatch: 'short' })
    expect(report.rows[0]).toMatchObject({
      numSamples: 5,
      numLeftOver: 1,
      numFilled: 0,
      numSteps: 2,
    })
  })
})

describe('refusals', () => {
  it.each<[string, PlanBucketsOptions]>([
    ['BUCKETER_NUM_FRAMES_NOT_4N_PLUS_1', { numFrames: 80, strict: true }],
    ['BUCKETER_SIZE_NOT_MULTIPLE', { sizes: ['832x470'] }],
    ['BUCKETER_SIZE_NOT_MULTIPLE', { sizes: ['832x464'], divisor: 32 }],
    ['BUCKETER_NO_BUCKET_FITS', { sizes: ['1920x1072'] }],
    ['BUCKETER_NO_BUCKET_FITS', { numFrames: 121, shortClips: 'skip' }],
    ['BUCKETER_BAD_OPTIONS', { batchSize: 0 }],
    ['BUCKETER_BAD_OPTIONS', { sizes: ['huge'] }],
  ])('%s for %j', (code, chosen) => {
    expect(() => plan([clip('a.mp4')], chosen)).toThrow(expect.objectContaining({ code }))
  })

  it('names the nearest size that works', () => {
    expect(() => plan([clip('a.mp4')], { sizes: ['832x470'] })).toThrow(
      expect.objectContaining({ fix: 'The nearest size that works is 832x464.' }),
    )
  })

  it('refuses no clips', () => {
    expect(() => plan([])).toThrow(expect.objectContaining({ code: 'BUCKETER_NO_CLIPS' }))
  })
})

it('warns of squeezed clips, stretched clips and a length that was snapped', () => {
  const { report } = planBuckets(
    [{ clips: [clip('a.mp4', { numFrames: 200 }), clip('b.mp4', { numFrames: 20 })] }],
    { frameMode: 'uniform', shortClips: 'stretch', numFrames: 44 },
  )
  expect(report.warnings.map(({ code }) => code).toSorted()).toEqual([
    'BUCKETER_NUM_FRAMES_SNAPPED',
    'BUCKETER_SQUEEZED',
    'BUCKETER_STRETCHED',
  ])
})
