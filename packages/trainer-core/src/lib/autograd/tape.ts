import type { CheckpointOptions, Device, Ops, ParkedTensor, Tensor } from '@kinora/kernel-api'
import { trainerErrors } from '../errors.ts'
import { describeOps, type Call, type OutputGrad } from './rules.ts'

// Reverse-mode differentiation by a tape (Wengert 1964): run each op now, remember what its gradient reads, and walk the list
// backwards. Memory is the point of the details:
//
// - An op that no watched tensor reaches is run and forgotten.
// - A remembered op holds one reference to what its gradient reads and drops it as soon as that gradient is done, so memory
//   falls on the way back. For this the forward pass must have its own `device.scope`, which lets go of the rest.
// - A gradient has one owner. Ops such as `add` and `reshape` hand on the storage of their output's gradient; sums go into
//   existing storage only where nobody else looks at it.
// - A checkpointed block is run without remembering. On the way back it is run again, with remembering, but for two things:
//   kept results are taken from where they were put, and ops whose result no gradient reads (the last linear of a block) are
//   not run at all.
// - A block may have parts that are checkpoints of their own. They count only on the way back: running the block again runs of a
//   part no more than its result needs, and what its gradients need is made when their turn comes, and goes before the next part's.
// - What a block keeps may wait in host memory. It comes back one block ahead, so that copies and work overlap.

/** Where a walk back begins. `grad` has the tensor's shape and f32, or for a result of `ops.loss` a factor a batch item. */
export interface Root {
  tensor: Tensor
  grad: OutputGrad
}

export interface TapeOptions {
  /**
   * Tensors whose gradients may be wanted. Given, ops they do not reach are not remembered; not given, every op is.
   */
  watch?: Iterable<Tensor> | undefined
  /** False runs checkpointed blocks once, with everything remembered: faster, more memory. True unless given. */
  checkpoint?: boolean | undefined
}

/** Ops that are remembered, and the way back through them. */
export interface Tape {
  /** Runs ops on the device and remembers them. */
  readonly ops: Ops
  /**
   * Waits until all that blocks put into host memory is there. To be called between the passes where a checkpoint does so.
   */
  settle(): Promise<void>
  /**
   * Gradients of Σ root · grad with respect to the `wanted` tensors, each in the dtype of its tensor (adapters: f32). A
   * wanted tensor that the roots do not depend on is missing from the result. The tape owns the gradients: they live until
   * `dispose`, or longer where the caller retains them. A tape goes back once.
   */
  backward(roots: readonly Root[], wanted: Iterable<Tensor>): Map<Tensor, Tensor>
  /** Frees all that is still held: remembered values of a pass that was not gone back, and the gradients. */
  dispose(): void
}

interface Node {
  readonly call: Call
  readonly outputs: readonly Tensor[]
  /** What this node holds a reference to. */
  readonly saved: readonly Tensor[]
}

interface Slot {
  grad: OutputGrad
  /** True where this slot holds a reference that it must drop. */
  owned: boolean
  /** True where nothing else reads the storage, so that a sum may go into it. */
  exclusive: boolean
}

/** Tensors of one block that wait in host memory. */
interface Away {
  readonly parking: readonly Promise<ParkedTensor>[]
  /** There is something in host memory that must be discarded. */
  parked: readonly ParkedTensor[] | undefined
  /** On the device again, where they are on their way back. */
  back: readonly Tensor[] | undefined
}

/** What the first run of a checkpointed block leaves for the second, one entry an op. */
interface Step {
  name: string
  reads: readonly Tensor[]
  saves: readonly Tensor[]
  outputs: readonly Tensor[]
  kept: readonly Tensor[] | undefined
}

/** Ops of a part that is a checkpoint inside a checkpointed block: first (inclusive) to last (exclusive). */
interface Part {
  start: number
  end: number
}

/** A tensor that can be made again, from what is held of it: it need not live between its uses. */
interface Remade {
  tensor: Tensor
  make: () => Tensor
}

/** How the second run of a checkpointed block goes: results that stand in for running an op, by op. */
interface Replay {
  names: readonly string[]
  standIns: readonly (readonly Tensor[] | undefined)[]
  /** Whether a stand-in is a result that was kept. */
  isKept: readonly boolean[]
  /** The block's first input, where it was rounded. */
  remade: Remade | undefined
}

const isTensor = (grad: OutputGrad): grad is Tensor => 'shape' in grad

/** A tape on a device. It goes back once; dispose of it whatever happens. */
export function createTape(device: Device, options: TapeOptions = {}): Tape {
  return new RecordingTape(device, options)
}

class RecordingTape implements Tape {
  readonly ops: Ops
  readonly #device: Device
  readonly #checkpoints: boolean
  /** Watched tensors and all that depend on them; undefined: everything. */
  readonly #reached: Set<Tensor> | undefined
  readonly #replay: Replay | undefined
  #numCalls = 0
  #nodes: Node[] = []
  #isBack = false
  readonly #slots = new Map<Tensor, Slot>()
  /** In the order of the blocks. */
  #away: Away[] = []

  constructor(device: Device, options: TapeOptions, replay?: Replay) {
    this.#device = device
    this.#checkpoints = options.checkpoint ?? true
    this.#reached = options.watch ? new Set(options.watch) : undefined
    this.#replay = replay
    this.ops = describeOps(device, (call) => this.#perform(call), {
      scope: (fn) => device.scope(fn),
      checkpoint: (fn, inputs, options = {}) =>
        this.#checkpoints
          ? this.#checkpoint(fn, inputs, options)
          : device.scope(() => fn(this.ops, ...inputs)),
    })
  }

  #perform(call: Call): readonly Tensor[] {
    const { outputs } = this.#runOrReplay(call)
    this.#remember(call, outputs)
    return outputs
  }

  /** An op's results: of running it, or where the replay has some in its place, those. */
  #runOrReplay(call: Call): { outputs: readonly Tensor[]; wasRun: boolean; wasKept: boolean } {
    const index = this.#numCalls++
    const replay = this.#replay
    if (!replay) return { outputs: call.run(), wasRun: true, wasKept: false }
    const name = replay.names[index]
    if (name !== call.name) {
      throw trainerErrors.CHECKPOINT_DIVERGED(index, name ?? 'nothing', call.name)
    }
    const standIns = replay.standIns[index]
    return {
      outputs: standIns ?? call.run(),
      wasRun: standIns === undefined,
      wasKept: replay.isKept[index]!,
    }
  }

  /** False where no watched tensor reaches the op, so that nothing was remembered. */
  #remember(call: Call, outputs: readonly Tensor[]): boolean {
    if (this.#isBack) throw trainerErrors.ALREADY_BACK()
    if (!this.#isReached(reads(call))) return false
    for (const output of outputs) this.#reached?.add(output)
    const saved = call.saves(outputs)
    for (const tensor of saved) this.#device.retain(tensor)
    this.#nodes.push({ call, outputs, saved })
    return true
  }

  #checkpoint(
    fn: (ops: Ops, ...inputs: Tensor[]) => Tensor,
    inputs: readonly Tensor[],
    { keep = [], firstInputAs, inHostMemory = false }: CheckpointOptions,
  ): Tensor {
    const device = this.#device
    const steps: Step[] = []
    const parts: Part[] = []
    const first: Ops = describeOps(
      device,
      (call) => {
        const { outputs, wasRun, wasKept } = this.#runOrReplay(call)
        const isNamed = call.keepAs !== undefined && keep.includes(call.keepAs)
        const isKept = wasKept || (wasRun && isNamed)
        if (isKept) for (const output of outputs) device.retain(output)
        steps.push({
          name: call.name,
          reads: reads(call),
          saves: call.saves(outputs),
          outputs,
          kept: isKept ? outputs : undefined,
        })
        return outputs
      },
      {
        scope: (inner) => device.scope(inner),
        checkpoint: (inner, innerInputs) => {
          const start = steps.length
          const result = device.scope(() => inner(first, ...innerInputs))
          parts.push({ start, end: steps.length })
          return result
        },
      },
    )
    const result = device.scope(() => fn(first, ...inputs))
    const made = new Set(steps.flatMap((step) => step.outputs))
    const kept = steps.flatMap((step) => step.kept ?? [])
    const outside = [...new Set([...inputs, ...steps.flatMap((step) => step.reads)])].filter(
      (tensor) => !made.has(tensor),
    )
    const [firstInput] = inputs
    const rounded =
      firstInputAs && firstInput?.dtype === 'f32'
        ? this.#keptFrom(() => device.ops.cast(firstInput, firstInputAs))
        : undefined
    const isOnTape = made.has(result) && this.#isReached(outside)
    const heldInput = rounded ?? firstInput
    const above = this.#replay?.remade
    const remade = above && firstInput === above.tensor ? above : undefined
    const leaving = inHostMemory && isOnTape && heldInput ? [heldInput, ...kept] : []
    const away = leaving.length > 0 ? this.#sendAway(leaving) : undefined
    const saved = away
      ? outside.filter((tensor) => tensor !== firstInput)
      : [...outside.filter((tensor) => !(rounded || remade) || tensor !== firstInput), ...kept]
    const passes: number[] = []
    let again: RecordingTape | undefined
    // A block that returns what it was given has nothing to go back through.
    if (isOnTape) {
      this.#remember(
        {
          name: 'checkpoint',
          inputs: outside,
          constants: [],
          run: () => [result],
          saves: () => (rounded && !away ? [...saved, rounded] : saved),
          grad: ([dout], needs) => {
            const [held, ...keptNow] = away ? this.#bringBack(away) : [heldInput, ...kept]
            // Made again for the block's parts too, each when its turn comes.
            const make = (): Tensor => device.ops.cast(held!, 'f32')
            const firstNow = rounded ? this.#keptFrom(make) : remade ? remade.make() : held
            const now = outside.map((tensor) =>
              tensor === firstInput && firstNow ? firstNow : tensor,
            )
            const wanted = now.filter((_, i) => needs[i])
            const standIn = new Map(kept.map((tensor, i) => [tensor, keptNow[i]!]))
            const second = new RecordingTape(
              device,
              { watch: wanted },
              {
                ...planReplay(steps, parts, (tensor) => standIn.get(tensor) ?? tensor),
                remade: rounded && { tensor: firstNow!, make },
              },
            )
            again = second
            const output = device.scope(() =>
              fn(second.ops, ...inputs.map((input) => now[outside.indexOf(input)] ?? input)),
            )
            // What reads it on the way back holds it, or makes it again.
            if (rounded) device.release(firstNow!)
            const grads = second.backward([{ tensor: output, grad: dout! }], wanted)
            return now.map((tensor, i) => {
              if (grads.has(tensor) && !second.#slots.get(tensor)!.exclusive) passes.push(i)
              return grads.get(tensor)
            })
          },
          passes,
          taken: () => {
            again?.dispose()
            if (away) this.#discard(away)
          },
        },
        [result],
      )
    }
    // Keeping took a reference of its own; the node, if there is one, has another.
    for (const tensor of kept) device.release(tensor)
    if (rounded) device.release(rounded)
    return result
  }

  #isReached(tensors: readonly Tensor[]): boolean {
    return !this.#reached || tensors.some((tensor) => this.#reached!.has(tensor))
  }

  /** Queues copies to host memory; what is not held otherwise may go at once. */
  #sendAway(tensors: readonly Tensor[]): Away {
    const device = this.#device
    const away: Away = {
      parking: tensors.map((tensor) => device.park(tensor, { transient: true })),
      parked: undefined,
      back: undefined,
    }
    // A failure is told by `settle`.
    for (const parking of away.parking) parking.catch(() => {})
    this.#away.push(away)
    return away
  }

  /** A tensor with one owner, the caller, whatever scopes are open. */
  #keptFrom(make: () => Tensor): Tensor {
    let kept: Tensor | undefined
    this.#device.scope(() => {
      kept = this.#device.retain(make())
    })
    return kept!
  }

  async settle(): Promise<void> {
    for (const away of this.#away) away.parked ??= await Promise.all(away.parking)
  }

  /** A block's tensors on the device, and those of the block before it on their way. */
  #bringBack(away: Away): readonly Tensor[] {
    this.#fetch(away)
    const before = this.#away[this.#away.indexOf(away) - 1]
    if (before) this.#fetch(before)
    return away.back!
  }

  #fetch(away: Away): void {
    if (away.back) return
    const { parked } = away
    if (!parked) throw trainerErrors.NOT_SETTLED()
    const device = this.#device
    away.back = parked.map((copy) => {
      const into = this.#keptFrom(() => device.zeros(copy.shape, copy.dtype))
      device.unpark(copy, into)
      return into
    })
  }

  #discard(away: Away): void {
    for (const tensor of away.back ?? []) this.#device.release(tensor)
    away.back = undefined
    if (away.parked) for (const copy of away.parked) this.#device.discard(copy)
    else {
      for (const parking of away.parking) {
        parking.then(
          (copy) => this.#device.discard(copy),
          () => {},
        )
      }
    }
    this.#away = this.#away.filter((other) => other !== away)
  }

  backward(roots: readonly Root[], wanted: Iterable<Tensor>): Map<Tensor, Tensor> {
    const device = this.#device
    if (this.#isBack) throw trainerErrors.ALREADY_BACK()
    this.#isBack = true
    const wantedSet = new Set(wanted)
    const needed = new Set(wantedSet)
    for (const tensor of wantedSet) {
      if (this.#reached && !this.#reached.has(tensor)) {
        throw trainerErrors.NOT_WATCHED(tensor.shape.join(', '))
      }
    }
    for (const { call, outputs } of this.#nodes) {
      if (reads(call).some((tensor) => needed.has(tensor))) {
        for (const output of outputs) needed.add(output)
      }
    }

    for (const { tensor, grad } of roots) this.#accumulate(tensor, grad, false)
    while (this.#nodes.length > 0) {
      const node = this.#nodes.pop()!
      const { call, outputs } = node
      const douts = outputs.map((output) => this.#slots.get(output)?.grad)
      try {
        const arrived = douts.some((dout) => dout !== undefined)
        if (arrived && outputs.some((output) => needed.has(output))) {
          this.#goBack(call, outputs, douts, needed, wantedSet)
        }
      } finally {
        for (const output of outputs) if (!wantedSet.has(output)) this.#drop(output)
        for (const tensor of node.saved) device.release(tensor)
      }
    }

    const grads = new Map<Tensor, Tensor>()
    for (const tensor of wantedSet) {
      const slot = this.#slots.get(tensor)
      if (slot && isTensor(slot.grad)) grads.set(tensor, slot.grad)
    }
    return grads
  }

  #goBack(
    call: Call,
    outputs: readonly Tensor[],
    douts: readonly (OutputGrad | undefined)[],
    needed: ReadonlySet<Tensor>,
    wanted: ReadonlySet<Tensor>,
  ): void {
    const blocked = call.constants.find((tensor) => needed.has(tensor))
    if (blocked) {
      throw trainerErrors.NO_GRADIENT(
        call.name,
        `no gradient exists for its argument of shape [${blocked.shape.join(', ')}]`,
      )
    }
    const needs = call.inputs.map((input) => needed.has(input))
    this.#device.scope(() => {
      let grads: readonly (Tensor | undefined)[]
      try {
        grads = call.grad(douts, needs, outputs)
      } catch (error) {
        call.taken?.()
        throw error
      }
      const passed = (call.passes ?? []).filter((i) => needs[i])
      const passesAlone =
        passed.length === 1 &&
        outputs.every((out) => (this.#slots.get(out)?.exclusive ?? true) && !wanted.has(out))
      // Gradients handed on come last: a sum into their storage must not be seen by the others.
      const order = call.inputs.map((_, i) => i).filter((i) => needs[i])
      for (const i of [...order.filter((i) => !passed.includes(i)), ...passed]) {
        const grad = grads[i]
        if (grad) this.#accumulate(call.inputs[i]!, grad, passed.includes(i) ? passesAlone : true)
      }
      call.taken?.()
    })
  }

  /** Adds a gradient to what has arrived for a tensor. `exclusive`: nobody else reads the storage of `grad`. */
  #accumulate(tensor: Tensor, grad: OutputGrad, exclusive: boolean): void {
    const device = this.#device
    const slot = this.#slots.get(tensor)
    if (!slot) {
      if (isTensor(grad)) device.retain(grad)
      this.#slots.set(tensor, { grad, owned: isTensor(grad), exclusive })
      return
    }
    const before = slot.grad
    if (!isTensor(before) || !isTensor(grad)) {
      throw trainerErrors.NO_GRADIENT('loss', 'it was a root twice')
    }
    // Addition of two commutes to the last bit, so which of the two takes the sum does not show.
    if (before.dtype === 'f32' && grad.dtype === 'f32' && slot.exclusive) {
      device.ops.addInto(before, grad)
      return
    }
    if (before.dtype === 'f32' && grad.dtype === 'f32' && exclusive) {
      device.ops.addInto(grad, before)
      slot.grad = device.retain(grad)
    } else {
      slot.grad = device.retain(device.ops.add(before, grad))
    }
    if (slot.owned) device.release(before)
    slot.owned = true
    slot.exclusive = true
  }

  #drop(tensor: Tensor): void {
    const slot = this.#slots.get(tensor)
    if (!slot) return
    if (slot.owned && isTensor(slot.grad)) this.#device.release(slot.grad)
    this.#slots.delete(tensor)
  }

  dispose(): void {
    this.#isBack = true
    for (const node of this.#nodes) for (const tensor of node.saved) this.#device.release(tensor)
    this.#nodes = []
    for (const away of this.#away) this.#discard(away)
    for (const tensor of this.#slots.keys()) this.#drop(tensor)
  }
}

const reads = (call: Call): Tensor[] => [...call.inputs, ...call.constants]

/**
 * What the second run of a block need not do: an op is run again only if a gradient, or an op that is run again, reads its
 * result. The gradients of a part read what goes into it.
 *
 * @param standIn where a kept tensor is now
 */
function planReplay(
  steps: readonly Step[],
  parts: readonly Part[],
  standIn: (kept: Tensor) => Tensor,
): Omit<Replay, 'remade'> {
  const read = new Set<Tensor>()
  const ofParts = new Set<Step>()
  for (const { start, end } of parts) {
    const part = steps.slice(start, end)
    const made = new Set(part.flatMap((step) => step.outputs))
    for (const step of part) {
      ofParts.add(step)
      for (const tensor of step.reads) if (!made.has(tensor)) read.add(tensor)
    }
  }
  for (const step of steps) {
    if (!ofParts.has(step)) for (const tensor of step.saves) read.add(tensor)
  }
  const standIns: (readonly Tensor[] | undefined)[] = steps.map(() => undefined)
  for (let i = steps.length - 1; i >= 0; i--) {
    const step = steps[i]!
    if (step.kept) standIns[i] = step.kept.map(standIn)
    else if (step.outputs.some((output) => read.has(output))) {
      for (const tensor of step.reads) read.add(tensor)
    } else
      standIns[i] = step.outputs.map(({ shape, dtype }) => ({ shape, dtype, handle: undefined }))
  }
  return {
    names: steps.map((step) => step.name),
    standIns,
    isKept: steps.map((step) => step.kept !== undefined),
  }
}
