// Axes: M rows and N columns of the result, K the contraction.
import type { BindingDecl, Scalar } from '../../program/define-kernel.ts'
import { reads, writes } from '../../program/define-kernel.ts'
import type { MatrixBlock } from '../../tuning/matrix-unit.ts'
import { THIN_SIZE, thinBlock } from './units/subgroup-matrix-thin.wgsl.ts'
import { subgroupMatrixSize } from './units/subgroup-matrix.wgsl.ts'

/**
 * Which way the operands lie in memory; the letters are (a, b), n for "K is contiguous" and t for "K is the row".
 *
 * - `nt`: a [M, K], b [N, K]: x · Wᵀ
 * - `nn`: a [M, K], b [K, N]: dy · W
 * - `tn`: a [K, M], b [K, N]: a contraction over tokens, for the gradients of adapters
 */
export type Layout = 'nt' | 'nn' | 'tn'

/** Each invocation computes a tile from global memory; nothing is shared. For software adapters. */
export interface DirectSchedule {
  readonly unit: 'direct'
  readonly workgroupSize: number
  readonly tileM: number
  readonly tileN: number
}

/**
 * A subgroup computes a tile from global memory: each lane owns rows of one operand, and the other's values are loaded once by
 * the lanes together and broadcast. For software adapters with subgroups.
 */
export interface BroadcastSchedule {
  readonly unit: 'broadcast'
  /** Size of the adapter's subgroups; also of a workgroup. */
  readonly lanes: number
  /** The operand whose rows the lanes own. */
  readonly owner: 'a' | 'b'
  /** Rows a lane owns, and rows of the other operand. */
  readonly laneTile: number
  readonly sharedTile: number
}

/** A workgroup stages blocks in workgroup memory and each invocation computes a tile of registers. For any GPU. */
export interface TileSchedule {
  readonly unit: 'tile'
  readonly blockM: number
  readonly blockN: number
  readonly blockK: number
  readonly tileM: number
  readonly tileN: number
}

/**
 * Tensor cores: a subgroup multiplies tiles of 16 × 16 fragments. Operands are f16, eight an index; b beside `nt` lies in
 * blocks of K, as `blockedWeight` makes it.
 */
export interface SubgroupMatrixSchedule extends MatrixBlock {
  readonly unit: 'subgroup-matrix'
  /** Parts of the contraction that are summed apart, into f32. */
  readonly parts: number
  /** Contraction of a part and distances between rows (of b beside `nt`: its rows), literals in the text. */
  readonly K: number
  readonly lda: number
  readonly ldb: number
}

/** Tensor cores for the factors of adapters: one operand is f32 with `rank` rows or columns (rounded up to 16). */
export interface ThinSchedule {
  readonly unit: 'thin'
  /** `project`: onto the rank; `gradient-a` and `gradient-b`: contractions over tokens. */
  readonly kind: 'project' | 'gradient-a' | 'gradient-b'
  readonly rank: 16 | 32 | 48 | 64
  readonly K: number
  readonly lda: number
  readonly ldb: number
}

/** How a product is cut up: one member and one text a unit. */
export type MatmulSchedule =
  | DirectSchedule
  | BroadcastSchedule
  | TileSchedule
  | SubgroupMatrixSchedule
  | ThinSchedule

/** What decides the text of a matmul. */
export interface MatmulVariant {
  readonly layout: Layout
  readonly a: 'f32' | 'f16'
  readonly b: 'f32' | 'f16'
  readonly y: 'f32' | 'f16'
  /** Elements an index of each buffer covers; `broadcast` wants one for a and b. */
  readonly aWidth: 1 | 4
  readonly bWidth: 1 | 4
  readonly yWidth: 1 | 4
  readonly bias: 'none' | 'f32' | 'f16'
  /** With a side branch: y += scale · u · v, where v lies as b does. Elements an index of u and v covers; 0 without. */
  readonly sideWidth: 0 | 1 | 4
  readonly schedule: MatmulSchedule
}

/** True if neighbours in a row of y are computed by one invocation, so that it can store them as vectors. */
export function storesVectors(schedule: MatmulSchedule, layout: Layout): boolean {
  return (
    schedule.unit !== 'broadcast' ||
    schedule.owner === 'a' ||
    (layout !== 'nt' && schedule.laneTile % 4 === 0)
  )
}

/** Extents of the result that one workgroup (or one invocation of `direct`) computes. */
export function blockOf(schedule: MatmulSchedule): { M: number; N: number } {
  if (schedule.unit === 'thin') return thinBlock(schedule)
  if (schedule.unit === 'broadcast') {
    const owned = schedule.lanes * schedule.laneTile
    return schedule.owner === 'a'
      ? { M: owned, N: schedule.sharedTile }
      : { M: schedule.sharedTile, N: owned }
  }
  return schedule.unit === 'direct'
    ? { M: schedule.tileM, N: schedule.tileN }
    : { M: schedule.blockM, N: schedule.blockN }
}

/** Invocations a workgroup. */
export function workgroupSizeOf(schedule: MatmulSchedule): number {
  switch (schedule.unit) {
    case 'direct':
      return schedule.workgroupSize
    case 'broadcast':
      return schedule.lanes
    case 'tile':
      return (schedule.blockM / schedule.tileM) * (schedule.blockN / schedule.tileN)
    case 'subgroup-matrix':
      return subgroupMatrixSize(schedule)
    case 'thin':
      return THIN_SIZE
  }
}

export function matmulBindings(variant: MatmulVariant): Record<string, BindingDecl> {
  const { a, b, y, aWidth, bWidth, yWidth, bias, sideWidth, schedule } = variant
  // Matrix units move eight f16 as one vector of four words.
  const isMatrix = schedule.unit === 'subgroup-matrix' || schedule.unit === 'thin'
  const eights = (scalar: 'f32' | 'f16'): Scalar => (isMatrix && scalar === 'f16' ? 'u32' : scalar)
  return {
    a: reads(eights(a), isMatrix ? 4 : aWidth),
    b: reads(eights(b), isMatrix ? 4 : bWidth),
    ...(bias === 'none' ? {} : { bias: reads(bias) }),
    ...(sideWidth === 0
      ? {}
      : { side_a: reads('f32', sideWidth), side_b: reads('f32', sideWidth) }),
    y: writes(eights(y), isMatrix ? 4 : yWidth),
  }
}

/** Uniforms of every unit. Strides and offsets count elements. */
export const matmulUniforms = {
  M: 'u32',
  N: 'u32',
  /** Contraction, and the part of it each split takes. */
  K: 'u32',
  split_k: 'u32',
  /** Distance between rows. */
  lda: 'u32',
  ldb: 'u32',
  ldy: 'u32',
  /** Products of one size computed side by side: batch items, each with heads. */
  heads: 'u32',
  a_batch: 'u32',
  a_head: 'u32',
  b_batch: 'u32',
  b_head: 'u32',
  y_batch: 'u32',
  y_head: 'u32',
  /** Distance between the partial results of the splits. */
  y_split: 'u32',
  /** First elements of a and b used, first of y written. */
  a_first: 'u32',
  b_first: 'u32',
  y_first: 'u32',
  /**
   * First column of y written, and of bias and side_b read. Where the dense unit works in parts, y has only their columns, and
   * this is the first of b and side_b.
   */
  n_first: 'u32',
  tiles_m: 'u32',
  tiles_n: 'u32',
  tiles: 'u32',
  splits: 'u32',
  scale: 'f32',
  /** Contraction of the side branch. */
  rank: 'u32',
  side_ldb: 'u32',
} as const

/** WGSL that turns a tile's linear index into what it computes; declares the offsets both units use. */
export function tileIndex(block: { M: number; N: number }): string {
  return /* wgsl */ `
  let tile_m = tile % u.tiles_m;
  let tile_n = (tile / u.tiles_m) % u.tiles_n;
  let split = (tile / (u.tiles_m * u.tiles_n)) % u.splits;
  let product = tile / (u.tiles_m * u.tiles_n * u.splits);
  let batch = product / u.heads;
  let head = product % u.heads;
  let m0 = tile_m * ${block.M}u;
  let n0 = tile_n * ${block.N}u;
  let a0 = u.a_first + batch * u.a_batch + head * u.a_head;
  let b0 = u.b_first + batch * u.b_batch + head * u.b_head;
  let y0 = u.y_first + batch * u.y_batch + head * u.y_head + split * u.y_split;
  let k_start = split * u.split_k;
  let k_end = min(u.K, k_start + u.split_k);`
}
