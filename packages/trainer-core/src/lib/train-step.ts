import type { Device, LossKind, Ops, Tensor } from '@kinora/kernel-api'
import { buildCondition, type ModuleAdapter, type WanTransformer } from '@kinora/wan'
import { createTape } from './autograd/tape.ts'
import { trainerErrors } from './errors.ts'
import { leanPlan, runOptions, type RecomputePlan } from './memory/recompute-plan.ts'
import type { MicroBatch } from './noise/prepare-micro-batch.ts'
import { adaptersOf, type DropModule } from './lora-adapters.ts'
import type { TrainedExpert } from './trained-expert.ts'

// One step of one expert: gradients of its micro-batches, then one update. All of it is queued without waiting; the step waits
// once, for its losses and the norm of its gradient.

export interface StepOptions {
  lossKind: LossKind
  learningRate: number
  /** Largest L2 norm of the gradient; 0 never clips. */
  maxGradNorm: number
  /** Gradients of micro-batches are averaged, or added up. */
  accumulation: 'mean' | 'sum'
  /** Recompute each block on the way back. */
  checkpoint: boolean
  /** What of each block is kept even so, by the shape [B, 16, F, Y, X] of a micro-batch; the leanest unless given. */
  recompute?: ((shape: MicroBatch['shape']) => RecomputePlan) | undefined
  /** Weight of the preservation loss, where micro-batches carry its prompts. */
  preservationMultiplier: number
  /** Push the prediction away from the base model's: subtracts its mean squared distance from the loss. */
  priorDivergence?: boolean | undefined
  /**
   * Weight of the mean squared distance from the base model's prediction where masks are black (`inverted_mask_prior`); undefined
   * for none.
   */
  insideMaskOnly?: number | undefined
  /** Contrastive guidance: scales the unconditional prediction to the target's share in it (CFG-Zero*). */
  guidanceZero?: boolean | undefined
  /** Multiplies the gradient of the main loss (differential guidance); 1 unless given. */
  gradientFactor?: number | undefined
  /** What of the network is left out of a micro-batch. */
  dropout?: ((microBatch: number) => StepDropout) | undefined
  /** A step whose loss is above changes nothing; null never. */
  maxLoss: number | null
  /** Called when all that can be known of the step is, and the weights are about to change. */
  beforeUpdate?: (() => void) | undefined
}

/** Left out of all passes of one micro-batch. */
export interface StepDropout {
  module: DropModule
  /** Factors [rank] of a module's ranks: 0 drops one, the others make up for it. One serves all tokens. */
  ranks?: ((module: number) => Float32Array) | undefined
}

export interface StepResult {
  /** Mean over the micro-batches, weights applied, preservation included. */
  loss: number
  unweightedLoss: number
  preservationLoss: number | undefined
  /** Before clipping. */
  gradNorm: number
  /** The loss scale with which the step succeeded. */
  lossScale: number
  seconds: { queue: number; device: number }
}

/**
 * Trains one step.
 *
 * @param step number of the step, for errors
 * @throws TRAINER_NOT_FINITE naming the first bad tensor; nothing has been changed then
 */
export async function trainStep(
  device: Device,
  transformer: WanTransformer,
  expert: TrainedExpert,
  microBatches: readonly MicroBatch[],
  step: number,
  options: StepOptions,
): Promise<StepResult> {
  const seconds = { queue: 0, device: 0 }
  for (;;) {
    const started = performance.now()
    const lossScale = expert.lossScale.scale
    const pass = await queueGradients(device, transformer, expert, microBatches, lossScale, options)
    const queued = performance.now()
    try {
      const { losses, squares } = await pass.read()
      seconds.queue += (queued - started) / 1000
      seconds.device += (performance.now() - queued) / 1000
      const badLoss = losses.findIndex((each) =>
        Object.values(each).some((values) =>
          values?.some((value: number) => !Number.isFinite(value)),
        ),
      )
      if (badLoss >= 0) {
        const timesteps = microBatches[badLoss]!.timesteps.map((t) => t.toFixed(1)).join(', ')
        throw trainerErrors.NOT_FINITE(
          step,
          `the loss of micro-batch ${badLoss + 1}, t = ${timesteps}`,
        )
      }
      if (!Number.isFinite(squares)) {
        if (expert.lossScale.overflow()) continue
        throw trainerErrors.NOT_FINITE(step, `the gradient of ${await pass.firstBadGradient()}`)
      }
      expert.lossScale.succeed()

      const gradNorm = Math.sqrt(squares) / lossScale
      const result = { ...summarise(losses, microBatches, options), gradNorm, lossScale, seconds }
      if (options.maxLoss !== null && result.loss > options.maxLoss) return result
      const clip =
        options.maxGradNorm > 0 ? Math.min(1, options.maxGradNorm / (gradNorm + 1e-6)) : 1
      options.beforeUpdate?.()
      await expert.optimizer.update(pass.grads, {
        learningRate: options.learningRate,
        gradScale: clip / lossScale,
      })
      return result
    } finally {
      pass.release()
    }
  }
}

interface MicroBatchLosses {
  /** One an item. */
  main: readonly number[]
  /** Squared distance from the base model's prediction, where it is pushed away. */
  divergence: readonly number[] | undefined
  /** The same where the mask is black, where it is drawn nearer. */
  outside: readonly number[] | undefined
  preservation: readonly number[] | undefined
}

function summarise(
  losses: readonly MicroBatchLosses[],
  microBatches: readonly MicroBatch[],
  { preservationMultiplier, insideMaskOnly = 0 }: StepOptions,
): Pick<StepResult, 'loss' | 'unweightedLoss' | 'preservationLoss'> {
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length
  const weighted = (pick: (each: MicroBatchLosses) => readonly number[] | undefined): number =>
    mean(
      losses.map((each, i) => {
        const { weights } = microBatches[i]!
        return mean(weights.map((weight, b) => weight * (pick(each)?.[b] ?? 0)))
      }),
    )
  const preservation = losses.some((each) => each.preservation)
    ? mean(losses.map((each) => mean(each.preservation ?? [0])))
    : undefined
  return {
    loss:
      weighted(({ main }) => main) -
      weighted(({ divergence }) => divergence) +
      insideMaskOnly * weighted(({ outside }) => outside) +
      preservationMultiplier * (preservation ?? 0),
    unweightedLoss: mean(losses.map(({ main }) => mean(main))),
    preservationLoss: preservation,
  }
}

/** The network's input of a micro-batch on the device: [B, 36, F, H, W], text [B, L, D], target [B, 16, F, H, W]. */
export function uploadBatch(
  device: Device,
  batch: MicroBatch,
): {
  input: { latents: Tensor; timesteps: readonly number[]; text: Tensor }
  target: Tensor
  /** Factor of the loss of each element, where the micro-batch has masks. */
  mask: Tensor | undefined
} {
  const { ops } = device
  const upload = (data: Float32Array): Tensor => device.upload(data, batch.shape, 'f32')
  const condition = buildCondition(ops, upload(batch.condition_BZFHW))
  return {
    input: {
      latents: ops.concat([upload(batch.noisy_BZFHW), condition], 1),
      timesteps: batch.timesteps,
      text: device.upload(batch.text_BLD, batch.textShape, 'f32'),
    },
    target: upload(batch.target_BZFHW),
    mask: batch.maskWeights_BFHW && overChannels(device, batch, batch.maskWeights_BFHW),
  }
}

/** Numbers of cells [B, F, H, W] repeated over the channels: [B, 16, F, H, W]. */
function overChannels(device: Device, { shape }: MicroBatch, values: Float32Array): Tensor {
  const [b, z, f, h, w] = shape
  const cells = device.upload(values, [b, 1, f, h, w], 'f32')
  return device.ops.concat(Array<Tensor>(z).fill(cells), 1)
}

/** What the network predicts for a micro-batch, and what it should. Without gradients; call it in a scope. */
export function predictVelocity(
  device: Device,
  transformer: WanTransformer,
  batch: MicroBatch,
  adapters: ReadonlyMap<string, readonly ModuleAdapter[]>,
): { prediction: Tensor; target: Tensor; mask: Tensor | undefined } {
  const { input, target, mask } = uploadBatch(device, batch)
  return { prediction: transformer.forward(device.ops, input, { adapters }), target, mask }
}

/** Adapters whose B has its columns, one a rank, multiplied by a mask. Only low-rank modules have ranks to drop. */
function dropRanks(
  device: Device,
  ops: Ops,
  adapters: ReadonlyMap<string, readonly ModuleAdapter[]>,
  moduleOf: ReadonlyMap<string, number>,
  maskOf: (module: number) => Float32Array,
): ReadonlyMap<string, readonly ModuleAdapter[]> {
  return new Map(
    Array.from(adapters, ([name, list]) => {
      const mask = maskOf(moduleOf.get(name)!)
      const mask_R = device.upload(mask, [mask.length], 'f32')
      return [
        name,
        list.map((adapter) =>
          'w1' in adapter ? adapter : { ...adapter, b: ops.mul(adapter.b, mask_R) },
        ),
      ]
    }),
  )
}

/**
 * The target of contrastive guidance: from what the model with its LoRA says to the unconditional prompt, u, towards the target v and
 * beyond, α u + g (v − α u). With `guidanceZero` α is ⟨v, u⟩ / ‖u‖² for each item (CFG-Zero*), else 1. The caller releases.
 */
async function pushedTarget(
  device: Device,
  { guidance, textShape }: MicroBatch & { guidance: NonNullable<MicroBatch['guidance']> },
  { guidanceZero = false }: StepOptions,
  target: Tensor,
  forward: (text: Tensor) => Tensor,
): Promise<Tensor> {
  const { ops } = device
  const u = device.scope(() => forward(device.upload(guidance.text_BLD, textShape, 'f32')))
  const item = (x: Tensor, b: number): Tensor => ops.slice(x, 0, b, b + 1)
  const row = (x: Tensor, b: number): Tensor =>
    ops.reshape(item(x, b), [1, x.shape.slice(1).reduce((n, extent) => n * extent, 1)])
  try {
    let alphas = guidance.factors.map(() => 1)
    if (guidanceZero) {
      const products = device.scope(() =>
        ops.concat(
          guidance.factors.flatMap((_, b) =>
            [target, u].map((x) => ops.reshape(ops.linear(row(x, b), row(u, b)), [1])),
          ),
          0,
        ),
      )
      const values = (await device.read(products)) as Float32Array
      device.release(products)
      alphas = alphas.map((_, b) => values[2 * b]! / (values[2 * b + 1]! || 1))
    }
    return device.scope(() =>
      ops.concat(
        guidance.factors.map((g, b) =>
          ops.add(
            ops.affine(item(target, b), { scale: g }),
            ops.affine(item(u, b), { scale: alphas[b]! * (1 - g) }),
          ),
        ),
        0,
      ),
    )
  } finally {
    device.release(u)
  }
}

/**
 * Queues the forward and backward passes of a step, waiting only for what goes to host memory between them. The caller releases.
 */
async function queueGradients(
  device: Device,
  transformer: WanTransformer,
  { lora }: TrainedExpert,
  microBatches: readonly MicroBatch[],
  lossScale: number,
  options: StepOptions,
): Promise<{
  /** Sums over the micro-batches, times the loss scale, in the order of the parameters. */
  grads: readonly Tensor[]
  read(): Promise<{ losses: MicroBatchLosses[]; squares: number }>
  firstBadGradient(): Promise<string>
  release(): void
}> {
  const { ops } = device
  const { params } = lora
  const moduleOf = new Map(lora.targets.map(({ name }, index) => [name, index]))
  const owned: Tensor[] = []
  const keep = <T extends Tensor>(tensor: T): T => {
    owned.push(device.retain(tensor))
    return tensor
  }
  const sums: (Tensor | undefined)[] = params.map(() => undefined)

  /** Forward, losses of its result, backward; gradients go into the sums. Returns each loss, of each item. */
  async function gradients(
    forward: (ops: Ops) => Tensor,
    terms: readonly {
      target: Tensor
      kind: LossKind
      itemScale: readonly number[]
      mask?: Tensor | undefined
    }[],
  ): Promise<Tensor[]> {
    const tape = createTape(device, { watch: params, checkpoint: options.checkpoint })
    let lossTensors: Tensor[] = []
    try {
      lossTensors = device.scope(() => {
        const prediction = forward(tape.ops)
        return terms.map(({ target, kind, mask }) =>
          tape.ops.loss(prediction, target, { kind, mask }),
        )
      })
      await tape.settle()
      const roots = terms.map(({ itemScale }, i) => ({ tensor: lossTensors[i]!, grad: itemScale }))
      const grads = tape.backward(roots, params)
      params.forEach((param, i) => {
        const grad = grads.get(param)
        const sum = sums[i]
        if (!grad) return
        if (sum) ops.addInto(sum, grad)
        else sums[i] = keep(grad)
      })
      return lossTensors.map(keep)
    } finally {
      tape.dispose()
      for (const tensor of lossTensors) device.release(tensor)
    }
  }

  const losses: {
    main: Tensor
    divergence?: Tensor
    outside?: Tensor
    preservation?: Tensor
  }[] = []
  let summary: Tensor
  try {
    for (const [index, batch] of microBatches.entries()) {
      // Waiting ends every scope, so what a micro-batch needs is held by hand.
      const held: Tensor[] = []
      const hold = (make: () => Tensor): Tensor => {
        const tensor = device.scope(make)
        held.push(tensor)
        return tensor
      }
      try {
        const numItems = batch.shape[0]
        const share =
          lossScale / numItems / (options.accumulation === 'mean' ? microBatches.length : 1)
        const { dataset } = batch.samples[0]!
        const { input, target, mask } = device.scope(() => uploadBatch(device, batch))
        held.push(input.latents, input.text, target, ...(mask ? [mask] : []))
        const dropout = options.dropout?.(index)
        const adapters = adaptersOf(lora, params, dataset.network_weight, dropout?.module)
        const plan = options.recompute?.(batch.shape) ?? leanPlan(transformer.compute)
        const forward = (text: Tensor) => (tape: Ops) => {
          const dropped = dropout?.ranks
            ? dropRanks(device, tape, adapters, moduleOf, dropout.ranks)
            : adapters
          return transformer.forward(
            tape,
            { ...input, text },
            { adapters: dropped, ...runOptions(plan) },
          )
        }

        const { guidance } = batch
        const guided =
          guidance && !dataset.prior_reg
            ? await pushedTarget(device, { ...batch, guidance }, options, target, (text) =>
                transformer.forward(ops, { ...input, text }, { adapters }),
              )
            : undefined
        if (guided) held.push(guided)
        // Outside the mask the LoRA is to do what the base model does.
        const outside =
          options.insideMaskOnly !== undefined && batch.mask_BFHW
            ? hold(() =>
                overChannels(
                  device,
                  batch,
                  batch.mask_BFHW!.map((value) => 1 - value),
                ),
              )
            : undefined
        const needsBase = dataset.prior_reg || options.priorDivergence || outside !== undefined
        const base = needsBase ? hold(() => transformer.forward(ops, input)) : undefined
        const terms = await gradients(forward(input.text), [
          {
            target: dataset.prior_reg ? base! : (guided ?? target),
            kind: options.lossKind,
            mask,
            itemScale: batch.weights.map((each) => each * share * (options.gradientFactor ?? 1)),
          },
          ...(options.priorDivergence
            ? [
                {
                  target: base!,
                  kind: 'mse' as const,
                  itemScale: batch.weights.map((each) => -each * share),
                },
              ]
            : []),
          ...(outside
            ? [
                {
                  target: base!,
                  kind: 'mse' as const,
                  mask: outside,
                  itemScale: batch.weights.map((each) => each * share * options.insideMaskOnly!),
                },
              ]
            : []),
        ])
        const main = terms.shift()!
        const divergence = options.priorDivergence ? terms.shift() : undefined
        const outsideLoss = terms.shift()
        let preservation: Tensor[] = []
        if (batch.preservationText_BLD) {
          // What the base model says to the other prompt is what the LoRA should go on saying to it.
          const { preservationText_BLD, textShape } = batch
          const text = hold(() => device.upload(preservationText_BLD, textShape, 'f32'))
          const itemScale = Array<number>(numItems).fill(options.preservationMultiplier * share)
          const target = hold(() => transformer.forward(ops, { ...input, text }))
          preservation = await gradients(forward(text), [{ target, kind: 'mse', itemScale }])
        }
        losses.push({
          main,
          ...(divergence ? { divergence } : {}),
          ...(outsideLoss ? { outside: outsideLoss } : {}),
          ...(preservation[0] ? { preservation: preservation[0] } : {}),
        })
      } finally {
        for (const tensor of held) device.release(tensor)
      }
    }
    device.scope(() => {
      // A parameter that nothing reached has no gradient: zero.
      params.forEach(({ shape }, i) => (sums[i] ??= keep(device.zeros(shape, 'f32'))))
      const numbers = losses.flatMap((each) => Object.values(each))
      keep((summary = ops.concat([...numbers, ops.sumSquares(sums as Tensor[])], 0)))
    })
  } catch (error) {
    for (const tensor of owned) device.release(tensor)
    throw error
  }

  return {
    grads: sums as Tensor[],
    async read() {
      const values = [...((await device.read(summary)) as Float32Array)]
      return {
        losses: losses.map(({ main, divergence, outside, preservation }) => ({
          main: values.splice(0, main.shape[0]!),
          divergence: divergence && values.splice(0, divergence.shape[0]!),
          outside: outside && values.splice(0, outside.shape[0]!),
          preservation: preservation && values.splice(0, preservation.shape[0]!),
        })),
        squares: values[0]!,
      }
    },
    async firstBadGradient() {
      for (const [i, grad] of sums.entries()) {
        const squares = device.scope(() => ops.sumSquares([grad!]))
        const [value] = await device.read(squares)
        device.release(squares)
        if (!Number.isFinite(value)) return lora.names[i]!
      }
      return 'all of the LoRA together'
    },
    release: () => owned.forEach((tensor) => device.release(tensor)),
  }
}
