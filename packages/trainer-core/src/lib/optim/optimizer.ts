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
  /** Prodigy: multiplies the estimated rate. */
  dCoef: number
  /** Adafactor: largest root mean square of an update. */
  clipThreshold: number
  /** Adafactor: the second moment's decay is 1 − step^decayRate; below 0. */
  decayRate: number
  /** Schedule-free AdamW: updates of a linear rise of the learning rate. */
  warmupSteps: number
  /** AdamW in 8 bits: parameters of fewer elements keep states of f32. */
  min8bitSize: number
}

/** Part of an optimiser's memory: on the device, f32 or u32, or on the host where its arithmetic is. */
export type StateArray = Tensor | Float32Array

/**
 * One optimiser at work on the parameters of one expert. Its whole memory is `state` and `numbers`, so that writing them down
 * and putting them back continues to the last bit.
 */
export interface Optimizer {
  /** Arrays of its state by name (`m`, `v`). */
  readonly state: ReadonlyMap<string, readonly StateArray[]>
  /** Scalars of its state, such as the number of updates. */
  readonly numbers: Record<string, number>
  /** Changes the parameters in place. Gradients are in the order of the parameters. */
  update(grads: readonly Tensor[], options: UpdateOptions): void | Promise<void>
  /**
   * The weights to save and preview with, where they are not the parameters that are trained. Copies on the device, the
   * caller's.
   */
  finishedParams?(): Tensor[]
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
  return kept(device, () => params.map(({ shape }) => device.zeros(shape, 'f32')))
}

/** Copies of tensors, owned by the caller. */
export function copiesOf(device: Device, tensors: readonly Tensor[]): Tensor[] {
  return kept(device, () => tensors.map((tensor) => device.ops.affine(tensor, {})))
}

/** Runs `make` in a scope of its own; what it returns has one owner, the caller. */
export function kept(device: Device, make: () => Tensor[]): Tensor[] {
  let result: Tensor[] = []
  device.scope(() => {
    result = make().map((tensor) => device.retain(tensor))
  })
  return result
}

/** In place: target += share · (source − target). */
export function moveTowards(device: Device, target: Tensor, source: Tensor, share: number): void {
  const { ops } = device
  device.scope(() => {
    ops.addInto(target, ops.add(source, ops.affine(target, { scale: -1 })), share)
  })
}
