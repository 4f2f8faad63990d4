import type { DType, Tensor } from '@kinora/kernel-api'

import { castInto } from '../kernels/cast/cast.ts'
import type { WgpuTensor } from '../tensor/wgpu-tensor.ts'
import type { Scalar } from './define-kernel.ts'
import type { Runner } from './runner.ts'

/** WGSL scalar of a dtype that kernels can read here. */
export function scalarOf(tensor: WgpuTensor): Scalar {
  // `computable` has replaced bf16.
  return tensor.dtype as Scalar
}

/** True if kernels on this adapter read and write the dtype itself. */
export function isComputable(run: Runner, dtype: DType): boolean {
  return dtype !== 'bf16' && (dtype !== 'f16' || run.profile.f16)
}

/**
 * The tensor as kernels can read it: itself, or an f32 copy of a dtype this adapter only stores. The copy belongs to the scope
 * around the op.
 */
export function computable(run: Runner, op: string, tensor: Tensor): WgpuTensor {
  const own = run.own(op, tensor)
  if (isComputable(run, own.dtype)) return own
  const wide = run.alloc(own.shape, 'f32')
  castInto(run, own, wide)
  return wide
}

/** A result of any dtype: `fill` writes it in one that kernels can write, and it is narrowed where that differs. */
export function produce(
  run: Runner,
  shape: readonly number[],
  dtype: DType,
  fill: (y: WgpuTensor) => void,
): WgpuTensor {
  const y = run.alloc(shape, isComputable(run, dtype) ? dtype : 'f32')
  fill(y)
  if (y.dtype === dtype) return y
  const narrow = run.alloc(shape, dtype)
  castInto(run, y, narrow)
  return narrow
}
