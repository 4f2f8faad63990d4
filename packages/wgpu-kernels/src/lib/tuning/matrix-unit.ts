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

/** How the dense unit cuts a product up: a workgroup's block, and the tile of each of its subgroups. */
export interface MatrixBlock {
  readonly blockM: number
  readonly blockN: number
  readonly blockK: number
  readonly tileM: number
  readonly tileN: number
}

/**
 * Blocks of the dense unit, the default first: the best of 150 schedules with tiles of 64 × 64 measured on one H100, where those
 * differ by little (docs/log.md). Loads, stores and fragments share one path to a multiprocessor's memory, so higher tiles
 * move less for each product. Which is best on another adapter, tuning finds out.
 */
export const matrixBlocks = {
  '128x128': { blockM: 128, blockN: 128, blockK: 32, tileM: 64, tileN: 64 },
  '160x128': { blockM: 160, blockN: 128, blockK: 32, tileM: 80, tileN: 64 },
  '192x128': { blockM: 192, blockN: 128, blockK: 16, tileM: 96, tileN: 64 },
  '256x128': { blockM: 256, blockN: 128, blockK: 32, tileM: 64, tileN: 64 },
  '128x256': { blockM: 128, blockN: 256, blockK: 32, tileM: 64, tileN: 64 },
} as const satisfies Record<string, MatrixBlock>
export type MatrixBlockName = keyof typeof matrixBlocks
