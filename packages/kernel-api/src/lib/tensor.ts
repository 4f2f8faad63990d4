/** Element types a tensor may have. A device says which it computes in; bf16 is storage only where it cannot. */
export type DType = 'f32' | 'f16' | 'bf16' | 'i32' | 'u32'

/** Bytes of one element. */
export const bytesPerElement: Readonly<Record<DType, number>> = {
  f32: 4,
  f16: 2,
  bf16: 2,
  i32: 4,
  u32: 4,
}

/**
 * An array on a device: row-major and dense. It has no methods; `Ops` works on it and `Device` moves it. A tensor object
 * is its own identity: the autograd tape knows tensors by reference.
 */
export interface Tensor {
  readonly shape: readonly number[]
  readonly dtype: DType
  /** The backend's own: a buffer and an offset, an array, a device pointer. */
  readonly handle: unknown
}

/**
 * How a packed weight stores its codes.
 *
 * - `uint4`: asymmetric groups of `groupSize` along K, torchao's arrangement: w = (code − zero) · scale. `codes` [N, K/8]
 *   u32, eight codes a word, code k in bits 4·(k mod 8); `scales` and `zeros` [N, K/groupSize] f16 or f32.
 * - `float8_e4m3`: one scale a row: w = e4m3(code) · scale. `codes` [N, K/4] u32, four codes a word, lowest byte first;
 *   `scales` [N] f16 or f32.
 */
export type PackedFormat = 'uint4' | 'float8_e4m3'

/** Elements along K that share a scale in `uint4` unless asked otherwise. */
export const defaultGroupSize = 64

/** A frozen weight [N, K] whose elements take less than 16 bits. A backend may expand it once per use. */
export interface PackedWeight {
  readonly format: PackedFormat
  /** [N, K] of the matrix it stands for. */
  readonly shape: readonly [number, number]
  readonly codes: Tensor
  readonly scales: Tensor
  readonly zeros?: Tensor
  /** Elements of K that share a scale; absent for a scale a row. */
  readonly groupSize?: number
}

/** What `linear` multiplies by: a dense [N, K] tensor or a packed one. */
export type Weight = Tensor | PackedWeight

/** Tells a packed weight from a dense one. */
export function isPackedWeight(weight: Weight): weight is PackedWeight {
  return 'format' in weight
}

/** Product of the extents: 1 for a scalar. */
export function numElements(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1)
}
