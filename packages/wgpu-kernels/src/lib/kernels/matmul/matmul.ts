// Axes: M rows and N columns of the result, K the contraction, r rank of a side branch.
import { bytesPerElement, type DType } from '@kinora/kernel-api'

import { scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import type { Bound, Runner } from '../../program/runner.ts'
import type { RowWindow } from '../../program/windows.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import {
  chooseMatmulSchedule,
  chooseSplits,
  generalSchedules,
  type MatmulShape,
} from '../../tuning/matmul-schedule.ts'
import { lastWave, type LastWave } from '../../tuning/last-wave.ts'
import { matrixBlocks } from '../../tuning/matrix-unit.ts'
import { widthOf } from '../../wgsl/float-vector.ts'
import { reduceSplits } from '../reduce-splits/reduce-splits.ts'
import { blockedWeight, type LazyWeight } from './blocked-weight.ts'
import {
  blockOf,
  matmulBindings,
  matmulUniforms,
  storesVectors,
  workgroupSizeOf,
  type Layout,
  type MatmulSchedule,
  type MatmulVariant,
  type SubgroupMatrixSchedule,
} from './matmul-variant.ts'
import { broadcastText } from './units/broadcast.wgsl.ts'
import { directText } from './units/direct.wgsl.ts'
import { gradientText, projectText } from './units/subgroup-matrix-thin.wgsl.ts'
import { subgroupMatrixText } from './units/subgroup-matrix.wgsl.ts'
import { tileText } from './units/tile.wgsl.ts'

const floats = ['f32', 'f16'] as const
const widths = [1, 4] as const

/** Variants of the matrix units, with the sizes of a block of the model for the literals. */
function matrixVariants(): MatmulVariant[] {
  const base = { a: 'f16', aWidth: 4, bWidth: 4, yWidth: 4, bias: 'none', sideWidth: 0 } as const
  const dense = { unit: 'subgroup-matrix', parts: 1, K: 5120, lda: 5120, ldb: 5120 } as const
  const { '256x128x64': usual, ...others } = matrixBlocks
  const thin = { unit: 'thin', K: 5120, lda: 5120, ldb: 5120 } as const
  const ranks = [16, 64] as const
  return [
    ...(['nt', 'nn'] as const).flatMap((layout) => [
      ...floats.flatMap((y) =>
        ([0, 4] as const).flatMap((sideWidth) =>
          (['none', y] as const).map((bias) => ({
            ...base,
            layout,
            b: 'f16' as const,
            y,
            bias,
            sideWidth,
            schedule: { ...dense, ...usual },
          })),
        ),
      ),
      ...([0, 4] as const).map((sideWidth) => ({
        ...base,
        layout,
        b: 'f16' as const,
        y: 'f32' as const,
        sideWidth,
        schedule: { ...dense, ...usual, parts: 2, K: 2560 },
      })),
      ...Object.values(others).map((block) => ({
        ...base,
        layout,
        b: 'f16' as const,
        y: 'f16' as const,
        schedule: { ...dense, ...block },
      })),
      ...ranks.map((rank) => ({
        ...base,
        layout,
        b: 'f32' as const,
        y: 'f32' as const,
        schedule: { ...thin, kind: 'project' as const, rank },
      })),
    ]),
    ...(['gradient-a', 'gradient-b'] as const).flatMap((kind) =>
      ranks.map((rank) => ({
        ...base,
        layout: 'tn' as const,
        a: kind === 'gradient-a' ? ('f32' as const) : ('f16' as const),
        b: kind === 'gradient-a' ? ('f16' as const) : ('f32' as const),
        y: 'f32' as const,
        schedule: { ...thin, kind, rank },
      })),
    ),
  ]
}

/**
 * y = scale · a b + bias, where a is [M, K] and b is [K, N] in one of three layouts, and optionally a low-rank side branch
 * adds scale · u v to an unscaled product. Sums in f32, k ascending within a split; splits are summed in order by
 * `reduce-splits`. No atomics.
 *
 * - `a`, `b` dtype, read · `bias` [N] dtype, read · `side_a` [M, r], `side_b` as b with r for K, f32, read
 * - `y` [M, N] dtype, written
 */
export const matmulKernel = defineKernel<MatmulVariant>({
  name: 'matmul',
  bindings: matmulBindings,
  uniforms: matmulUniforms,
  workgroupSize: ({ schedule }) => workgroupSizeOf(schedule),
  wgsl: (variant) => {
    const { schedule } = variant
    switch (schedule.unit) {
      case 'direct':
        return directText(variant)
      case 'broadcast':
        return broadcastText(variant)
      case 'tile':
        return tileText(variant)
      case 'subgroup-matrix':
        return subgroupMatrixText(variant)
      case 'thin':
        return schedule.kind === 'project' ? projectText(variant) : gradientText(variant)
    }
  },
  variants: () => [
    ...matrixVariants(),
    ...generalSchedules.flatMap((schedule) =>
      (['nt', 'nn', 'tn'] as const).flatMap((layout) =>
        widths.flatMap((width) =>
          floats.flatMap((a) => [
            ...floats.map((b) => ({
              layout,
              a,
              b,
              y: a,
              aWidth: width,
              bWidth: width,
              yWidth: storesVectors(schedule, layout) ? width : (1 as const),
              bias: 'none' as const,
              sideWidth: 0 as const,
              schedule,
            })),
            ...(layout === 'tn'
              ? []
              : [
                  {
                    layout,
                    a,
                    b: a,
                    y: a,
                    aWidth: width,
                    bWidth: width,
                    yWidth: storesVectors(schedule, layout) ? width : (1 as const),
                    bias: a,
                    sideWidth: width,
                    schedule,
                  },
                ]),
          ]),
        ),
      ),
    ),
  ],
})

/** A low-rank branch beside a product: adds `scale` · u · v. */
export interface SideBranch {
  /** [M, r] f32. */
  readonly u: WgpuTensor
  /** f32: [N, r] beside `nt`, [r, N] beside `nn`. */
  readonly v: WgpuTensor
  readonly scale: number
}

export interface MatmulProblem {
  /** The op it is for, in errors. */
  readonly op: string
  readonly layout: Layout
  readonly M: number
  readonly N: number
  readonly K: number
  readonly a: WgpuTensor
  readonly b: WgpuTensor | LazyWeight
  readonly y: WgpuTensor
  readonly bias?: WgpuTensor | undefined
  /** Not beside `tn`, and not together with `scale`. */
  readonly side?: SideBranch | undefined
  readonly scale?: number
}

/** Distances in elements: between rows, and between the operands of one head or batch item and the next. */
export interface ProductStrides {
  readonly lda: number
  readonly ldb: number
  readonly ldy: number
  readonly heads?: number
  readonly aBatch?: number
  readonly aHead?: number
  readonly bBatch?: number
  readonly bHead?: number
  readonly yBatch?: number
  readonly yHead?: number
}

/** One strided set of equal products, as a dispatch sees it. */
interface Dispatch {
  readonly shape: MatmulShape
  readonly schedule: MatmulSchedule
  readonly splits: number
  readonly bindings: Readonly<Record<string, Bound>>
  readonly a: WgpuTensor
  readonly b: WgpuTensor
  readonly y: WgpuTensor
  readonly bias?: WgpuTensor | undefined
  readonly side?: SideBranch | undefined
  readonly strides: ProductStrides
  readonly aFirst?: number
  readonly bFirst?: number
  readonly yFirst?: number
  readonly nFirst?: number
  readonly scale?: number
  /** Of the tiles, where not all are wanted. */
  readonly firstTiles?: number
}

function dispatchMatmul(run: Runner, dispatch: Dispatch): void {
  const { shape, schedule, splits, strides, side } = dispatch
  const { aFirst = 0, bFirst = 0, yFirst = 0, nFirst = 0, scale = 1 } = dispatch
  const { layout, M, N, K, products } = shape
  const { lda, ldb, ldy, heads = 1 } = strides
  const { aBatch = 0, aHead = 0, bBatch = 0, bHead = 0, yBatch = 0, yHead = 0 } = strides
  const rank = side ? side.u.shape.at(-1)! : 0
  const sideLdb = layout === 'nt' ? rank : ldb
  const aWidth = widthOf(lda, aBatch, aHead, aFirst, layout === 'tn' ? M : K)
  const bWidth = widthOf(ldb, bBatch, bHead, bFirst, layout === 'nt' ? K : N)
  const alike = schedule.unit === 'broadcast' && aWidth !== bWidth
  const variant: MatmulVariant = {
    layout,
    a: scalarOf(dispatch.a) as 'f32',
    b: scalarOf(dispatch.b) as 'f32',
    y: scalarOf(dispatch.y) as 'f32',
    aWidth: alike ? 1 : aWidth,
    bWidth: alike ? 1 : bWidth,
    yWidth: storesVectors(schedule, layout) ? widthOf(ldy, yBatch, yHead, yFirst, nFirst, N) : 1,
    bias: dispatch.bias ? (scalarOf(dispatch.bias) as 'f32') : 'none',
    sideWidth: side ? widthOf(rank, sideLdb) : 0,
    schedule,
  }
  const block = blockOf(schedule)
  const tilesM = Math.ceil(M / block.M)
  const tilesN = Math.ceil(N / block.N)
  const tiles = tilesM * tilesN * splits * products
  run.run(
    matmulKernel,
    variant,
    dispatch.bindings,
    {
      M,
      N,
      K,
      // Each split starts at a multiple of 16, so that vectors and blocks stay whole.
      split_k: Math.ceil(K / splits / 16) * 16,
      lda,
      ldb,
      ldy,
      heads,
      a_batch: aBatch,
      a_head: aHead,
      b_batch: bBatch,
      b_head: bHead,
      y_batch: yBatch,
      y_head: yHead,
      y_split: M * N,
      a_first: aFirst,
      b_first: bFirst,
      y_first: yFirst,
      n_first: nFirst,
      tiles_m: tilesM,
      tiles_n: tilesN,
      tiles,
      splits,
      scale: side ? side.scale : scale,
      rank,
      side_ldb: sideLdb,
    },
    schedule.unit === 'direct'
      ? Math.ceil(tiles / schedule.workgroupSize)
      : (dispatch.firstTiles ?? tiles),
  )
}

/** A product of matrices of any size: cut by the binding limit into windows, and along K where that keeps a GPU busy. */
export function matmul(run: Runner, problem: MatmulProblem): void {
  const { op, layout, M, N, K, a, b, y, side } = problem
  const size = ({ dtype }: { dtype: DType }): number => bytesPerElement[dtype]
  const columns = layout === 'nt' ? run.windows(op, N, { b: K * size(b) }) : [{ start: 0, end: N }]
  const contraction =
    layout === 'nt'
      ? [{ start: 0, end: K }]
      : run.windows(op, K, { b: N * size(b), ...(layout === 'tn' ? { a: M * size(a) } : {}) })
  const rowBytes = {
    y: N * size(y),
    ...(layout === 'tn' ? {} : { a: K * size(a) }),
    ...(side ? { side_a: side.u.shape.at(-1)! * 4 } : {}),
    ...(contraction.length > 1 ? { partial: contraction.length * N * 4 } : {}),
  }
  const makeB = rightOperand(run, b)
  for (const rows of run.windows(op, M, rowBytes)) {
    matmulRows(run, problem, makeB, rows, columns, contraction)
  }
}

/** The right operand in either order, each made once. */
function rightOperand(run: Runner, b: WgpuTensor | LazyWeight): (blocked: boolean) => WgpuTensor {
  const made = new Map<boolean, WgpuTensor>()
  return (blocked) => {
    let tensor = made.get(blocked)
    if (!tensor) {
      if ('make' in b) tensor = b.make(blocked)
      else tensor = blocked ? blockedWeight(run, b) : b
      made.set(blocked, tensor)
    }
    return tensor
  }
}

/** The rows of one window: a dispatch for each window of columns and of K. */
function matmulRows(
  run: Runner,
  problem: MatmulProblem,
  makeB: (blocked: boolean) => WgpuTensor,
  rows: RowWindow,
  columnWindows: readonly RowWindow[],
  kWindows: readonly RowWindow[],
): void {
  const { layout, M: allRows, N, K, a, y, bias, side, scale = 1 } = problem
  const M = rows.end - rows.start
  const size = ({ dtype }: WgpuTensor): number => bytesPerElement[dtype]
  const whole: MatmulShape = {
    layout,
    M,
    N,
    K,
    products: 1,
    // Literal contractions and distances do not go together with windows of them, nor do blocks of K with windows of columns.
    ...(kWindows.length > 1 || columnWindows.length > 1 || (layout === 'tn' && M < allRows)
      ? {}
      : {
          operands: {
            a: a.dtype,
            b: problem.b.dtype,
            y: y.dtype,
            biased: bias !== undefined,
            rank: side ? side.u.shape.at(-1)! : 0,
          },
        }),
  }
  const schedule = chooseMatmulSchedule(run.profile, whole)
  const splits = kWindows.length > 1 ? 1 : chooseSplits(run.profile, whole, schedule)
  const parts = Math.max(kWindows.length, splits)
  const isBlocked = schedule.unit === 'subgroup-matrix' && layout === 'nt'
  const b = makeB(isBlocked)
  const yRows = run.rows(y, rows, N * size(y))
  const partial = parts > 1 ? run.alloc([parts, M, N], 'f32') : undefined
  const last = parts === 1 ? lastWave(run.profile, whole, schedule) : undefined
  kWindows.forEach((ks, part) => {
    for (const columns of columnWindows) {
      const sideHere = part === 0 ? side : undefined
      dispatchMatmul(run, {
        shape: { layout, M, N: columns.end - columns.start, K: ks.end - ks.start, products: 1 },
        schedule,
        splits,
        a,
        b,
        y: partial ?? y,
        bias: partial ? undefined : bias,
        side: sideHere,
        bindings: {
          a: layout === 'tn' ? run.rows(a, ks, allRows * size(a)) : run.rows(a, rows, K * size(a)),
          b: isBlocked
            ? b
            : layout === 'nt'
              ? run.rows(b, columns, K * size(b))
              : run.rows(b, ks, N * size(b)),
          ...(bias && !partial ? { bias } : {}),
          ...(sideHere
            ? {
                side_a: run.rows(sideHere.u, rows, sideHere.u.shape.at(-1)! * 4),
                side_b: sideHere.v,
              }
            : {}),
          y: partial ?? yRows,
        },
        strides: {
          lda: layout === 'tn' ? allRows : K,
          ldb: layout === 'nt' ? K : N,
          ldy: N,
        },
        aFirst: layout === 'nn' ? ks.start : layout === 'tn' ? rows.start : 0,
        yFirst: kWindows.length > 1 ? part * M * N : 0,
        nFirst: columns.start,
        scale: partial ? 1 : scale,
        ...(last ? { firstTiles: last.tilesBefore } : {}),
      })
    }
  })
  if (partial) reduceSplits(run, { partial, y, yRows, M, N, splits: parts, bias, scale })
  if (last) {
    run.scope(() => matmulLastWave(run, problem, b, rows, schedule as SubgroupMatrixSchedule, last))
  }
}

/** The rows and columns of a window that are left over, in parts of the contraction. */
function matmulLastWave(
  run: Runner,
  { layout, N, K, a, y, bias, side, scale = 1 }: MatmulProblem,
  b: WgpuTensor,
  window: RowWindow,
  schedule: SubgroupMatrixSchedule,
  { firstRow, firstColumn, parts }: LastWave,
): void {
  const rows = { start: window.start + firstRow, end: window.end }
  const shape = { layout, M: rows.end - rows.start, N: N - firstColumn, K, products: 1 }
  const partial = run.alloc([parts, shape.M, shape.N], 'f32')
  const size = ({ dtype }: WgpuTensor): number => bytesPerElement[dtype]
  dispatchMatmul(run, {
    shape,
    schedule: { ...schedule, parts, K: K / parts },
    splits: parts,
    a,
    b,
    y: partial,
    side,
    bindings: {
      a: run.rows(a, rows, K * size(a)),
      b,
      ...(side ? { side_a: run.rows(side.u, rows, side.u.shape.at(-1)! * 4), side_b: side.v } : {}),
      y: partial,
    },
    strides: { lda: K, ldb: layout === 'nt' ? K : N, ldy: shape.N },
    nFirst: firstColumn,
  })
  reduceSplits(run, {
    partial,
    y,
    yRows: run.rows(y, rows, N * size(y)),
    M: shape.M,
    N: shape.N,
    ldy: N,
    nFirst: firstColumn,
    splits: parts,
    bias,
    scale,
  })
}

/** Equal products side by side, in heads of batch items: the scores and sums of attention. */
export interface BatchedProduct {
  readonly layout: Layout
  readonly M: number
  readonly N: number
  readonly K: number
  readonly batches: number
  readonly heads: number
  readonly a: WgpuTensor
  readonly b: WgpuTensor
  readonly y: WgpuTensor
  readonly strides: Omit<ProductStrides, 'heads'>
  readonly aFirst?: number
  readonly bFirst?: number
  readonly yFirst?: number
  readonly scale?: number
}

export function batchedMatmul(run: Runner, product: BatchedProduct): void {
  const { layout, M, N, K, batches, heads, strides, ...rest } = product
  const { a, b, y } = product
  const shape: MatmulShape = { layout, M, N, K, products: batches * heads }
  dispatchMatmul(run, {
    ...rest,
    bindings: { a, b, y },
    shape,
    schedule: chooseMatmulSchedule(run.profile, shape),
    splits: 1,
    strides: { ...strides, heads },
  })
}
