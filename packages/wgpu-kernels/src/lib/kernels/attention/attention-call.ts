// Axes: B batch, N queries, M keys, H heads, D head channels.
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'

/** Operands of an attention, checked and readable by kernels. */
export interface AttentionCall {
  readonly B: number
  readonly N: number
  readonly M: number
  readonly H: number
  readonly D: number
  readonly q: WgpuTensor
  readonly k: WgpuTensor
  readonly v: WgpuTensor
  readonly scale: number
  /** [H, N, M] f32. */
  readonly bias: WgpuTensor | undefined
  /** [B, M] f32. */
  readonly keyBias: WgpuTensor | undefined
}

/** The same with what the way back needs. */
export interface AttentionGradCall extends AttentionCall {
  readonly dout: WgpuTensor
  readonly out: WgpuTensor
  readonly lse: WgpuTensor
}

/** How the forward and backward pass are computed: one member a unit. */
export interface AttentionUnit {
  /** Fills `out` [B, N, H, D] and `lse` [B, H, N]. */
  forward(call: AttentionCall, out: WgpuTensor, lse: WgpuTensor): void
  /** Fills gradients of the shapes of q, k and v. */
  backward(call: AttentionGradCall, dq: WgpuTensor, dk: WgpuTensor, dv: WgpuTensor): void
}
