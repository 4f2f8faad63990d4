import type { AdapterProfile } from '../device/adapter-profile.ts'

/**
 * True if the adapter multiplies f16 fragments of 16 × 16 × 16 into f32 in subgroups of 32: what the subgroup-matrix kernels
 * are written for (NVIDIA through Vulkan).
 */
export function hasMatrixUnit({
  f16,
  subgroups,
  subgroupSize,
  subgroupMatrix,
}: AdapterProfile): boolean {
  return (
    f16 &&
    subgroups &&
    subgroupSize.min === 32 &&
    subgroupSize.max === 32 &&
    subgroupMatrix.some(
      ({ componentType, resultComponentType, M, N, K }) =>
        componentType === 'f16' &&
        resultComponentType === 'f32' &&
        M === 16 &&
        N === 16 &&
        K === 16,
    )
  )
}
