import type { AdapterProfile } from '../device/adapter-profile.ts'
import {
  matrixBlocks,
  matrixUnits,
  type MatrixBlockName,
  type MatrixUnitName,
} from './matrix-unit.ts'

/** What was found out about an adapter, once for each driver, runtime and version of the kernels. */
export interface AdapterRecord {
  /** Units that failed their self-test. */
  readonly refused: readonly MatrixUnitName[]
  /** Fastest block of the dense unit, where it was measured. */
  readonly block?: MatrixBlockName | undefined
}

/** Keeps records of adapters between runs. Neither function may throw: a cache that fails is only slow. */
export interface TuningCache {
  load(key: string): Promise<AdapterRecord | undefined>
  save(key: string, record: AdapterRecord): Promise<void>
}

/**
 * The key of a record.
 *
 * @param runtime what runs WebGPU, with its version
 * @param kernels what stands for the text of the kernels
 */
export function tuningKey(
  { vendor, architecture, device, driver }: AdapterProfile,
  runtime: string,
  kernels: string,
): string {
  return [vendor, architecture, device, driver, runtime, kernels].join(' | ')
}

/** The record in a value that came from outside, or undefined where it is none. */
export function asAdapterRecord(value: unknown): AdapterRecord | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const { refused, block } = value as Record<keyof AdapterRecord, unknown>
  if (!isListOfUnits(refused)) return undefined
  if (block !== undefined && !(typeof block === 'string' && block in matrixBlocks)) return undefined
  return { refused, ...(block === undefined ? {} : { block: block as MatrixBlockName }) }
}

function isListOfUnits(value: unknown): value is MatrixUnitName[] {
  return Array.isArray(value) && value.every((item) => matrixUnits.includes(item))
}
