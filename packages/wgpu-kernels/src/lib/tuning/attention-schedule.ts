import type { AdapterProfile } from '../device/adapter-profile.ts'
import type { AttentionCall } from '../kernels/attention/attention-call.ts'
import {
  MATRIX_ATTENTION_BLOCK,
  MATRIX_ATTENTION_BYTES,
  MATRIX_ATTENTION_SIZE,
} from '../kernels/attention/matrix/matrix.wgsl.ts'
import { hasMatrixUnit } from './matrix-unit.ts'

/** How attention is computed. */
export type AttentionUnitName = 'materialised' | 'flash' | 'matrix'

/** Storage bindings the backward kernel of `flash` needs with both biases. */
const FLASH_BINDINGS = 10

export function chooseAttentionUnit(
  profile: AdapterProfile,
  { D, N, M, q, k, v, bias, keyBias }: AttentionCall,
): AttentionUnitName {
  const { adapterClass, limits } = profile
  if (adapterClass === 'software' || limits.maxStorageBuffers < FLASH_BINDINGS)
    return 'materialised'
  const fitsMatrix =
    D === 128 &&
    Math.min(N, M) >= MATRIX_ATTENTION_BLOCK &&
    !bias &&
    !keyBias &&
    [q, k, v].every(({ dtype }) => dtype === 'f16') &&
    limits.maxWorkgroupBytes >= MATRIX_ATTENTION_BYTES &&
    limits.maxInvocations >= MATRIX_ATTENTION_SIZE
  return fitsMatrix && hasMatrixUnit(profile) ? 'matrix' : 'flash'
}
