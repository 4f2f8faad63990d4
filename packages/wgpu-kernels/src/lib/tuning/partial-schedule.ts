import type { AdapterProfile } from '../device/adapter-profile.ts'

/** Shape of the first pass of a sum over everything: each invocation adds some vectors and writes one number. */
export interface PartialSchedule {
  readonly workgroupSize: number
  /** Vectors an invocation adds. */
  readonly perInvocation: number
}

export const partialSchedules = {
  gpu: { workgroupSize: 256, perInvocation: 16 },
  software: { workgroupSize: 8, perInvocation: 64 },
} as const satisfies Record<AdapterProfile['adapterClass'], PartialSchedule>

export function partialSchedule({ adapterClass }: AdapterProfile): PartialSchedule {
  return partialSchedules[adapterClass]
}
