// Dynamic loss scaling (Micikevicius et al. 2018, "Mixed precision training"). Gradients that flow in f16 are multiplied by a
// power of two so that small ones do not vanish; when one overflows, the step is done again with half of it.

/** The whole state, for the training state to keep. */
export interface LossScaleState {
  scale: number
  /** Steps since the scale last changed. */
  goodSteps: number
}

const firstScale = 2 ** 14
const mostScale = 2 ** 24
/** Good steps before the scale is doubled. */
const growthInterval = 200

/** Loss scale of one expert. In f32 it is 1 and stays so. */
export class LossScale {
  #state: LossScaleState
  readonly #dynamic: boolean

  constructor(compute: 'f32' | 'f16', state?: LossScaleState) {
    this.#dynamic = compute === 'f16'
    this.#state =
      this.#dynamic && state ? state : { scale: this.#dynamic ? firstScale : 1, goodSteps: 0 }
  }

  get scale(): number {
    return this.#state.scale
  }

  get state(): LossScaleState {
    return { ...this.#state }
  }

  /** The gradients were finite. */
  succeed(): void {
    if (!this.#dynamic) return
    const goodSteps = this.#state.goodSteps + 1
    this.#state =
      goodSteps >= growthInterval
        ? { scale: Math.min(this.#state.scale * 2, mostScale), goodSteps: 0 }
        : { scale: this.#state.scale, goodSteps }
  }

  /** The gradients were not: true where the step is worth doing again with the new scale. */
  overflow(): boolean {
    if (!this.#dynamic || this.#state.scale <= 1) return false
    this.#state = { scale: this.#state.scale / 2, goodSteps: 0 }
    return true
  }
}
