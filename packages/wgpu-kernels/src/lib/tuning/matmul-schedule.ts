// Axes: M rows and N columns of the result, K the contraction.
import type { AdapterProfile } from '../device/adapter-profile.ts'
import { blockOf, type Layout, type MatmulSchedule } from '../kernels/matmul/matmul-variant.ts'

/** What a schedule is chosen by. */
export interface MatmulShape {
  readonly layout: Layout
  readonly M: number
  readonly N: number
  readonly K: number
  /** Products of this shape computed side by side. */
  readonly products: number
}

/** Every schedule in use, by name: one row a way to cut a product up. Measurements are in docs/log.md. */
export const matmulSchedules = {
  /** Software adapters: as many products per load as registers and instruction cache hold. */
  direct: { unit: 'direct', workgroupSize: 8, tileM: 4, tileN: 8 },
  /** Software adapters, vectors times a matrix. */
  'direct-row': { unit: 'direct', workgroupSize: 8, tileM: 1, tileN: 8 },
  /** Software adapters, few columns. */
  'direct-narrow': { unit: 'direct', workgroupSize: 8, tileM: 8, tileN: 4 },
  tile: { unit: 'tile', blockM: 64, blockN: 64, blockK: 16, tileM: 4, tileN: 4 },
  'tile-large': { unit: 'tile', blockM: 128, blockN: 128, blockK: 16, tileM: 8, tileN: 8 },
  /** Ranks of adapters on either side. */
  'tile-narrow': { unit: 'tile', blockM: 64, blockN: 32, blockK: 16, tileM: 4, tileN: 2 },
  'tile-flat': { unit: 'tile', blockM: 32, blockN: 64, blockK: 16, tileM: 2, tileN: 4 },
} as const satisfies Record<string, MatmulSchedule>

/** Picks the schedule of a product. */
export function chooseMatmulSchedule(
  { adapterClass, limits }: AdapterProfile,
  { M, N, products }: MatmulShape,
): MatmulSchedule {
  if (adapterClass === 'software') {
    if (M < 3) return matmulSchedules['direct-row']
    return N <= 4 ? matmulSchedules['direct-narrow'] : matmulSchedules.direct
  }
  if (N <= 32) return matmulSchedules['tile-narrow']
  if (M <= 32) return matmulSchedules['tile-flat']
  const largeTiles = products * Math.ceil(M / 128) * Math.ceil(N / 128)
  const fits = limits.maxWorkgroupBytes >= 16384
  return largeTiles >= 256 && fits ? matmulSchedules['tile-large'] : matmulSchedules.tile
}

/** Workgroups below which a GPU is mostly idle. */
const BUSY_GROUPS = 256
/** Shortest contraction worth a split of its own. */
const SHORTEST_SPLIT = 256

/**
 * Into how many parts the contraction is cut, each summed apart and then added in order: for products with few tiles and a
 * long contraction, such as the gradients of adapters. Depends on the shape and the adapter's class alone.
 */
export function chooseSplits(
  { adapterClass }: AdapterProfile,
  { M, N, K, products }: MatmulShape,
  schedule: MatmulSchedule,
): number {
  if (products > 1 || adapterClass === 'software') return 1
  const block = blockOf(schedule)
  const tiles = Math.ceil(M / block.M) * Math.ceil(N / block.N)
  const wanted = Math.min(Math.ceil(BUSY_GROUPS / tiles), Math.floor(K / SHORTEST_SPLIT), 32)
  return tiles >= BUSY_GROUPS / 2 ? 1 : Math.max(1, wanted)
}
