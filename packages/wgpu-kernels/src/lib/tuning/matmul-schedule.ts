// Axes: M rows and N columns of the result, K the contraction.
import type { DType } from '@kinora/kernel-api'

import type { AdapterProfile } from '../device/adapter-profile.ts'
import { blockOf, type Layout, type MatmulSchedule } from '../kernels/matmul/matmul-variant.ts'
import { thinBytes } from '../kernels/matmul/units/subgroup-matrix-thin.wgsl.ts'
import {
  subgroupMatrixBytes,
  subgroupMatrixSize,
} from '../kernels/matmul/units/subgroup-matrix.wgsl.ts'
import { hasMatrixUnit, matrixBlocks } from './matrix-unit.ts'

/** What a schedule is chosen by. */
export interface MatmulShape {
  readonly layout: Layout
  readonly M: number
  readonly N: number
  readonly K: number
  /** Products of this shape computed side by side. */
  readonly products: number
  /** Of a single product; without it only the general units are considered. */
  readonly operands?: MatmulOperands
}

/** What the matrix units look at beyond the extents. */
export interface MatmulOperands {
  readonly a: DType
  readonly b: DType
  readonly y: DType
  readonly biased: boolean
  /** Contraction of the side branch, 0 without. */
  readonly rank: number
}

/** Schedules in use, by name: one row a way to cut a product up. Measurements are in docs/log.md. */
export const matmulSchedules = {
  /** Software adapters without subgroups: as many products per load as registers and instruction cache hold. */
  direct: { unit: 'direct', workgroupSize: 8, tileM: 4, tileN: 8 },
  /** The same, vectors times a matrix. */
  'direct-row': { unit: 'direct', workgroupSize: 8, tileM: 1, tileN: 8 },
  /** The same, few columns. */
  'direct-narrow': { unit: 'direct', workgroupSize: 8, tileM: 8, tileN: 4 },
  tile: { unit: 'tile', blockM: 64, blockN: 64, blockK: 16, tileM: 4, tileN: 4 },
  'tile-large': { unit: 'tile', blockM: 128, blockN: 128, blockK: 16, tileM: 8, tileN: 8 },
  /** Ranks of adapters on either side. */
  'tile-narrow': { unit: 'tile', blockM: 64, blockN: 32, blockK: 16, tileM: 2, tileN: 4 },
  'tile-flat': { unit: 'tile', blockM: 32, blockN: 64, blockK: 16, tileM: 2, tileN: 4 },
} as const satisfies Record<string, MatmulSchedule>

/**
 * Software adapters with subgroups of a fixed size. Lanes own the longer side: rows of the result in the ordinary case, columns
 * where there are few rows.
 */
export function broadcastSchedules(lanes: number) {
  return {
    rows: { unit: 'broadcast', lanes, owner: 'a', laneTile: 2, sharedTile: 16 },
    columns: { unit: 'broadcast', lanes, owner: 'b', laneTile: 2, sharedTile: 1 },
    /** Contractions over rows of memory: a lane owns whole vectors. */
    'tall-rows': { unit: 'broadcast', lanes, owner: 'a', laneTile: 4, sharedTile: 8 },
    'wide-columns': { unit: 'broadcast', lanes, owner: 'b', laneTile: 4, sharedTile: 8 },
    /** Few columns: images of three channels. */
    'few-columns': { unit: 'broadcast', lanes, owner: 'a', laneTile: 4, sharedTile: 4 },
    'few-rows': { unit: 'broadcast', lanes, owner: 'b', laneTile: 4, sharedTile: 1 },
  } as const satisfies Record<string, MatmulSchedule>
}

/** Every general schedule, for compile tests. */
export const generalSchedules: readonly MatmulSchedule[] = [
  ...Object.values(matmulSchedules),
  ...[4, 8].flatMap((lanes) => Object.values(broadcastSchedules(lanes))),
]

/** Rows below which no block of the dense unit is filled. */
export const FEWEST_MATRIX_ROWS = Math.min(
  ...Object.values(matrixBlocks).map(({ blockM }) => blockM),
)

const thinRank = (rank: number): 16 | 32 | 48 | 64 => (Math.ceil(rank / 16) * 16) as 16
const isThin = (rank: number): boolean => rank <= 64 && rank % 8 === 0

/** The tensor-core schedule of a product, if its extents and dtypes allow one. */
function matrixSchedule(
  profile: AdapterProfile,
  { layout, M, N, K, products, operands }: MatmulShape,
): MatmulSchedule | undefined {
  if (!operands || products > 1 || !hasMatrixUnit(profile, 'linear')) return undefined
  const { a, b, y, biased, rank } = operands
  const fits = (bytes: number): boolean => bytes <= profile.limits.maxWorkgroupBytes
  const lda = layout === 'tn' ? M : K
  const ldb = layout === 'nt' ? K : N
  if (a === 'f16' && b === 'f16' && layout !== 'tn') {
    if (N % 8 !== 0 || rank % 8 !== 0) return undefined
    const block = [matrixBlocks[profile.block], ...Object.values(matrixBlocks)].find(
      (candidate) =>
        M >= candidate.blockM &&
        N >= candidate.blockN &&
        K % candidate.depthA === 0 &&
        fits(subgroupMatrixBytes(candidate, layout)) &&
        subgroupMatrixSize(candidate) <= profile.limits.maxInvocations,
    )
    return block && { unit: 'subgroup-matrix', ...block, parts: 1, K, lda, ldb: N }
  }
  if (y !== 'f32' || biased || rank > 0) return undefined
  const thin = (
    kind: 'project' | 'gradient-a' | 'gradient-b',
    r: number,
  ): MatmulSchedule | undefined => {
    const schedule = { unit: 'thin', kind, rank: thinRank(r), K, lda, ldb } as const
    return fits(thinBytes(schedule)) ? schedule : undefined
  }
  if (layout !== 'tn') {
    return a === 'f16' && b === 'f32' && isThin(N) && K % 128 === 0 ? thin('project', N) : undefined
  }
  if (a === 'f32' && b === 'f16' && isThin(M) && N % 8 === 0) return thin('gradient-a', M)
  if (a === 'f16' && b === 'f32' && isThin(N) && M % 8 === 0) return thin('gradient-b', N)
  return undefined
}

/** Picks the schedule of a product. */
export function chooseMatmulSchedule(profile: AdapterProfile, shape: MatmulShape): MatmulSchedule {
  return matrixSchedule(profile, shape) ?? generalSchedule(profile, shape)
}

function generalSchedule(
  { adapterClass, limits, subgroups, subgroupSize }: AdapterProfile,
  { layout, M, N, products }: MatmulShape,
): MatmulSchedule {
  if (adapterClass === 'software') {
    const { min: lanes, max } = subgroupSize
    if (subgroups && lanes === max && lanes % 4 === 0 && lanes <= 16) {
      const schedules = broadcastSchedules(lanes)
      if (layout === 'tn') return M > N ? schedules['tall-rows'] : schedules['wide-columns']
      if (M >= 4) return N <= 4 ? schedules['few-columns'] : schedules.rows
      return layout === 'nt' ? schedules.columns : schedules['few-rows']
    }
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
  if (schedule.unit === 'subgroup-matrix') return 1
  if (schedule.unit === 'thin' && schedule.kind === 'project') return 1
  const block = blockOf(schedule)
  const tiles = Math.ceil(M / block.M) * Math.ceil(N / block.N)
  const wanted = Math.min(Math.ceil(BUSY_GROUPS / tiles), Math.floor(K / SHORTEST_SPLIT), 32)
  return tiles >= BUSY_GROUPS / 2 ? 1 : Math.max(1, wanted)
}
