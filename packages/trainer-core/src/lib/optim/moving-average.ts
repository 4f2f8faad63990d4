import type { Device, Tensor } from '@kinora/kernel-api'

/** Exponential moving average of parameters: s ← s − (1 − decay)(s − w) after each update. */
export class MovingAverage {
  readonly params: readonly Tensor[]
  readonly #device: Device
  readonly #decay: number

  /** Begins at the parameters as they are. */
  constructor(device: Device, params: readonly Tensor[], decay: number) {
    this.#device = device
    this.#decay = decay
    const copies: Tensor[] = []
    device.scope(() => {
      for (const param of params) copies.push(device.retain(device.ops.affine(param, {})))
    })
    this.params = copies
  }

  update(params: readonly Tensor[]): void {
    const { ops } = this.#device
    this.params.forEach((average, i) =>
      this.#device.scope(() => {
        const distance = ops.add(params[i]!, ops.affine(average, { scale: -1 }))
        ops.addInto(average, distance, 1 - this.#decay)
      }),
    )
  }

  release(): void {
    for (const tensor of this.params) this.#device.release(tensor)
  }
}
