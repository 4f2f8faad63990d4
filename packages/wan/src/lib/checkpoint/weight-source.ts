import type { Device, PackedWeight, Tensor } from '@kinora/kernel-api'

/** What a loaded weight is held in. */
export type WeightDType = 'f32' | 'f16' | 'bf16'

/** Where the weights of one network come from. */
export interface WeightSource {
  has(name: string): boolean
  /**
   * Copies one tensor to a device, in the shape it is stored in. The caller owns it.
   *
   * A number that is not finite, or that `fits` cannot hold, is an error of this call, of a later one, or of `settle`: checks
   * run on the device, behind the loading.
   *
   * @param fits what its numbers will be computed in; that of `dtype` unless given
   */
  load(name: string, device: Device, dtype: WeightDType, fits?: 'f32' | 'f16'): Promise<Tensor>
  /** Copies a weight that is stored packed; undefined for one that is not. Checked as in `load`. */
  loadPacked?(name: string, device: Device, fits?: 'f32' | 'f16'): Promise<PackedWeight | undefined>
  /** Some rows of a tensor of two axes, which is not loaded as a whole. */
  loadRows?(
    name: string,
    rows: readonly number[],
    device: Device,
    dtype: WeightDType,
  ): Promise<Tensor>
  /** Waits for the checks of what was loaded so far. */
  settle?(): Promise<void>
}
