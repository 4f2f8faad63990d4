import {
  parseTrainJob,
  recipe,
  type BucketPlan,
  type MetricsEntry,
  type MotionSummary,
  type StepEntry,
} from '@kinora/config-schema'
import { describe, expect, it } from 'vitest'
import { explainRun, formatDiagnosis } from './explain-run.ts'
import { motionProfile } from './motion-profile.ts'
import { explainRules } from './rules.ts'
import { createSlowDownWatch } from './slow-down-watch.ts'

/** Uniform numbers in [0, 1): a linear congruential generator (Numerical Recipes). */
function createNoise(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

interface RunShape {
  steps?: number
  totalSteps?: number
  /** Of both experts by turns of 5, or of one. */
  only?: 'high' | 'low'
  /** Factor on the loss after so many updates of so many in all. */
  curve?: (share: number) => number
  change?: (entry: StepEntry, index: number) => StepEntry
}

/** Losses as they are: they vary with the timestep fourfold and with luck by a fifth, and little of it is learning. */
function makeRun({
  steps = 1200,
  totalSteps = steps,
  only,
  curve = (share) => 1 - 0.15 * share,
  change = (entry) => entry,
}: RunShape = {}): MetricsEntry[] {
  const noise = createNoise(7)
  const counts = { high: 0, low: 0 }
  const entries = Array.from({ length: steps }, (_, index): StepEntry => {
    const expert = only ?? (Math.floor(index / 5) % 2 === 0 ? 'high' : 'low')
    counts[expert]++
    const t = expert === 'high' ? 900 + 100 * noise() : 900 * noise()
    const level = 0.1 * (1 + 3 * (t / 1000) ** 2)
    const luck = 1 + 0.4 * (noise() - 0.5)
    return change(
      {
        type: 'step',
        step: index + 1,
        expert,
        expertStep: counts[expert],
        loss: level * luck * curve(index / steps),
        gradNorm: 0.2 + 0.3 * noise(),
        learningRate: 1e-4,
        timesteps: [t],
        lossScale: 1024,
        seconds: { total: 2 + 0.2 * noise(), load: 0, data: 0.01, queue: 0.2, device: 1.6 },
        memory: { liveMiB: 5000, peakMiB: 8000 },
      },
      index,
    )
  })
  return [{ type: 'run', step: 0, name: 'crane', totalSteps }, ...entries]
}

const job = (changes: (text: string) => string = (text) => text) =>
  parseTrainJob(changes(recipe('motion', 24)), { fileName: 'job.yaml' })

const codesOf = (entries: MetricsEntry[], more: Partial<Parameters<typeof explainRun>[0]> = {}) =>
  explainRun({ entries, ...more }).findings.map(({ code }) => code)

const validations = (losses: readonly number[], every = 200): MetricsEntry[] =>
  losses.map((loss, index) => ({
    type: 'validation',
    step: index * every,
    experts: { high: { loss }, low: { loss: 0.2 - 0.01 * index } },
  }))

const motion = (panPerSecond: number, more: Partial<MotionSummary> = {}): MotionSummary => ({
  camera: 'pan-right',
  panPerSecond,
  tiltPerSecond: 0,
  zoomPerSecond: 0,
  rollPerSecond: 0,
  subject: 0.02,
  ...more,
})

function preview(
  step: number,
  pans: readonly number[],
  { clips = [0.28, 0.3, 0.32, 0.3], change }: { clips?: readonly number[]; change?: number } = {},
): MetricsEntry {
  return {
    type: 'preview',
    step,
    trained: { ...motionProfile(clips.map((pan) => motion(pan)))! },
    files: pans.map((pan, index) => ({
      file: `samples/${index}.mp4`,
      motion: motion(pan),
      ...(change === undefined ? {} : { change }),
    })),
  }
}

const plan = (speedUp: number): BucketPlan => ({
  version: 1,
  tool: 'test',
  fps: 16,
  options: {},
  buckets: [
    {
      width: 64,
      height: 64,
      numFrames: 5,
      resolution: 64,
      batchSize: 1,
      items: [
        {
          clip: 'a.mp4',
          dataset: 0,
          frameIndices: [0, 1, 2, 3, 4],
          speedUp,
          resize: { width: 64, height: 64 },
          crop: { x: 0, y: 0, width: 64, height: 64 },
          flip: false,
          weight: 1,
          regularisation: false,
        },
      ],
    },
  ],
  skipped: [],
})

describe('the verdict of an expert', () => {
  it.each([
    ['falls to the end', (share: number) => 1 - 0.3 * share, 'improving'],
    ['falls and then rests', (share: number) => 1 - 0.3 * Math.min(1, 3 * share), 'flat'],
    ['never moves', () => 1, 'flat'],
    [
      'falls and then rises',
      (share: number) => (share < 0.5 ? 1 - share : 0.5 + 1.2 * (share - 0.5)),
      'rising',
    ],
  ] as const)('of a training loss that %s', (_, curve, trend) => {
    const { experts } = explainRun({ entries: makeRun({ curve }) })
    expect(experts.map((expert) => expert.training.trend)).toEqual([trend, trend])
  })

  it('sees through timesteps: the same loss at ever noisier timesteps is an improvement', () => {
    // The loss per timestep falls, and timesteps drift so that the loss itself does not.
    const noise = createNoise(3)
    const entries = makeRun({
      only: 'low',
      steps: 400,
      change: (entry, index) => {
        const t = 300 + index + 200 * (noise() - 0.5)
        const level = 0.1 * (1 + 3 * (t / 1000) ** 2)
        return {
          ...entry,
          timesteps: [t],
          loss: level * (1 - index / 1000) * (0.95 + 0.1 * noise()),
        }
      },
    })
    const [low] = explainRun({ entries }).experts
    expect(low!.training.trend).toBe('improving')
  })

  it.each([
    ['improving', [0.5, 0.45, 0.42, 0.4, 0.39, 0.38, 0.37], 'improving', 1200],
    ['flat', [0.5, 0.42, 0.4, 0.399, 0.4, 0.3985, 0.399], 'flat', 1000],
    ['overfitting', [0.5, 0.42, 0.4, 0.39, 0.4, 0.41, 0.43], 'overfitting', 600],
    // One bad value is luck.
    ['one bump', [0.5, 0.42, 0.4, 0.39, 0.38, 0.375, 0.39], 'improving', 1000],
  ] as const)('of held-out losses that are %s', (_, losses, trend, bestStep) => {
    const { experts } = explainRun({ entries: [...makeRun(), ...validations(losses)] })
    expect(experts[0]!.validation).toMatchObject({ trend, bestStep })
    expect(experts[1]!.validation!.trend).toBe('improving')
  })

  it('is said in a sentence', () => {
    const entries = [...makeRun(), ...validations([0.5, 0.42, 0.4, 0.39, 0.4, 0.41, 0.43])]
    const text = formatDiagnosis(explainRun({ entries }))
    expect(text).toContain('crane: step 1200 of 1200 (100 %)')
    expect(text).toContain('High noise (600 updates): overfitting since step 600')
    expect(text).toContain('Low noise (600 updates): still improving; held-out loss 0.1400')
  })

  it('counts lines that a resumed run wrote again once', () => {
    const entries = makeRun({ steps: 100 })
    const { experts } = explainRun({ entries: [...entries, ...entries.slice(50)] })
    expect(experts.map(({ updates }) => updates)).toEqual([50, 50])
  })
})

// Code, a run that shows it, and the words it is told in.
const last = (share: number) => (_: StepEntry, index: number) => index >= 1200 * (1 - share)
const symptoms: [string, Parameters<typeof explainRun>[0], RegExp][] = [
  [
    'NOT_FINITE',
    {
      entries: [
        ...makeRun({ steps: 300, totalSteps: 1200 }),
        {
          type: 'error',
          step: 301,
          code: 'TRAINER_NOT_FINITE',
          message: 'Step 301 is not finite.',
        },
      ],
      job: job((text) => text.replace('lr: 1e-4', 'lr: 1e-3')),
    },
    /step 301.*Halve train\.lr \(it is 0\.001\)/s,
  ],
  [
    'FAILED',
    {
      entries: [
        ...makeRun({ steps: 300, totalSteps: 1200 }),
        { type: 'error', step: 301, code: 'WGPU_OUT_OF_MEMORY', message: 'No room.' },
      ],
    },
    /WGPU_OUT_OF_MEMORY/,
  ],
  [
    'EXPERT_STARVED',
    {
      entries: makeRun({
        change: (e, i) => ({
          ...e,
          expert: i % 10 === 0 ? 'high' : 'low',
          expertStep: i % 10 === 0 ? i / 10 + 1 : i - Math.floor(i / 10),
        }),
      }),
    },
    /high-noise expert has 120 of 12\d\d steps/,
  ],
  [
    'OVERFITTING',
    { entries: [...makeRun(), ...validations([0.5, 0.4, 0.41, 0.43])] },
    /high-noise expert.*since step 200.*0\.4000 there, 0\.4300 now \(\+7 %\)/,
  ],
  [
    'LEARNING_RATE_HIGH',
    {
      entries: makeRun({
        change: (e, i) => (i > 700 && i % 40 === 0 ? { ...e, gradNorm: 9 } : e),
      }),
      job: job(),
    },
    /gradient norms above 8 times.*train\.lr is 0\.0001/s,
  ],
  [
    'LEARNING_RATE_HIGH',
    { entries: makeRun({ curve: (share) => 1 + share }) },
    /training loss that rises/,
  ],
  [
    'LOSS_SCALE_FALLING',
    { entries: makeRun({ change: (e, i) => ({ ...e, lossScale: last(0.5)(e, i) ? 8 : 1024 }) }) },
    /fell from 1024 to 8/,
  ],
  [
    'PRESERVATION_RISING',
    { entries: makeRun({ change: (e, i) => ({ ...e, preservationLoss: 0.01 + i / 4e4 }) }) },
    /drifts from the base model/,
  ],
  [
    'PREVIEWS_UNCHANGED',
    {
      entries: [...makeRun(), preview(0, [0.3]), preview(1200, [0.3], { change: 0.1 })],
      job: job((text) => text.replaceAll('[trigger], the camera', 'the camera')),
    },
    /No preview prompt holds the trigger word "m0tion"/,
  ],
  ['LEARNING_RATE_LOW', { entries: makeRun({ curve: () => 1 }) }, /where it was 600 updates ago/],
  ['MOTION_TOO_FAST', { entries: makeRun(), plan: plan(2.5) }, /2\.5 times as fast as the clips/],
  [
    'MOTION_TOO_FAST',
    { entries: [...makeRun(), preview(1200, [0.6, 0.6])], plan: plan(1) },
    /previews pan 0\.60 widths\/s \(200 %\)/,
  ],
  [
    'MOTION_WEAK',
    { entries: [...makeRun(), preview(1200, [0.1, 0.12])] },
    /Trained on pans to the right of 0\.30 widths\/s; previews pan 0\.11 widths\/s \(37 %\)/,
  ],
  [
    'MOTION_OTHER_WAY',
    {
      entries: [...makeRun(), preview(1200, [-0.3, -0.28])],
      job: job((text) => text.replace('flip_x: false', 'flip_x: true')),
    },
    /the other way \(to the left\).*flip_x to false/s,
  ],
  [
    'SLOWING_DOWN',
    {
      entries: makeRun({
        change: (e, i) => (i >= 900 ? { ...e, seconds: { ...e.seconds, total: 6 } } : e),
      }),
    },
    /2\.8 times as long.*since step 90\d/,
  ],
  [
    'MEMORY_GROWS',
    {
      entries: makeRun({
        change: (e, i) => ({ ...e, memory: { liveMiB: 5000 + i, peakMiB: 8000 } }),
      }),
    },
    /grew from 5450 to 6050 MiB/,
  ],
  [
    'PREVIEWS_FAILED',
    { entries: [...makeRun(), { type: 'preview', step: 500, failed: 'No room for the VAE.' }] },
    /step 500 failed: No room for the VAE/,
  ],
  [
    'LOADING_DOMINATES',
    {
      entries: makeRun({
        change: (e, i) =>
          i % 5 === 0 ? { ...e, seconds: { ...e.seconds, load: 8, total: 10 } } : e,
      }),
      job: job(),
    },
    /43 % of the time.*it is 10/s,
  ],
  [
    'DATA_STARVED',
    { entries: makeRun({ change: (e) => ({ ...e, seconds: { ...e.seconds, data: 1 } }) }) },
    /48 % of the time/,
  ],
  [
    'ALWAYS_CLIPPED',
    { entries: makeRun({ change: (e) => ({ ...e, gradNorm: e.gradNorm * 20 }) }), job: job() },
    /100 % of the gradients.*max_grad_norm 1/s,
  ],
  [
    'STILL_IMPROVING',
    { entries: makeRun({ curve: (share) => 1 - 0.3 * share }) },
    /still improving/,
  ],
  ['STOPPED_EARLY', { entries: makeRun({ steps: 600, totalSteps: 1200 }) }, /600 of 1200 steps/],
  ['TOO_EARLY', { entries: makeRun({ steps: 10, totalSteps: 1200 }) }, /5 logged steps/],
  ['TOO_EARLY', { entries: [] }, /no step yet/],
]

describe('explainRun', () => {
  it.each(symptoms)('recognises %s', (code, files, words) => {
    const found = explainRun(files).findings.find((finding) => finding.code === `EXPLAIN_${code}`)
    expect(found, formatDiagnosis(explainRun(files))).toBeDefined()
    expect(`${found!.message} ${found!.change}`).toMatch(words)
  })

  it('has a run for each of its rules here', () => {
    const shown = new Set(symptoms.map(([code]) => `EXPLAIN_${code}`))
    expect(explainRules.map(({ code }) => code).filter((code) => !shown.has(code))).toEqual([])
  })

  it('says nothing of a sound run', () => {
    const entries = [
      ...makeRun({ curve: (share) => 1 - 0.3 * Math.min(1, 3 * share) }),
      preview(0, [0]),
      preview(1200, [0.27, 0.31], { change: 12 }),
      ...validations([0.5, 0.42, 0.4, 0.399, 0.4, 0.3985, 0.399]),
    ]
    expect(codesOf(entries, { plan: plan(1), job: job() })).toEqual([])
    expect(formatDiagnosis(explainRun({ entries }))).toContain('No known symptom.')
  })

  it('takes the previews after training, and not those before, for the motion', () => {
    expect(explainRun({ entries: [...makeRun(), preview(0, [0])] }).motion).toBeNull()
    const { motion: compared } = explainRun({
      entries: [...makeRun(), preview(0, [0]), preview(600, [0.1]), preview(1200, [0.3])],
    })
    expect(compared).toMatchObject({ movement: 'pan', trained: 0.3, previews: 0.3, ratio: 1 })
  })
})

describe('createSlowDownWatch', () => {
  const slowAfter = (at: number, factor: number): MetricsEntry[] =>
    makeRun({
      steps: 200,
      change: (e, i) => (i < at ? e : { ...e, seconds: { ...e.seconds, total: 2 * factor } }),
    })

  it('warns once, while the run goes on, soon after steps slow down', () => {
    const watch = createSlowDownWatch()
    const alarms: number[] = []
    for (const entry of slowAfter(100, 3)) {
      watch.write(entry)
      if (watch.takeWarnings().length > 0) alarms.push(entry.step)
    }
    expect(alarms).toHaveLength(1)
    expect(alarms[0]).toBeGreaterThan(100)
    expect(alarms[0]).toBeLessThanOrEqual(116)
  })

  it('keeps quiet while steps vary, for the loading of turns, and for buckets of different size', () => {
    const watch = createSlowDownWatch()
    for (const entry of makeRun({
      change: (e, i) => {
        const large = i % 3 === 0
        const load = i % 5 === 0 ? 20 : 0
        return {
          ...e,
          // Large samples come in clusters, as shuffled buckets do.
          shape: large || i > 900 ? [1, 16, 11, 64, 64] : [1, 16, 5, 32, 32],
          seconds: { ...e.seconds, load, total: (large || i > 900 ? 9 : 1) + load },
        }
      },
    })) {
      watch.write(entry)
    }
    expect(watch.takeWarnings()).toEqual([])
  })
})
