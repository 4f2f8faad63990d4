// Axes: B batch, N queries, M keys, H heads of 128 channels.
import { defineKernel, reads, writes } from '../../../program/define-kernel.ts'
import type { Runner } from '../../../program/runner.ts'
import type { WgpuTensor } from '../../../tensor/wgpu-tensor.ts'
import { rowDot } from '../../row-dot/row-dot.ts'
import type { AttentionCall, AttentionUnit } from '../attention-call.ts'
import { gradQSplits, planGradQ, type GradQPlan } from '../../../tuning/attention-schedule.ts'
import {
  MATRIX_ATTENTION_BLOCK,
  MATRIX_ATTENTION_SIZE,
  MATRIX_GRAD_Q_SIZE,
  matrixForwardText,
  matrixGradKvText,
  matrixGradQText,
  matrixProductText,
  matrixSumText,
  type MatrixAttentionVariant,
  type MatrixGradKvVariant,
  type MatrixGradQVariant,
} from './matrix.wgsl.ts'

const uniforms = {
  N: 'u32',
  M: 'u32',
  /** Rows of the side whose blocks workgroups own: N, or M for the gradients of keys. */
  owned: 'u32',
  heads: 'u32',
  /** Heads of this dispatch, of all heads of all batch items. */
  first_head: 'u32',
  chunk_heads: 'u32',
  /** Queries of this dispatch, where it does not take all. */
  q_first: 'u32',
  q_rows: 'u32',
  splits: 'u32',
  scale: 'f32',
} as const

const variants = (): readonly MatrixAttentionVariant[] => [{ ragged: false }, { ragged: true }]
const rows = reads('u32', 4)
const written = writes('u32', 4)

/**
 * Flash attention on subgroup matrices, forward. f16 rows are bound as vectors of eight.
 *
 * - `q` [B, N, H, 128], `k`, `v` [B, M, H, 128] f16, read
 * - `out` [B, N, H, 128] f16, `lse` [B, H, N] f32, written
 */
export const matrixForward = defineKernel<MatrixAttentionVariant>({
  name: 'matrix-attention',
  bindings: () => ({ q: rows, k: rows, v: rows, out: written, lse: writes('f32') }),
  uniforms,
  workgroupSize: () => MATRIX_ATTENTION_SIZE,
  wgsl: matrixForwardText,
  variants,
})

const gradInputs = {
  q: rows,
  k: rows,
  v: rows,
  dout: rows,
  lse: reads('f32'),
  delta: reads('f32'),
} as const

/**
 * Its gradients of keys and values: `delta` [B, H, N] f32 is the row sum of dout · out.
 *
 * - `ds` [heads, rows, M] f16, `sums` f32 fragments: written, see the variant
 */
export const matrixGradKv = defineKernel<MatrixGradKvVariant>({
  name: 'matrix-attention-dkv',
  bindings: ({ scores, parts }) => ({
    ...gradInputs,
    ...(scores ? { ds: written } : {}),
    ...(parts ? { sums: written } : {}),
    dk: written,
    dv: written,
  }),
  uniforms,
  workgroupSize: () => MATRIX_ATTENTION_SIZE,
  wgsl: matrixGradKvText,
  variants: () =>
    variants().flatMap((variant) => [
      { ...variant, scores: false, parts: false },
      { ...variant, scores: true, parts: false },
      { ...variant, scores: true, parts: true },
    ]),
})

/**
 * The gradient of queries from dS.
 *
 * - `ds` [heads, rows, M] f16, `k` [B, M, H, 128] f16, read
 * - `dq` [B, N, H, 128] f16, or `partial` [splits, heads, rows, 128] f32, written
 */
export const matrixGradQProduct = defineKernel<MatrixGradQVariant>({
  name: 'matrix-attention-ds-k',
  bindings: ({ split }) => ({
    ds: rows,
    k: rows,
    ...(split ? { partial: writes('f32', 4) } : { dq: written }),
  }),
  uniforms,
  workgroupSize: () => MATRIX_GRAD_Q_SIZE,
  wgsl: matrixProductText,
  variants: () =>
    [512, 32760].flatMap((M) => [false, true].map((split) => ({ M, heads: 40, split }))),
})

/** Adds the parts of `matrixGradQProduct`. */
export const matrixGradQSum = defineKernel<Record<string, never>>({
  name: 'matrix-attention-dq-sum',
  bindings: () => ({ partial: reads('f32', 4), dq: written }),
  uniforms,
  workgroupSize: () => MATRIX_GRAD_Q_SIZE,
  wgsl: matrixSumText,
  variants: () => [{}],
})

/** Its gradient of queries. */
export const matrixGradQ = defineKernel<MatrixAttentionVariant>({
  name: 'matrix-attention-dq',
  bindings: () => ({ ...gradInputs, dq: written }),
  uniforms,
  workgroupSize: () => MATRIX_ATTENTION_SIZE,
  wgsl: matrixGradQText,
  variants,
})

/** Tensor-core kernels, for what `chooseAttentionUnit` finds fitting. */
export function matrix(run: Runner): AttentionUnit {
  const values = ({ B, N, M, H, scale }: AttentionCall, owned: number): Record<string, number> => ({
    N,
    M,
    owned,
    heads: H,
    first_head: 0,
    chunk_heads: B * H,
    q_first: 0,
    q_rows: N,
    splits: 1,
    scale,
  })
  const groups = ({ B, H }: AttentionCall, owned: number): number =>
    Math.ceil(owned / MATRIX_ATTENTION_BLOCK) * B * H
  return {
    forward(call, out, lse) {
      const { q, k, v, N, M } = call
      run.run(
        matrixForward,
        { ragged: M % 32 !== 0 },
        { q, k, v, out, lse },
        values(call, N),
        groups(call, N),
      )
    },
    backward(call, dq, dk, dv) {
      const { q, k, v, N, M, dout, out, lse } = call
      const delta: WgpuTensor = rowDot(run, dout, out)
      const inputs = { q, k, v, dout, lse, delta }
      const plan = planGradQ(call, run.profile.limits)
      if (plan) {
        const gradient = { ...inputs, dq, dk, dv }
        run.scope(() => backwardInParts(run, call, gradient, plan, values(call, M)))
        return
      }
      run.run(
        matrixGradKv,
        { ragged: N % 16 !== 0, scores: false, parts: false },
        { ...inputs, dk, dv },
        values(call, M),
        groups(call, M),
      )
      run.run(
        matrixGradQ,
        { ragged: M % 16 !== 0 },
        { ...inputs, dq },
        values(call, N),
        groups(call, N),
      )
    },
  }
}

/**
 * The gradient of queries takes two of its three products from the gradient of keys: dS goes through memory, some heads and
 * queries at a time.
 */
function backwardInParts(
  run: Runner,
  { N, M, H, B }: AttentionCall,
  tensors: Readonly<
    Record<'q' | 'k' | 'v' | 'dout' | 'lse' | 'delta' | 'dq' | 'dk' | 'dv', WgpuTensor>
  >,
  { heads, rows: partRows }: GradQPlan,
  all: Readonly<Record<string, number>>,
): void {
  const { dq, ...others } = tensors
  const { k } = others
  const parts = partRows < N
  const blocks = Math.ceil(M / MATRIX_ATTENTION_BLOCK)
  const ds = run.alloc([heads, partRows, M], 'f16')
  // Every fragment of every subgroup of a workgroup.
  const sums = parts ? run.alloc([heads * blocks * 8 * 16 * 256], 'f32') : undefined
  const splits = gradQSplits(heads * Math.ceil(partRows / MATRIX_ATTENTION_BLOCK), M)
  const partial = splits > 1 ? run.alloc([splits, heads, partRows, 128], 'f32') : undefined
  for (let first = 0; first < B * H; first += heads) {
    const count = Math.min(heads, B * H - first)
    for (let start = 0; start < N; start += partRows) {
      const rowCount = Math.min(partRows, N - start)
      const uniforms = {
        ...all,
        first_head: first,
        chunk_heads: count,
        q_first: start,
        q_rows: rowCount,
        splits,
      }
      run.run(
        matrixGradKv,
        { ragged: N % 16 !== 0, scores: true, parts },
        { ...others, ds, ...(sums ? { sums } : {}) },
        uniforms,
        blocks * count,
      )
      run.run(
        matrixGradQProduct,
        { M, heads: H, split: splits > 1 },
        { ds, k, ...(partial ? { partial } : { dq }) },
        uniforms,
        Math.ceil(rowCount / MATRIX_ATTENTION_BLOCK) * count * splits,
      )
      if (partial) {
        run.run(
          matrixGradQSum,
          {},
          { partial, dq },
          uniforms,
          Math.ceil((count * rowCount * 16) / MATRIX_GRAD_Q_SIZE),
        )
      }
    }
  }
}
