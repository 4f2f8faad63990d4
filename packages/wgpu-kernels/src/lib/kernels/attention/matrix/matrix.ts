// Axes: B batch, N queries, M keys, H heads of 128 channels.
import { defineKernel, reads, writes } from '../../../program/define-kernel.ts'
import type { Runner } from '../../../program/runner.ts'
import type { WgpuTensor } from '../../../tensor/wgpu-tensor.ts'
import { rowDot } from '../../row-dot/row-dot.ts'
import type { AttentionCall, AttentionUnit } from '../attention-call.ts'
import {
  BACKWARD_TILE,
  FORWARD_TILE,
  MATRIX_ATTENTION_BLOCK,
  MATRIX_ATTENTION_SIZE,
  matrixForwardText,
  matrixGradKvText,
  matrixGradQText,
  type MatrixAttentionVariant,
} from './matrix.wgsl.ts'

const uniforms = {
  N: 'u32',
  M: 'u32',
  /** Rows of the side whose blocks workgroups own: N, or M for the gradients of keys. */
  owned: 'u32',
  heads: 'u32',
  /** Heads of all batch items. */
  all_heads: 'u32',
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
 */
export const matrixGradKv = defineKernel<MatrixAttentionVariant>({
  name: 'matrix-attention-dkv',
  bindings: () => ({ ...gradInputs, dk: written, dv: written }),
  uniforms,
  workgroupSize: () => MATRIX_ATTENTION_SIZE,
  wgsl: matrixGradKvText,
  variants,
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
    all_heads: B * H,
    scale,
  })
  const groups = ({ B, H }: AttentionCall, owned: number): number =>
    Math.ceil(owned / MATRIX_ATTENTION_BLOCK) * B * H
  return {
    forward(call, out, lse) {
      const { q, k, v, N, M } = call
      run.run(
        matrixForward,
        { ragged: M % FORWARD_TILE !== 0 },
        { q, k, v, out, lse },
        values(call, N),
        groups(call, N),
      )
    },
    backward(call, dq, dk, dv) {
      const { q, k, v, N, M, dout, out, lse } = call
      const delta: WgpuTensor = rowDot(run, dout, out)
      const inputs = { q, k, v, dout, lse, delta }
      run.run(
        matrixGradKv,
        { ragged: N % BACKWARD_TILE !== 0 },
        { ...inputs, dk, dv },
        values(call, M),
        groups(call, M),
      )
      run.run(
        matrixGradQ,
        { ragged: M % BACKWARD_TILE !== 0 },
        { ...inputs, dq },
        values(call, N),
        groups(call, N),
      )
    },
  }
}
