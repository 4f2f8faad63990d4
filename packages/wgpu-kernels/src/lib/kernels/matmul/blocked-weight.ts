import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { permute } from '../strided-copy/strided-copy.ts'
import { WEIGHT_BLOCK } from './units/subgroup-matrix.wgsl.ts'

/** A right operand of a product that is made only when it is known how it has to lie. */
export interface LazyWeight {
  readonly dtype: 'f32' | 'f16'
  /** [N, K] row by row; `blocked` in the order of `blockedWeight`, f16 only. */
  readonly make: (blocked: boolean) => WgpuTensor
}

/**
 * A dense f16 weight [N, K] as [K / 32, N, 32]: the 32 values of K that a step of the dense unit multiplies lie row behind row, so
 * that it reads whole cache lines.
 */
export function blockedWeight(run: Runner, weight: WgpuTensor): WgpuTensor {
  const [N, K] = weight.shape as [number, number]
  return permute(run, run.view(weight, [N, K / WEIGHT_BLOCK, WEIGHT_BLOCK]), [1, 0, 2])
}
