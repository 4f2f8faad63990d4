import type { Device, Tensor, Weight } from '@kinora/kernel-api'
import { keptFromScope } from '../layer-chain.ts'
import type { WeightSource } from './weight-source.ts'

/** A frozen linear: weight [out, in], bias [out] f32. Its name is that of the diffusers module. */
export interface Linear {
  readonly name: string
  readonly weight: Weight
  readonly bias?: Tensor
}

/** A frozen convolution, channels last: weight [O, kT, kY, kX, K], bias [O], both f32. */
export interface Conv {
  readonly name: string
  readonly weight: Tensor
  readonly bias: Tensor
}

/**
 * Brings the weights of one network to a device, in the shapes its equations use, and remembers them for `release`.
 * Call it outside any scope: weights outlive every one.
 */
export class WeightLoader {
  readonly #source: WeightSource
  readonly #device: Device
  readonly #signal: AbortSignal | undefined
  readonly #loaded: Tensor[] = []

  constructor(source: WeightSource, device: Device, signal?: AbortSignal) {
    this.#source = source
    this.#device = device
    this.#signal = signal
  }

  /** `name.weight` in `dtype`, and `name.bias` in f32 where there is one. A 1 × 1 convolution is a linear too. */
  async linear(name: string, dtype: 'f32' | 'f16'): Promise<Linear> {
    const stored = await this.tensor(`${name}.weight`, dtype)
    const [out, ...rest] = stored.shape as [number, ...number[]]
    const weight = this.#reshape(stored, [
      out,
      rest.reduce((product, extent) => product * extent, 1),
    ])
    if (!this.#source.has(`${name}.bias`)) return { name, weight }
    return { name, weight, bias: await this.tensor(`${name}.bias`) }
  }

  /** `name.weight` [O, K, kT, kY, kX] or [O, K, kY, kX], turned to channels last, and `name.bias`. */
  async conv(name: string): Promise<Conv> {
    const stored = await this.#read(`${name}.weight`, 'f32')
    const [o, k, ...kernel] = stored.shape as [number, number, ...number[]]
    const [t, y, x] = (kernel.length === 3 ? kernel : [1, ...kernel]) as [number, number, number]
    const { ops } = this.#device
    const weight = keptFromScope(this.#device, () =>
      ops.permute(ops.reshape(stored, [o, k, t, y, x]), [0, 2, 3, 4, 1]),
    )
    this.#device.release(stored)
    this.#loaded.push(weight)
    return { name, weight, bias: await this.tensor(`${name}.bias`) }
  }

  /** A tensor with its axes of extent 1 at the front or the back dropped: a norm's weight, a modulation table. */
  async vector(name: string): Promise<Tensor> {
    const stored = await this.tensor(name)
    const shape = stored.shape.filter((extent) => extent !== 1)
    return this.#reshape(stored, shape.length > 0 ? shape : [1])
  }

  /** A tensor as it is stored. */
  async tensor(name: string, dtype: 'f32' | 'f16' = 'f32'): Promise<Tensor> {
    const tensor = await this.#read(name, dtype)
    this.#loaded.push(tensor)
    return tensor
  }

  /** Frees all that was loaded. */
  release(): void {
    for (const tensor of this.#loaded.splice(0)) this.#device.release(tensor)
  }

  #read(name: string, dtype: 'f32' | 'f16'): Promise<Tensor> {
    this.#signal?.throwIfAborted()
    return this.#source.load(name, this.#device, dtype)
  }

  #reshape(tensor: Tensor, shape: readonly number[]): Tensor {
    const reshaped = this.#device.ops.reshape(tensor, shape)
    this.#loaded.push(reshaped)
    return reshaped
  }
}

/** Loads through a loader; what was loaded before a failure is freed. */
export async function loadingAll<T>(
  loader: WeightLoader,
  load: (loader: WeightLoader) => Promise<T>,
): Promise<T> {
  try {
    return await load(loader)
  } catch (error) {
    loader.release()
    throw error
  }
}
