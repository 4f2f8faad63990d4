import type { AdapterProfile } from '../device/adapter-profile.ts'

/** How attention is computed; a further unit (subgroup matrices) is one more name. */
export type AttentionUnitName = 'materialised' | 'flash'

/** Storage bindings the backward kernel of `flash` needs with both biases. */
const FLASH_BINDINGS = 10

export function chooseAttentionUnit({ adapterClass, limits }: AdapterProfile): AttentionUnitName {
  return adapterClass === 'software' || limits.maxStorageBuffers < FLASH_BINDINGS
    ? 'materialised'
    : 'flash'
}
