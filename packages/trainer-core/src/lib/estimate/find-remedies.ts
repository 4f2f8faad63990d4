import type { TrainingEstimate } from './estimate-training.ts'
import type { BucketSize, TrainingSetup } from './training-setup.ts'

/** A change to a job that makes it fit. */
export interface Remedy {
  /** What to write in the job: `model.low_vram: true`, joined by commas. */
  change: string
  deviceBytes: number
  hostBytes: number
  secondsPerStep: number | undefined
}

/** One setting that takes less of the device. */
interface Measure {
  change: string
  /** Measures of one kind exclude each other; the milder come first. */
  kind: string
  apply: (setup: TrainingSetup) => TrainingSetup
  /** What it costs beside time, as a factor of time: accuracy, or what is trained on. */
  price: number
}

/** Kinds that decide what the training state holds. */
const fixedForARun: readonly string[] = ['optimiser', 'rank']

/** Whatever of this the job does not do already. */
function measuresFor(setup: TrainingSetup): Measure[] {
  const measures: Measure[] = []
  const set = (
    change: string,
    kind: string,
    price: number,
    other: Partial<TrainingSetup>,
  ): void => {
    measures.push({ change, kind, price, apply: (before) => ({ ...before, ...other }) })
  }
  const setBuckets = (
    change: string,
    kind: string,
    price: number,
    other: (bucket: BucketSize) => BucketSize,
  ): void => {
    const apply = (before: TrainingSetup): TrainingSetup => ({
      ...before,
      buckets: before.buckets.map(other),
    })
    measures.push({ change, kind, price, apply })
  }
  const { checkpoint, numTrained, lowVram, optimizer, quantize, streamedShare, rank, buckets } =
    setup
  if (!checkpoint) {
    set('train.gradient_checkpointing: true', 'checkpointing', 1, { checkpoint: true })
  }
  if (numTrained === 2 && !lowVram) set('model.low_vram: true', 'experts', 1, { lowVram: true })
  if (['adamw', 'schedule_free_adamw'].includes(optimizer)) {
    set('train.optimizer: adamw8bit', 'optimiser', 1.01, { optimizer: 'adamw8bit' })
  }
  if (quantize === undefined) {
    set('model.quantize: true, model.qtype: qfloat8', 'packing', 1.03, { quantize: 'qfloat8' })
  }
  if (quantize !== 'uint4') {
    set('model.quantize: true, model.qtype: uint4', 'packing', 1.15, { quantize: 'uint4' })
  }
  if (streamedShare < 1 && checkpoint) {
    set('model.layer_offloading: true', 'offloading', 1.02, { streamedShare: 1 })
  }
  if (rank > 8) {
    const half = Math.max(8, rank / 2)
    set(`network.linear: ${half}`, 'rank', 1.3, { rank: half })
  }
  if (buckets.some(({ batchSize }) => batchSize > 1)) {
    setBuckets('train.batch_size: 1', 'batch', 1.05, (bucket) => ({ ...bucket, batchSize: 1 }))
  }
  const longest = Math.max(...buckets.map(({ numFrames }) => numFrames))
  for (const frames of [65, 49, 41, 33, 25, 17].filter((count) => count < longest)) {
    setBuckets(`datasets: num_frames: ${frames}`, 'frames', (2 * longest) / frames, (bucket) => ({
      ...bucket,
      numFrames: Math.min(bucket.numFrames, frames),
    }))
  }
  const largest = Math.max(...buckets.map(({ width, height }) => Math.sqrt(width * height)))
  for (const side of [1024, 768, 640, 512, 384, 256].filter((each) => each < 0.95 * largest)) {
    setBuckets(`datasets: resolution: [${side}]`, 'size', (2.2 * largest) / side, (bucket) =>
      scaled(bucket, side),
    )
  }
  return measures
}

/** A bucket whose area is no more than that of a square of this side. */
function scaled(bucket: BucketSize, side: number): BucketSize {
  const factor = Math.min(1, side / Math.sqrt(bucket.width * bucket.height))
  const fit = (extent: number): number => Math.max(16, Math.floor((extent * factor) / 16) * 16)
  return { ...bucket, width: fit(bucket.width), height: fit(bucket.height) }
}

/**
 * The cheapest changes that make a job fit, three at most: single ones first, then pairs and triples of them where less does not
 * suffice.
 *
 * @param options.midRun without those that a run cannot go on with
 */
export async function findRemedies(
  setup: TrainingSetup,
  estimate: (setup: TrainingSetup) => Promise<TrainingEstimate>,
  { midRun = false }: { midRun?: boolean } = {},
): Promise<Remedy[]> {
  const measures = measuresFor(setup).filter(({ kind }) => !(midRun && fixedForARun.includes(kind)))
  // Many combinations are tried, with the size that takes most; those that are told are estimated whole.
  const { largest } = await estimate(setup)
  const alone = { ...setup, buckets: [largest.bucket] }
  const now = await estimate(alone)
  const found: { cost: number; parts: readonly Measure[] }[] = []
  for (const size of [1, 2, 3]) {
    for (const parts of combinations(measures, size)) {
      if (new Set(parts.map(({ kind }) => kind)).size < parts.length) continue
      // What suffices already needs no more beside it, and nothing stronger of its kind.
      if (found.some((other) => isWithin(other.parts, parts, measures))) continue
      const { fits, secondsPerStep } = await estimate(applied(parts, alone))
      if (fits !== true) continue
      const price = parts.reduce((product, part) => product * part.price, 1)
      // Time won by training on less is no gain.
      const slower = Math.max(1, (secondsPerStep ?? 1) / (now.secondsPerStep ?? 1))
      found.push({ parts, cost: price * slower })
    }
    if (found.length >= 3) break
  }
  const remedies: Remedy[] = []
  for (const { parts } of found.toSorted((a, b) => a.cost - b.cost)) {
    const { fits, deviceBytes, hostBytes, secondsPerStep } = await estimate(applied(parts, setup))
    if (fits !== true) continue
    const change = parts.map((part) => part.change).join(', ')
    remedies.push({ change, deviceBytes, hostBytes, secondsPerStep })
    if (remedies.length === 3) break
  }
  return remedies
}

const applied = (parts: readonly Measure[], setup: TrainingSetup): TrainingSetup =>
  parts.reduce((before, { apply }) => apply(before), setup)

/** Whether each of these measures, or a stronger one of its kind, is among those. */
function isWithin(
  these: readonly Measure[],
  those: readonly Measure[],
  measures: readonly Measure[],
): boolean {
  return these.every((one) =>
    those.some(
      (other) => other.kind === one.kind && measures.indexOf(other) >= measures.indexOf(one),
    ),
  )
}

function* combinations<T>(items: readonly T[], size: number): Generator<T[]> {
  if (size === 0) yield []
  else {
    for (const [i, item] of items.entries()) {
      for (const rest of combinations(items.slice(i + 1), size - 1)) yield [item, ...rest]
    }
  }
}
