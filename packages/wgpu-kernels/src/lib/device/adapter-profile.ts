import { multiprocessorsOf } from '../tuning/last-wave.ts'
import type { MatrixBlockName, MatrixUnitName } from '../tuning/matrix-unit.ts'

/**
 * What kernels and schedules may know of the adapter. Everything a variant is chosen by is here, so a choice can be tested
 * without a GPU.
 */
export interface AdapterProfile {
  /** `software` runs workgroups on processor cores and has no fast workgroup memory; `gpu` is everything else. */
  readonly adapterClass: 'software' | 'gpu'
  readonly vendor: string
  readonly architecture: string
  /** Name and driver, as the adapter says them. */
  readonly device: string
  readonly driver: string
  /** Kernels may read and write f16 (feature shader-f16). */
  readonly f16: boolean
  readonly subgroups: boolean
  readonly subgroupSize: { readonly min: number; readonly max: number }
  /** Feature chromium-experimental-subgroup-matrix, and the shapes it offers. */
  readonly subgroupMatrix: readonly SubgroupMatrixConfig[]
  readonly timestamps: boolean
  /** How many there are that run workgroups apart, where it is known. */
  readonly multiprocessors?: number | undefined
  /** Units on subgroup matrices that failed their self-test here. */
  readonly refusedUnits: ReadonlySet<MatrixUnitName>
  /** How the dense unit on subgroup matrices cuts products up. */
  readonly block: MatrixBlockName
  readonly limits: {
    /** Bytes one binding may show of a buffer. */
    readonly maxBindingBytes: number
    readonly maxBufferBytes: number
    readonly maxWorkgroupsPerDimension: number
    readonly maxWorkgroupBytes: number
    readonly maxInvocations: number
    readonly maxStorageBuffers: number
    readonly storageAlignment: number
    readonly uniformAlignment: number
  }
}

/** One shape the adapter multiplies in hardware. */
export interface SubgroupMatrixConfig {
  readonly componentType: string
  readonly resultComponentType: string
  readonly M: number
  readonly N: number
  readonly K: number
}

/** What WebGPU tells of an adapter; `GPUAdapterInfo` fits. */
export interface AdapterDescription {
  readonly vendor?: string
  readonly architecture?: string
  readonly device?: string
  readonly description?: string
  readonly isFallbackAdapter?: boolean
  readonly subgroupMinSize?: number
  readonly subgroupMaxSize?: number
}

/** True for drivers that compute on the processor. */
export function isSoftwareAdapter(info: AdapterDescription): boolean {
  const names = `${info.device ?? ''} ${info.description ?? ''} ${info.architecture ?? ''}`
  return (
    info.isFallbackAdapter === true ||
    /llvmpipe|lavapipe|swiftshader|software|basic render/i.test(names)
  )
}

/** A profile in parts: what to treat an adapter as, instead of what it says. */
export type ProfileOverrides = Partial<Omit<AdapterProfile, 'limits'>> & {
  readonly limits?: Partial<AdapterProfile['limits']>
}

/** The part of a profile that tests and measurements on the adapter decide. */
export interface Findings {
  readonly refusedUnits: Set<MatrixUnitName>
  block: MatrixBlockName
  /** Not found but known; here for the self-test, which asks as if there were few. */
  multiprocessors?: number | undefined
}

/** Reads the profile of a device. */
export function readProfile(
  device: GPUDevice,
  info: AdapterDescription,
  overrides: ProfileOverrides = {},
): AdapterProfile & Findings {
  const { limits } = device
  const features = device.features as ReadonlySet<string>
  return {
    adapterClass: isSoftwareAdapter(info) ? 'software' : 'gpu',
    vendor: info.vendor ?? '',
    architecture: info.architecture ?? '',
    device: info.device || info.architecture || info.vendor || 'unnamed adapter',
    driver: info.description ?? '',
    f16: features.has('shader-f16'),
    subgroups: features.has('subgroups'),
    subgroupSize: { min: info.subgroupMinSize ?? 4, max: info.subgroupMaxSize ?? 128 },
    subgroupMatrix: features.has('chromium-experimental-subgroup-matrix')
      ? ((info as { subgroupMatrixConfigs?: readonly SubgroupMatrixConfig[] })
          .subgroupMatrixConfigs ?? [])
      : [],
    timestamps: features.has('timestamp-query'),
    multiprocessors: multiprocessorsOf(info.device ?? ''),
    block: '256x128x64',
    ...overrides,
    refusedUnits: new Set(overrides.refusedUnits),
    limits: {
      maxBindingBytes: limits.maxStorageBufferBindingSize,
      maxBufferBytes: limits.maxBufferSize,
      maxWorkgroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
      maxWorkgroupBytes: limits.maxComputeWorkgroupStorageSize,
      maxInvocations: limits.maxComputeInvocationsPerWorkgroup,
      maxStorageBuffers: limits.maxStorageBuffersPerShaderStage,
      storageAlignment: limits.minStorageBufferOffsetAlignment,
      uniformAlignment: limits.minUniformBufferOffsetAlignment,
      ...overrides.limits,
    },
  }
}
