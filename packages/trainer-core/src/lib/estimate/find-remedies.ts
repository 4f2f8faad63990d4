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
  apply: (setup: TrainingSetup) => TrainingSetup
  /** What it costs beside time, as a factor of time: accuracy, or what is trained on. */
  price: number
}

/** Whatever of this the job does not do already. */
function measuresFor(setup: TrainingSetup): Measure[] {
  const measures: Measure[] = []
  const add = (
    when: boolean,
    change: string,
    price: number,
    other: Partial<TrainingSetup>,
  ): void => {
    if (when) measures.push({ change, price, apply: (before) => ({ ...before, ...other }) })
  }
  add(!setup.checkpoint, 'train.gradient_checkpointing: true', 1, { checkpoint: true })
  add(setup.numTrained === 2 && !setup.lowVram, 'model.low_vram: true', 1, { lowVram: true })
  add(
    setup.optimizer !== 'adamw8bit' && setup.optimizer.startsWith('adam'),
    'train.optimizer: adamw8bit',
    1.01,
    {
      optimizer: 'adamw8bit',
    },
  )
  add(setup.quantize === undefined, 'model.quantize: true, model.qtype: qfloat8', 1.03, {
    quantize: 'qfloat8',
  })
  add(setup.quantize !== 'uint4', 'model.quantize: true, model.qtype: uint4', 1.15, {
    quantize: 'uint4',
  })
  add(setup.streamedShare < 1 && setup.checkpoint, 'model.layer_offloading: true', 1.02, {
    streamedShare: 1,
  })
  add(
    setup.numTrained === 2,
    'model.model_kwargs.train_low_noise: false (one expert at a time)',
    1.6,
    {
      numTrained: 1,
    },
  )
  if (setup.rank > 8) {
    const rank = Math.max(8, setup.rank / 2)
    add(true, `network.linear: ${rank}`, 1.3, { rank })
  }
  const largestBatch = Math.max(...setup.buckets.map(({ batchSize }) => batchSize))
  const addToBuckets = (
    when: boolean,
    change: string,
    price: number,
    other: (bucket: BucketSize) => BucketSize,
  ): void => {
    if (!when) return
    const apply = (before: TrainingSetup): TrainingSetup => ({
      ...before,
      buckets: before.buckets.map(other),
    })
    measures.push({ change, price, apply })
  }
  addToBuckets(largestBatch > 1, 'train.batch_size: 1', 1.05, (bucket) => ({
    ...bucket,
    batchSize: 1,
  }))
  const longest = Math.max(...setup.buckets.map(({ numFrames }) => numFrames))
  const frames = [81, 65, 49, 41, 33].find((count) => count < longest)
  addToBuckets(frames !== undefined, `datasets: num_frames: ${frames}`, 2, (bucket) => ({
    ...bucket,
    numFrames: Math.min(bucket.numFrames, frames ?? bucket.numFrames),
  }))
  const largestSide = Math.max(
    ...setup.buckets.map(({ width, height }) => Math.round(Math.sqrt(width * height) / 64) * 64),
  )
  const side = [768, 640, 512, 384, 256].find((each) => each < largestSide)
  addToBuckets(side !== undefined, `datasets: resolution: [${side}]`, 2.2, (bucket) =>
    scaled(bucket, side ?? largestSide),
  )
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
 */
export async function findRemedies(
  setup: TrainingSetup,
  estimate: (setup: TrainingSetup) => Promise<TrainingEstimate>,
): Promise<Remedy[]> {
  const measures = measuresFor(setup)
  // Many combinations are tried, with the size that takes most; those that are told are estimated whole.
  const before = await estimate(setup)
  const alone = { ...setup, buckets: [before.largest.bucket] }
  const found: { cost: number; parts: readonly Measure[] }[] = []
  for (const size of [1, 2, 3]) {
    for (const parts of combinations(measures, size)) {
      // More of what suffices already is no cheaper; two schemes of packing exclude each other.
      if (found.some((other) => other.parts.every((part) => parts.includes(part)))) continue
      if (parts.filter(({ change }) => change.includes('qtype')).length > 1) continue
      const { fits, secondsPerStep } = await estimate(applied(parts, alone))
      if (fits !== true) continue
      const price = parts.reduce((product, part) => product * part.price, 1)
      found.push({ parts, cost: price * (secondsPerStep ?? 1) })
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

function* combinations<T>(items: readonly T[], size: number): Generator<T[]> {
  if (size === 0) yield []
  else {
    for (const [i, item] of items.entries()) {
      for (const rest of combinations(items.slice(i + 1), size - 1)) yield [item, ...rest]
    }
  }
}
