// Axes: B batch, N queries, M keys, H heads, D head channels.
import { scalarOf } from '../../../program/compute-dtype.ts'
import { defineKernel } from '../../../program/define-kernel.ts'
import type { Bound, Runner } from '../../../program/runner.ts'
import type { WgpuTensor } from '../../../tensor/wgpu-tensor.ts'
import { rowDot } from '../../row-dot/row-dot.ts'
import type { AttentionCall, AttentionUnit } from '../attention-call.ts'
import { FLASH_WORKGROUP, flashBindings, flashText, TILE, type FlashVariant } from './flash.wgsl.ts'

const columnChoices = [32, 64, 96, 128] as const

/**
 * Attention that never stores its scores (Dao et al. 2022, 2023): tiles of 32 × 32 in workgroup memory, heads up to any size
 * in slices of 128 channels. The backward pass has one kernel for dq and one for dk and dv, so no sum crosses workgroups.
 *
 * - `q`, `dout` [B, N, H, D], `k`, `v` [B, M, H, D] dtype, read · `bias` [H, N, M], `key_bias` [B, M] f32, read
 * - `lse` [B, H, N] f32, written (backward: read) · `delta` [B, H, N] f32, read
 * - `out` or `dq` as q, `dk` as k, `dv` as v, written
 */
export const flashKernel = defineKernel<FlashVariant>({
  name: 'flash-attention',
  bindings: flashBindings,
  uniforms: { B: 'u32', N: 'u32', M: 'u32', H: 'u32', D: 'u32', scale: 'f32' },
  workgroupSize: () => FLASH_WORKGROUP,
  wgsl: flashText,
  variants: () =>
    (['forward', 'dq', 'dkv'] as const).flatMap((pass) =>
      (['f32', 'f16'] as const).flatMap((dtype) =>
        [false, true].flatMap((biased) =>
          columnChoices.map((columns) => ({
            pass,
            q: dtype,
            k: dtype,
            v: dtype,
            dout: dtype,
            bias: biased,
            keyBias: biased,
            columns,
          })),
        ),
      ),
    ),
})

/** Slice of the channels one workgroup computes. */
export function flashColumns(D: number): 32 | 64 | 96 | 128 {
  return columnChoices.find((columns) => columns >= D) ?? 128
}

/** The fused kernels, for adapters with workgroup memory of their own. */
export function flash(run: Runner): AttentionUnit {
  const launch = (
    call: AttentionCall,
    pass: FlashVariant['pass'],
    tensors: Readonly<Record<string, Bound>>,
    dout: WgpuTensor,
    rows: number,
  ): void => {
    const { B, N, M, H, D, q, k, v, scale, bias, keyBias } = call
    const columns = flashColumns(D)
    run.run(
      flashKernel,
      {
        pass,
        q: scalarOf(q) as 'f32',
        k: scalarOf(k) as 'f32',
        v: scalarOf(v) as 'f32',
        dout: scalarOf(dout) as 'f32',
        bias: bias !== undefined,
        keyBias: keyBias !== undefined,
        columns,
      },
      {
        q,
        k,
        v,
        ...(bias ? { bias } : {}),
        ...(keyBias ? { key_bias: keyBias } : {}),
        ...tensors,
      },
      { B, N, M, H, D, scale },
      Math.ceil(rows / TILE) * Math.ceil(D / columns) * H * B,
    )
  }
  return {
    forward(call, out, lse) {
      launch(call, 'forward', { out, lse }, out, call.N)
    },
    backward(call, dq, dk, dv) {
      const { dout, out, lse } = call
      const delta = rowDot(run, dout, out)
      launch(call, 'dq', { dout, lse, delta, dq }, dout, call.N)
      launch(call, 'dkv', { dout, lse, delta, dk, dv }, dout, call.M)
    },
  }
}
