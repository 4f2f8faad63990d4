import { isPackedWeight, type Device, type Tensor, type Weight } from '@kinora/kernel-api'
import { keptFromScope } from '../layer-chain.ts'
import {
  canPack,
  packedFormats,
  packingDType,
  type PackedLayout,
  type QuantizeScheme,
} from '../quantize/schemes.ts'
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

export interface WeightLoaderOptions {
  /** How `packedLinear` packs a weight that is stored dense; not at all unless given. */
  quantize?: QuantizeScheme | undefined
  signal?: AbortSignal | undefined
}

/** The tensors a weight is made of. */
export function tensorsOf(weight: Weight): Tensor[] {
  if (!isPackedWeight(weight)) return [weight]
  const { codes, scales, zeros } = weight
  return zeros ? [codes, scales, zeros] : [codes, scales]
}

/**
 * Brings the weights of one network to a device, in the shapes its equations use, and remembers them for `release`.
 * Call it outside any scope: weights outlive every one.
 */
export class WeightLoader {
  readonly #source: WeightSource
  readonly #device: Device
  readonly #options: WeightLoaderOptions
  readonly #loaded = new Set<Tensor>()

  constructor(source: WeightSource, device: Device, options: WeightLoaderOptions = {}) {
    this.#source = source
    this.#device = device
    this.#options = options
  }

  /** `name.weight` in `dtype`, and `name.bias` in f32 where there is one. A 1 × 1 convolution is a linear too. */
  async linear(name: string, dtype: 'f32' | 'f16'): Promise<Linear> {
    const stored = await this.tensor(`${name}.weight`, dtype)
    const [out, ...rest] = stored.shape as [number, ...number[]]
    if (rest.length === 1) return this.#keepLinear(name, stored)
    const columns = rest.reduce((product, extent) => product * extent, 1)
    return this.#keepLinear(name, this.#reshape(stored, [out, columns]))
  }

  /**
   * A linear of those that are packed: as it is stored where that is packed, else packed here where a scheme was given and its
   * rows fill whole groups, else dense in `compute`. The dense weight is on the device only while it is packed.
   */
  async packedLinear(name: string, compute: 'f32' | 'f16'): Promise<Linear> {
    const { quantize } = this.#options
    const stored = await this.#source.loadPacked?.(`${name}.weight`, this.#device, compute)
    if (stored) return this.#keepLinear(name, stored)
    if (!quantize) return this.linear(name, compute)
    this.#options.signal?.throwIfAborted()
    const dtype = packingDType(quantize)
    const dense = await this.#source.load(`${name}.weight`, this.#device, dtype, compute)
    if (!canPack(quantize, dense.shape[1]!)) {
      this.#device.release(dense)
      return this.linear(name, compute)
    }
    const { format, groupSize } = packedFormats[quantize] as PackedLayout
    const packed = this.#device.ops.quantize(dense, format, { groupSize })
    this.#device.release(dense)
    return this.#keepLinear(name, packed)
  }

  async #keepLinear(name: string, weight: Weight): Promise<Linear> {
    for (const tensor of tensorsOf(weight)) this.#loaded.add(tensor)
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
    this.#loaded.add(weight)
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
    this.#loaded.add(tensor)
    return tensor
  }

  /** Some rows of a tensor of two axes, which the caller owns. */
  async rows(name: string, rows: readonly number[], dtype: 'f32' | 'f16'): Promise<Tensor> {
    this.#options.signal?.throwIfAborted()
    if (this.#source.loadRows) return this.#source.loadRows(name, rows, this.#device, dtype)
    const table = await this.#read(name, dtype)
    const { ops } = this.#device
    const taken = keptFromScope(this.#device, () =>
      ops.embedding(table, this.#device.upload(Uint32Array.from(rows), [rows.length], 'u32')),
    )
    this.#device.release(table)
    return taken
  }

  /** Hands a loaded weight over to the caller, who frees it. */
  handOver(weight: Weight): void {
    for (const tensor of tensorsOf(weight)) this.#loaded.delete(tensor)
  }

  /** Waits until all numbers loaded so far are known to be good. */
  async settle(): Promise<void> {
    await this.#source.settle?.()
  }

  /** Frees all that was loaded. */
  release(): void {
    for (const tensor of this.#loaded) this.#device.release(tensor)
    this.#loaded.clear()
  }

  #read(name: string, dtype: 'f32' | 'f16'): Promise<Tensor> {
    this.#options.signal?.throwIfAborted()
    return this.#source.load(name, this.#device, dtype)
  }

  #reshape(tensor: Tensor, shape: readonly number[]): Tensor {
    const reshaped = this.#device.ops.reshape(tensor, shape)
    this.#loaded.add(reshaped)
    return reshaped
  }
}

/** Loads through a loader, to the end of its checks; what was loaded before a failure is freed. */
export async function loadingAll<T>(
  loader: WeightLoader,
  load: (loader: WeightLoader) => Promise<T>,
): Promise<T> {
  try {
    const loaded = await load(loader)
    await loader.settle()
    return loaded
  } catch (error) {
    await loader.settle().catch(() => {})
    loader.release()
    throw error
  }
}
