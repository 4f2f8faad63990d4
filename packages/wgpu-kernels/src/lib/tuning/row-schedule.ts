import type { AdapterProfile } from '../device/adapter-profile.ts'

/** Shape of a kernel that reduces rows. */
export interface RowSchedule {
  readonly workgroupSize: number
  /** Invocations that share a row; a power of two. With one there is no barrier. */
  readonly lanes: number
}

/** Every shape in use, for compile tests. */
export const rowSchedules = {
  software: { workgroupSize: 16, lanes: 1 },
  narrow: { workgroupSize: 64, lanes: 8 },
  middle: { workgroupSize: 64, lanes: 64 },
  wide: { workgroupSize: 256, lanes: 256 },
} as const satisfies Record<string, RowSchedule>

/**
 * Picks lanes for rows of `vectors` vectors. A barrier costs a software adapter more than the sum it shares, so there each
 * invocation takes whole rows.
 */
export function rowSchedule({ adapterClass }: AdapterProfile, vectors: number): RowSchedule {
  if (adapterClass === 'software') return rowSchedules.software
  if (vectors <= 32) return rowSchedules.narrow
  return vectors <= 512 ? rowSchedules.middle : rowSchedules.wide
}
