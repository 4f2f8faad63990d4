import type { AdapterProfile } from '../device/adapter-profile.ts'

/** Kernels on subgroup matrices: each must prove itself on an adapter, and falls back to the general unit apart. */
export const matrixUnits = ['linear', 'attention', 'attention-gradient', 'conv3d'] as const
export type MatrixUnitName = (typeof matrixUnits)[number]

/**
 * True if the adapter multiplies f16 fragments of 16 × 16 × 16 into f32 in subgroups of 32: what the subgroup-matrix kernels
 * are written for (NVIDIA through Vulkan). Drivers have returned wrong products, so a unit that failed its self-test does not
 * count.
 */
export function hasMatrixUnit(
  { f16, subgroups, subgroupSize, subgroupMatrix, refusedUnits }: AdapterProfile,
  unit: MatrixUnitName,
): boolean {
  return (
    f16 &&
    subgroups &&
    subgroupSize.min === 32 &&
    subgroupSize.max === 32 &&
    !refusedUnits.has(unit) &&
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

/** How the dense unit cuts a product up: a workgroup's block, and how much of K a step takes of `a`. */
export interface MatrixBlock {
  readonly blockM: number
  readonly blockN: number
  readonly depthA: 32 | 64
}

/**
 * Blocks of the dense unit; of those that fit a product and the adapter the first is the default, as measured on an H100
 * (docs/log.md). Which is best on an adapter, tuning finds out.
 */
export const matrixBlocks = {
  '256x128x64': { blockM: 256, blockN: 128, depthA: 64 },
  '128x128x32': { blockM: 128, blockN: 128, depthA: 32 },
} as const satisfies Record<string, MatrixBlock>
export type MatrixBlockName = keyof typeof matrixBlocks
