import type { MemoryPlan, MemoryPlanOptions } from '../memory/plan-training-memory.ts'
import { choosePlan, memoryForUsable, usableBytes, type PlanChoice } from '../memory/choose-plan.ts'
import { secondsOf, type DeviceSpeed } from './device-speed.ts'
import { findRemedies, type Remedy } from './find-remedies.ts'
import {
  bucketName,
  latentSize,
  memoryOptions,
  sizeName,
  type BucketSize,
  type TrainingSetup,
} from './training-setup.ts'

/** What is known of the device that a job will run on. */
export interface TrainingDevice {
  /** Undefined where nobody knows. */
  memoryBytes: number | undefined
  speed: DeviceSpeed | undefined
  /** What of the backend's own memory is counted. */
  overhead: MemoryPlanOptions['overhead']
}

/** One size of a job, estimated. */
export interface BucketEstimate extends PlanChoice {
  bucket: BucketSize
  name: string
  /** Tokens of one sample in the network. */
  tokens: number
  /** Share of the micro-batches. */
  share: number
  /** Of one micro-batch; undefined where the speed of the device is not known. */
  seconds: number | undefined
}

/** What a job takes: memory and time, size by size and in all. */
export interface TrainingEstimate {
  buckets: BucketEstimate[]
  /** The bucket that takes most of the device. */
  largest: BucketEstimate
  /** Bytes that it takes. */
  deviceBytes: number
  hostBytes: number
  /** Whether it fits; undefined where the device's memory is not known. */
  fits: boolean | undefined
  /** Bytes that training may take of the device. */
  usableBytes: number | undefined
  /** Mean over the buckets, in seconds. */
  secondsPerStep: number | undefined
  /** With changes of the expert, without previews and validation. */
  hours: number | undefined
  /** Where it does not fit: what would make it fit, the cheapest first, three at most. */
  remedies: Remedy[]
}

/** The bucket whose latents have a size, by its `sizeName`. */
export function bucketAt(
  { buckets }: Pick<TrainingEstimate, 'buckets'>,
  size: string | undefined,
): BucketEstimate | undefined {
  return buckets.find(({ bucket }) => sizeName(latentSize(bucket)) === size)
}

/** Memory that a run takes of the host beside what is parked there: Node, staging of uploads, caches of a few samples. */
const hostBaseBytes = 1.5 * 2 ** 30

/** Estimates a job's memory and time, size by size, without loading anything. */
export async function estimateTraining(
  setup: TrainingSetup,
  device: TrainingDevice,
): Promise<TrainingEstimate> {
  const estimate = await estimateSetup(setup, device)
  if (estimate.fits !== false) return estimate
  const remedies = await findRemedies(setup, (other) => estimateSetup(other, device, true))
  return { ...estimate, remedies }
}

/**
 * The cheapest changes, three at most, with which a run that did not fit after all takes at least a tenth less than was planned, and
 * which it can go on with.
 */
export async function findMilderSettings(
  setup: TrainingSetup,
  { deviceBytes }: TrainingEstimate,
  device: Omit<TrainingDevice, 'memoryBytes'>,
): Promise<Remedy[]> {
  const memoryBytes = memoryForUsable(0.9 * deviceBytes)
  return findRemedies(setup, (other) => estimateSetup(other, { ...device, memoryBytes }, true), {
    midRun: true,
  })
}

/** The estimate alone. */
async function estimateSetup(
  setup: TrainingSetup,
  { memoryBytes, speed, overhead }: TrainingDevice,
  leanOnly = false,
): Promise<TrainingEstimate> {
  const batchesOf = ({ numSamples, batchSize }: BucketSize): number =>
    Math.ceil(numSamples / batchSize)
  const numBatches = setup.buckets.reduce((sum, bucket) => sum + batchesOf(bucket), 0)
  const buckets: BucketEstimate[] = []
  for (const bucket of setup.buckets) {
    const choice = await choosePlan(memoryOptions(setup, bucket, overhead), memoryBytes, {
      leanOnly,
    })
    const { width, height, numFrames } = bucket
    buckets.push({
      ...choice,
      bucket,
      name: bucketName(bucket),
      tokens: ((numFrames - 1) / 4 + 1) * (height / 16) * (width / 16),
      share: batchesOf(bucket) / numBatches,
      seconds: speed && secondsOf(choice.memory.work, speed),
    })
  }
  const largest = buckets.reduce((most, each) =>
    each.memory.totalBytes > most.memory.totalBytes ? each : most,
  )
  const secondsPerStep =
    speed &&
    setup.accumulation * buckets.reduce((sum, { share, seconds }) => sum + share * seconds!, 0)
  const hours =
    speed && (setup.steps * secondsPerStep! + switchSeconds(setup, largest.memory, speed)) / 3600
  return {
    buckets,
    largest,
    deviceBytes: largest.memory.totalBytes,
    hostBytes: hostBaseBytes + Math.max(...buckets.map(({ memory }) => memory.hostBytes)),
    fits: memoryBytes === undefined ? undefined : buckets.every(({ fits }) => fits),
    usableBytes: memoryBytes === undefined ? undefined : usableBytes(memoryBytes),
    secondsPerStep,
    hours,
    remedies: [],
  }
}

/** With low memory one expert leaves the device and the other comes, once a turn. */
function switchSeconds(
  { lowVram, numTrained, steps, switchEvery }: TrainingSetup,
  { weightsBytes }: MemoryPlan,
  speed: DeviceSpeed,
): number {
  if (!lowVram || numTrained < 2) return 0
  return (Math.max(0, Math.ceil(steps / switchEvery) - 1) * weightsBytes) / speed.hostBytes
}
