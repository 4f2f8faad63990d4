import { trainerErrors } from '../errors.ts'
import { describePlan, type RecomputePlan } from '../memory/recompute-plan.ts'
import type { TrainingEstimate } from './estimate-training.ts'
import { latentSize } from './training-setup.ts'

/** What is kept of each block, by the latents' frames × rows × columns. */
export type RecomputePlans = Map<string, RecomputePlan>

/** The plans of an estimate, in place of which those of a run that goes on are taken. */
export function recomputePlans(
  { buckets }: TrainingEstimate,
  before: Readonly<Record<string, RecomputePlan>> | undefined,
): RecomputePlans {
  return new Map(
    buckets.map(({ bucket, plan }) => {
      const key = latentSize(bucket).join('x')
      return [key, before?.[key] ?? plan]
    }),
  )
}

/** A size that is trained at, what its step was to take, and what the device held: for errors in the middle of it. */
export function describeStep(
  { buckets }: TrainingEstimate,
  size: string,
  plan: RecomputePlan | undefined,
  held: string,
): [bucket: string, planned: string, held: string, keptMore: boolean] {
  const found = buckets.find(({ bucket }) => latentSize(bucket).join('x') === size)
  const batch =
    found && found.bucket.batchSize > 1 ? `, ${found.bucket.batchSize} clips at once` : ''
  return [
    found ? `${found.name}${batch}` : `latents ${size}`,
    found ? gib(found.memory.totalBytes) : 'an unknown amount',
    held,
    (plan?.keep.length ?? 0) > 1,
  ]
}

/** The plans in words, one line where all sizes have the same. */
export function describeRecompute(
  { buckets }: TrainingEstimate,
  plans: ReadonlyMap<string, RecomputePlan>,
  numLayers: number,
): string {
  const lines = new Map<string, string[]>()
  for (const { bucket, name, memory } of buckets) {
    const plan = plans.get(latentSize(bucket).join('x'))!
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
