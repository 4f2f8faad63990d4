import type { Device, Tensor } from '@kinora/kernel-api'

/** Where the weights of one network come from. */
export interface WeightSource {
  has(name: string): boolean
  /** Copies one tensor to a device, in the shape it is stored in. */
  load(name: string, device: Device, dtype: 'f32' | 'f16'): Promise<Tensor>
}
