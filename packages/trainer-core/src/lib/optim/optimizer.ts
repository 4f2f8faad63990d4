import type { Device, Tensor } from '@kinora/kernel-api'

/** What an update is made with. */
export interface UpdateOptions {
  learningRate: number
  /** Multiplies every gradient first: clipping, averaging and loss scale, as one number. */
  gradScale: number
}

/** Settings of a job's `train.optimizer_params` in our spelling; an optimiser takes what it knows. */
export interface OptimizerSettings {
  beta1: number
  beta2: number
  eps: number
  /** Decoupled: multiplies the learning rate times the weight. */
  weightDecay: number
}

/**
 * One optimiser at work on the parameters of one expert. Its whole memory is `state` and `numbers`, so that writing them down
 * and putting them back continues to the last bit.
 */
export interface Optimizer {
  /** Tensors of its state by name (`m`, `v`), each list in the order of the parameters; all f32. */
  readonly state: ReadonlyMap<string, readonly Tensor[]>
  /** Scalars of its state, such as the number of updates. */
  readonly numbers: Record<string, number>
  /** Changes the parameters in place. Gradients are in the order of the parameters. */
  update(grads: readonly Tensor[], options: UpdateOptions): void | Promise<void>
  release(): void
}

/** How an optimiser is made: what the registry holds by name. */
export type OptimizerFactory = (
  device: Device,
  params: readonly Tensor[],
  settings: OptimizerSettings,
) => Optimizer

/** Zeros of the shapes of the parameters, owned by the caller. */
export function zerosLike(device: Device, params: readonly Tensor[]): Tensor[] {
  const out: Tensor[] = []
  device.scope(() => {
    for (const { shape } of params) out.push(device.retain(device.zeros(shape, 'f32')))
  })
  return out
}
