import type { AdapterProfile } from '../device/adapter-profile.ts'

/** Shape of a kernel that walks a flat range of vectors. */
export interface ElementwiseSchedule {
  readonly workgroupSize: number
  /** Vectors each invocation handles, a workgroup apart. */
  readonly perInvocation: number
}

/** The shapes in use: a GPU wants many small invocations, a processor few fat workgroups. */
export const elementwiseSchedules = {
  gpu: { workgroupSize: 256, perInvocation: 1 },
  software: { workgroupSize: 256, perInvocation: 1 },
} as const satisfies Record<AdapterProfile['adapterClass'], ElementwiseSchedule>

export function elementwiseSchedule({ adapterClass }: AdapterProfile): ElementwiseSchedule {
  return elementwiseSchedules[adapterClass]
}
