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

/** How much of a backward pass goes through memory as dS at a time. */
export interface GradQPlan {
  readonly heads: number
  /** Queries: all of them, or a multiple of 128. */
  readonly rows: number
}

/** Workgroups that fill a large GPU twice with one, once with two on each multiprocessor. */
const FULL_GROUPS = 264

/** The parts in which dS goes through memory; none where its rows would not lie on whole vectors. */
export function planGradQ(
  { B, N, M, H }: Pick<AttentionCall, 'B' | 'N' | 'M' | 'H'>,
  { scratchBytes, maxBindingBytes }: AdapterProfile['limits'],
): GradQPlan | undefined {
  if (M % 8 !== 0) return undefined
  const bytes = Math.min(scratchBytes, maxBindingBytes)
  const wanted = Math.ceil(FULL_GROUPS / Math.ceil(M / MATRIX_ATTENTION_BLOCK))
  const fitting = Math.floor(bytes / (MATRIX_ATTENTION_BLOCK * M * 2))
  const heads = Math.min(B * H, wanted, fitting)
  if (heads === 0) return undefined
  if (heads * N * M * 2 <= bytes) return { heads, rows: N }
  const most = Math.floor(bytes / (heads * M * 2) / MATRIX_ATTENTION_BLOCK) * MATRIX_ATTENTION_BLOCK
  const parts = Math.ceil(N / most)
  return {
    heads,
    rows: Math.ceil(N / parts / MATRIX_ATTENTION_BLOCK) * MATRIX_ATTENTION_BLOCK,
  }
}

/** Fewest keys worth a part of their own. */
const SHORTEST_SPLIT = 512

/** Into how many parts the keys of dS K are cut, where the blocks of queries alone would leave a GPU idle. */
export function gradQSplits(blocks: number, M: number): number {
  return Math.max(1, Math.min(8, Math.floor(FULL_GROUPS / blocks), Math.floor(M / SHORTEST_SPLIT)))
}
