// Axes: M rows and N columns of the result, K the contraction.
import type { AdapterProfile } from '../device/adapter-profile.ts'
import type { MatmulSchedule } from '../kernels/matmul/matmul-variant.ts'
import { ROW_GROUP } from '../kernels/matmul/units/subgroup-matrix.wgsl.ts'
import { matrixBlocks } from './matrix-unit.ts'

/** Multiprocessors by the adapter's name, from NVIDIA's data sheets. Only an H100's last wave was timed. */
const multiprocessors: readonly (readonly [RegExp, number])[] = [
  [/\bh[18]00\b.*\bpcie\b/i, 114],
  [/\b(h100|h200|h800|gh200)\b/i, 132],
  [/\b(a100|a800)\b/i, 108],
  [/\bl40s?\b/i, 142],
  [/\brtx-5090\b/i, 170],
  [/\brtx-4090\b/i, 128],
  [/\brtx-3090\b/i, 82],
]
/** Smaller relatives with the same name in theirs, and slices of a card. */
const others = /\b(laptop|mobile|mig|ti|d)\b/i

/** How many multiprocessors an adapter has, if that is known. */
export function multiprocessorsOf(device: string): number | undefined {
  if (others.test(device)) return undefined
  return multiprocessors.find(([name]) => name.test(device))?.[1]
}

/** What a multiprocessor's registers hold at once. Waves are counted in these whatever the blocks are, so that sums are the same. */
const { blockM, blockN, depthA } = matrixBlocks['256x128x64']
/** Parts of the contraction; with more, adding them up costs more than they save. */
const PARTS = [4, 3, 2] as const

/** The end of a product: its last rows and columns, with the contraction in parts that run side by side. */
export interface LastWave {
  /** Tiles of the schedule that are computed before, whole. */
  readonly tilesBefore: number
  readonly firstRow: number
  readonly firstColumn: number
  readonly parts: number
}

/**
 * Where a product's blocks do not fill the adapter a whole number of times, what is left over takes as long as a full wave. If it is
 * at most half a wave, it is computed in parts of the contraction: 1760 blocks on 132 multiprocessors take 13.5 waves instead of
 * 14. Undefined where that gains nothing or the adapter's size is not known.
 */
export function lastWave(
  { multiprocessors: wave }: AdapterProfile,
  { M, N, K }: { readonly M: number; readonly N: number; readonly K: number },
  schedule: MatmulSchedule,
): LastWave | undefined {
  if (wave === undefined || schedule.unit !== 'subgroup-matrix') return undefined
  const tilesM = Math.ceil(M / blockM)
  const tilesN = Math.ceil(N / blockN)
  const left = (tilesM * tilesN) % wave
  if (left === 0 || tilesM * tilesN < wave) return undefined
  // Tiles are computed column after column within a group of rows: the last are columns of the last group.
  const groupRows = tilesM % (ROW_GROUP / blockM) || ROW_GROUP / blockM
  const columns = Math.ceil(left / groupRows)
  const firstRow = (tilesM - groupRows) * blockM
  const parts = PARTS.find((n) => columns * groupRows * n <= wave && K % (n * depthA) === 0)
  const firstColumn = (tilesN - columns) * blockN
  // The last block is moved back to end with its rows or columns, so there must be one of them to move in.
  const isWhole = columns <= tilesN && M - firstRow >= blockM && N - firstColumn >= blockN
  if (parts === undefined || !isWhole) return undefined
  const tiles = (rows: number, columns: number): number =>
    Math.ceil(rows / schedule.blockM) * Math.ceil(columns / schedule.blockN)
  const tilesBefore = tiles(M, N) - tiles(M - firstRow, N - firstColumn)
  return { tilesBefore, firstRow, firstColumn, parts }
}
