import type { Device, Tensor } from '@kinora/kernel-api'
import { copiesOf, moveTowards } from './optimizer.ts'

/** Exponential moving average of parameters: s ← s − (1 − decay)(s − w) after each update. */
export class MovingAverage {
  readonly params: readonly Tensor[]
  readonly #device: Device
  readonly #decay: number

  /** Begins at the parameters as they are. */
  constructor(device: Device, params: readonly Tensor[], decay: number) {
    this.#device = device
    this.#decay = decay
    this.params = copiesOf(device, params)
  }

  update(params: readonly Tensor[]): void {
    this.params.forEach((average, i) =>
      moveTowards(this.#device, average, params[i]!, 1 - this.#decay),
    )
  }

  release(): void {
    for (const tensor of this.params) this.#device.release(tensor)
  }
}
