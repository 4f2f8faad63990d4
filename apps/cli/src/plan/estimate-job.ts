import { readFile, stat } from 'node:fs/promises'
import { readBucketPlan, type BucketPlan, type TrainJob } from '@kinora/config-schema'
import type { Device } from '@kinora/kernel-api'
import type { RunContext } from '@kinora/stage'
import {
  checkpointShape,
  computeDtype,
  describePlan,
  describeRemedy,
  deviceMemory,
  estimateTraining,
  overheadOf,
  refuseTooLarge,
  saidMemory,
  trainingSetup,
  type CheckpointShape,
  type DeviceSpeed,
  type TrainingEstimate,
} from '@kinora/trainer-core'
import { jobFolders } from '../lib/run-job.ts'
import { rememberedSpeed } from './device-speed-file.ts'
import { openCheckpoint, parseTransformerConfig } from '@kinora/wan'

/** A job's memory and time on a device. */
export interface JobEstimate extends TrainingEstimate {
  adapter: string
  /** Of the device, where it is known. */
  memoryBytes: number | undefined
  numLayers: number
}

/** The release, whose size is taken where the checkpoint is not at hand. */
const released: CheckpointShape = { transformer: parseTransformerConfig({}), textLength: 512 }

/** What is known of a job's checkpoint without downloading anything. */
async function findShape(source: string, { signal }: RunContext): Promise<CheckpointShape> {
  const isFolder = await stat(source).then(
    (entry) => entry.isDirectory(),
    () => false,
  )
  return isFolder ? checkpointShape(await openCheckpoint(source, { signal })) : released
}

/**
 * Estimates a planned job on a device. No weights are loaded.
 *
 * @param memoryBytes of the device, in place of what the job or the adapter's name says
 */
export async function estimateJob(
  job: TrainJob,
  plan: BucketPlan,
  device: Device,
  {
    memoryBytes,
    speed,
    signal,
  }: RunContext & { memoryBytes?: number | undefined; speed?: DeviceSpeed | undefined },
): Promise<JobEstimate> {
  const [process] = job.config.process
  const shape = await findShape(process.model.name_or_path, { signal })
  const known = deviceMemory(device.info, memoryBytes ?? saidMemory(process))
  const setup = trainingSetup(process, plan, shape, computeDtype(process, device))
  const estimate = await estimateTraining(setup, {
    memoryBytes: known,
    speed,
    overhead: overheadOf(device.info),
  })
  return {
    ...estimate,
    adapter: device.info.adapter,
    memoryBytes: known,
    numLayers: shape.transformer.numLayers,
  }
}

/**
 * Looks whether a planned job fits, before anything is loaded or cached.
 *
 * @throws TRAINER_WOULD_NOT_FIT
 */
export async function refuseJobThatWillNotFit(
  job: TrainJob,
  device: Device,
  { memoryBytes, signal }: RunContext & { memoryBytes: number | undefined },
): Promise<void> {
  const { plan: file } = jobFolders(job)
  const plan = readBucketPlan(await readFile(file, 'utf8'), { fileName: file })
  if (plan.buckets.length === 0) return
  const compute = computeDtype(job.config.process[0], device)
  const speed = await rememberedSpeed(device, compute)
  const estimate = await estimateJob(job, plan, device, { memoryBytes, speed, signal })
  refuseTooLarge(estimate, estimate.adapter)
}

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`
const seconds = (value: number | undefined): string =>
  value === undefined ? '?' : `${value.toPrecision(3)} s`

/** The estimate as a table, and what to do where it does not fit. */
export function formatEstimate({
  adapter,
  memoryBytes,
  numLayers,
  buckets,
  largest,
  deviceBytes,
  hostBytes,
  usableBytes,
  fits,
  secondsPerStep,
  hours,
  remedies,
}: JobEstimate): string {
  const { weightsBytes, loraBytes, stepBytes, keptBytes } = largest.memory
  const rows = [
    ['size', 'batch', 'share', 'weights', 'LoRA, optimiser', 'kept', 'beside', 'device', 'a batch'],
    ...buckets.map(({ name, bucket, share, memory, seconds: each }) => [
      name,
      String(bucket.batchSize),
      `${(100 * share).toFixed(0)} %`,
      gib(memory.weightsBytes),
      gib(memory.loraBytes),
      gib(memory.keptBytes),
      gib(memory.stepBytes - memory.keptBytes),
      gib(memory.totalBytes),
      seconds(each),
    ]),
  ]
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const table = rows.map((row) => row.map((cell, i) => cell.padStart(widths[i]!)).join('  '))
  const plans = new Map<string, string[]>()
  for (const { plan, name } of buckets) {
    const words = describePlan(plan, { numLayers })
    plans.set(words, [...(plans.get(words) ?? []), name])
  }
  const room =
    memoryBytes === undefined
      ? 'its memory is not known; give it with --vram or kinora.vram_gb'
      : `${gib(usableBytes!)} of its ${gib(memoryBytes)} can be used`
  return [
    `On ${adapter} (${room}):`,
    ...table,
    ...Array.from(plans, ([words, names]) => `Each block ${words}: ${names.join(', ')}.`),
    `Device ${gib(deviceBytes)} at most (weights ${gib(weightsBytes)}, LoRA and optimiser ${gib(loraBytes)}, kept of blocks ${gib(keptBytes)}, beside it ${gib(stepBytes - keptBytes)}); host ${gib(hostBytes)}.`,
    ...(secondsPerStep === undefined || hours === undefined
      ? []
      : [
          `${seconds(secondsPerStep)} a step, ${hours < 0.1 ? `${(60 * hours).toPrecision(2)} minutes` : `${hours.toFixed(1)} hours`} in all, without previews and validation.`,
        ]),
    ...(fits === false
      ? [
          'It will not fit.',
          remedies.length > 0
            ? 'The cheapest ways to make it fit:'
            : 'No change that Kinora knows makes it fit.',
          ...remedies.map((remedy) => `- ${describeRemedy(remedy)}`),
        ]
      : []),
  ].join('\n')
}
