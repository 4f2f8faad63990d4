import { trainerErrors } from '../errors.ts'
import { describePlan, type RecomputePlan } from '../memory/recompute-plan.ts'
import { bucketAt, type TrainingEstimate } from './estimate-training.ts'
import { latentSize, sizeName } from './training-setup.ts'

/** What is kept of each block, by the `sizeName` of the latents. */
export type RecomputePlans = Map<string, RecomputePlan>

/** The plans of an estimate, in place of which those of a run that goes on are taken. */
export function recomputePlans(
  { buckets }: TrainingEstimate,
  before: Readonly<Record<string, RecomputePlan>> | undefined,
): RecomputePlans {
  return new Map(
    buckets.map(({ bucket, plan }) => {
      const key = sizeName(latentSize(bucket))
      return [key, before?.[key] ?? plan]
    }),
  )
}

/**
 * The size of a step and what was planned for it, for errors in the middle of a run: of the latents' size at hand, or where there is
 * none, of the bucket that takes most.
 */
export function describeBucket(estimate: TrainingEstimate, size: string | undefined): string {
  const found = bucketAt(estimate, size)
  if (size !== undefined && !found) return ` at latents of ${size}`
  const { bucket, name, memory } = found ?? estimate.largest
  const batch = bucket.batchSize > 1 ? `, ${bucket.batchSize} clips at once` : ''
  return found
    ? ` at ${name}${batch}, for which ${gib(memory.totalBytes)} were planned`
    : `; steps at ${name}${batch} were planned to take ${gib(memory.totalBytes)}`
}

/** The plans in words, one line where all sizes have the same. */
export function describeRecompute(
  { buckets }: TrainingEstimate,
  plans: ReadonlyMap<string, RecomputePlan>,
  numLayers: number,
): string {
  const lines = new Map<string, string[]>()
  for (const { bucket, name, memory } of buckets) {
    const plan = plans.get(sizeName(latentSize(bucket)))!
    const line = describePlan(plan, { numLayers })
    lines.set(line, [...(lines.get(line) ?? []), `${name} (${gib(memory.totalBytes)})`])
  }
  const told = Array.from(lines, ([line, names]) => `${names.join(', ')}: ${line}`)
  return `Each block ${told.join('; ')}.`
}

/** @throws TRAINER_WOULD_NOT_FIT with the cheapest ways out */
export function refuseTooLarge(
  { fits, largest, usableBytes, remedies }: TrainingEstimate,
  adapter: string,
): void {
  if (fits !== false) return
  throw trainerErrors.WOULD_NOT_FIT(
    largest.name,
    gib(largest.memory.totalBytes),
    gib(usableBytes!),
    adapter,
    remedies.map(describeRemedy),
  )
}

/** A remedy in one line, with what it costs. */
export function describeRemedy({
  change,
  deviceBytes,
  hostBytes,
  secondsPerStep,
}: TrainingEstimate['remedies'][number]): string {
  const time = secondsPerStep === undefined ? '' : `, ${secondsPerStep.toPrecision(3)} s a step`
  return `${change}: ${gib(deviceBytes)} of the device, ${gib(hostBytes)} of the host${time}`
}

/** Bytes in GiB. */
export function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(bytes < 2 ** 30 ? 2 : 1)} GiB`
}
