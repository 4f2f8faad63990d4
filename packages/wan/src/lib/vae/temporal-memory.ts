import type { Device, Ops, Tensor } from '@kinora/kernel-api'
import type { Conv } from '../checkpoint/weight-loader.ts'

/**
 * What the layers of a causal network remember of the chunks before: the last frames of their input. A clip that is computed in
 * chunks, with one memory carried through them, gives what it gives as a whole; a whole clip is one chunk.
 */
export class TemporalMemory {
  readonly #device: Device
  readonly #frames = new Map<Conv, Tensor>()
  readonly #started = new Set<Conv>()

  constructor(device: Device) {
    this.#device = device
  }

  /** True once for each layer: in the first chunk. */
  isFirst(layer: Conv): boolean {
    if (this.#started.has(layer)) return false
    this.#started.add(layer)
    return true
  }

  /** What `remember` was given, [B, frames, Y, X, C]. */
  recall(layer: Conv): Tensor | undefined {
    return this.#frames.get(layer)
  }

  /** Keeps the last `count` frames of x, or all it has. */
  remember(ops: Ops, layer: Conv, x_BTYXC: Tensor, count: number): void {
    const frames = x_BTYXC.shape[1]!
    const last = ops.slice(x_BTYXC, 1, Math.max(0, frames - count), frames)
    const before = this.#frames.get(layer)
    this.#frames.set(layer, this.#device.retain(last))
    if (before) this.#device.release(before)
  }

  release(): void {
    for (const frames of this.#frames.values()) this.#device.release(frames)
    this.#frames.clear()
    this.#started.clear()
  }
}
