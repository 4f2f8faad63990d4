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

/** Head size above which a fused tile leaves no room on a multiprocessor for others: the VAE's 384 ran at 2 TFLOP/s. */
const FLASH_WIDEST = 128

export function chooseAttentionUnit(
  profile: AdapterProfile,
  { D, N, M, q, k, v, bias, keyBias }: AttentionCall,
  pass: 'attention' | 'attention-gradient',
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
  if (fitsMatrix && hasMatrixUnit(profile, pass)) return 'matrix'
  return D > FLASH_WIDEST ? 'materialised' : 'flash'
}
