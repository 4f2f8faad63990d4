import {
  isPackedWeight,
  type Device,
  type ParkedTensor,
  type Tensor,
  type Weight,
} from '@kinora/kernel-api'
import { tensorsOf, type Linear } from '../checkpoint/weight-loader.ts'
import { keptFromScope } from '../layer-chain.ts'
import type { AttentionWeights, BlockWeights } from './block.ts'

// The weights of linears are nearly all of an expert, so where they are is what decides about device memory:
//
// - A resident block has them on the device. `toHost` parks all of them there are and frees the device's; `toDevice` brings
//   them back. The weights are frozen, so what was parked once never has to be copied out again.
// - A streamed block has them parked in host memory always. Two slots on the device, each the size of a block, take turns: while
//   the ops of one block run, the next one's weights are copied into the other. "Next" is after on the way forward and before
//   on the way back, so at the turn the last two blocks are there already.
// - The embedders of time and text are used once a pass, before the blocks. They go where resident blocks go; streamed, they are
//   on the device while they are used.
//
// The network sees none of this: `enter` and `use` give weights that are on the device when the ops queued next run.

/** The linears of a block, in the order of the network. */
export function linearsOf({
  selfAttention: s,
  crossAttention: c,
  ffnIn,
  ffnOut,
}: BlockWeights): Linear[] {
  return [s.q, s.k, s.v, s.out, c.q, c.k, c.v, c.out, ffnIn, ffnOut]
}

/** A block with other weights in its linears. */
function withWeights(block: BlockWeights, weights: readonly Weight[]): BlockWeights {
  let index = 0
  const next = (linear: Linear): Linear => ({ ...linear, weight: weights[index++]! })
  const attention = (a: AttentionWeights): AttentionWeights => ({
    ...a,
    q: next(a.q),
    k: next(a.k),
    v: next(a.v),
    out: next(a.out),
  })
  return {
    ...block,
    selfAttention: attention(block.selfAttention),
    crossAttention: attention(block.crossAttention),
    ffnIn: next(block.ffnIn),
    ffnOut: next(block.ffnOut),
  }
}

/** Linears whose frozen weights are on the device, in host memory, or in both. It owns them. */
class PlacedLinears {
  readonly #device: Device
  readonly #linears: readonly Linear[]
  /** By linear, then by tensor of its weight. */
  #parked: readonly (readonly ParkedTensor[])[] | undefined
  #resident: readonly Weight[] | undefined

  /** @param linears with their weights on the device */
  constructor(device: Device, linears: readonly Linear[]) {
    this.#device = device
    this.#linears = linears
    this.#resident = linears.map(({ weight }) => weight)
  }

  /** On the device, where they are. */
  get resident(): readonly Weight[] | undefined {
    return this.#resident
  }

  /** Leaves them in host memory alone. */
  async toHost(): Promise<void> {
    if (!this.#resident) return
    this.#parked ??= await Promise.all(
      this.#resident.map((weight) =>
        Promise.all(tensorsOf(weight).map((tensor) => this.#device.park(tensor))),
      ),
    )
    this.#freeResident()
  }

  /** Queues the way back of weights that are in host memory alone. */
  toDevice(): readonly Weight[] {
    if (this.#resident) return this.#resident
    const weights = this.allocate()
    this.fill(weights)
    return (this.#resident = weights)
  }

  /** Room on the device for weights that have been in host memory; the caller's. */
  allocate(): Weight[] {
    return this.#linears.map(({ weight }, i) =>
      replaceTensors(
        weight,
        this.#parked![i]!.map(({ shape, dtype }) =>
          keptFromScope(this.#device, () => this.#device.zeros(shape, dtype)),
        ),
      ),
    )
  }

  /** Queues a copy of weights from host memory. */
  fill(weights: readonly Weight[]): void {
    for (const [i, weight] of weights.entries()) {
      for (const [j, tensor] of tensorsOf(weight).entries()) {
        this.#device.unpark(this.#parked![i]![j]!, tensor)
      }
    }
  }

  release(): void {
    this.#freeResident()
    for (const parked of this.#parked?.flat() ?? []) this.#device.discard(parked)
    this.#parked = undefined
  }

  #freeResident(): void {
    for (const weight of this.#resident ?? []) free(this.#device, weight)
    this.#resident = undefined
  }
}

/** The embedders of time and text. */
export interface Embedders {
  readonly timeIn: Linear
  readonly timeOut: Linear
  readonly timeProjection: Linear
  readonly textIn: Linear
  readonly textOut: Linear
}

/** Keeps the weights of the embedders where they should be. It owns them. */
export class EmbedderPlacement {
  readonly #device: Device
  readonly #template: Embedders
  readonly #linears: PlacedLinears
  #isStreamed = false

  /** @param embedders with their weights on the device */
  constructor(device: Device, embedders: Embedders) {
    this.#device = device
    this.#template = embedders
    this.#linears = new PlacedLinears(device, Object.values(embedders) as Linear[])
  }

  /** From now on they are on the device only while they are used. */
  async stream(): Promise<void> {
    this.#isStreamed = true
    await this.#linears.toHost()
  }

  /** Queues ops with the weights on the device. */
  use<T>(queue: (embedders: Embedders) => T): T {
    if (!this.#isStreamed) return queue(this.#with(this.#linears.toDevice()))
    const weights = this.#linears.allocate()
    try {
      this.#linears.fill(weights)
      return queue(this.#with(weights))
    } finally {
      for (const weight of weights) free(this.#device, weight)
    }
  }

  toHost(): Promise<void> {
    return this.#linears.toHost()
  }

  toDevice(): void {
    if (!this.#isStreamed) this.#linears.toDevice()
  }

  release(): void {
    this.#linears.release()
  }

  #with(weights: readonly Weight[]): Embedders {
    const names = Object.keys(this.#template) as (keyof Embedders)[]
    return Object.fromEntries(
      names.map((name, i) => [name, { ...this.#template[name], weight: weights[i]! }]),
    ) as unknown as Embedders
  }
}

/** A block whose weights may be elsewhere. */
interface PlacedBlock {
  readonly template: BlockWeights
  readonly linears: PlacedLinears
}

interface Slot {
  readonly weights: readonly Weight[]
  /** Index of the block whose weights it holds, or will when the queue comes to it. */
  block: number
}

/** Which of `count` blocks are streamed, where only a share of them is: spread evenly, so that copies and work overlap. */
export function streamedBlocks(count: number, share: number): boolean[] {
  const streamed = Math.round(Math.min(Math.max(share, 0), 1) * count)
  return Array.from(
    { length: count },
    (_, n) => Math.floor(((n + 1) * streamed) / count) > Math.floor((n * streamed) / count),
  )
}

/** Keeps the weights of the blocks' linears where they should be. It owns them. */
export class BlockPlacement {
  readonly #device: Device
  readonly #isStreamed: readonly boolean[]
  readonly #blocks: PlacedBlock[] = []
  #slots: Slot[] = []
  #lastEntered = -1

  /** @param isStreamed by block */
  constructor(device: Device, isStreamed: readonly boolean[]) {
    this.#device = device
    this.#isStreamed = isStreamed
  }

  get length(): number {
    return this.#blocks.length
  }

  /** Takes over the next block's weights, which are on the device. */
  async add(block: BlockWeights): Promise<void> {
    const n = this.#blocks.length
    const linears = new PlacedLinears(this.#device, linearsOf(block))
    this.#blocks.push({ template: block, linears })
    if (this.#isStreamed[n]) await linears.toHost()
  }

  /** The weights of a block, for ops that are queued before the next call. */
  enter(n: number): BlockWeights {
    const { template, linears } = this.#blocks[n]!
    if (!this.#isStreamed[n]) {
      if (!linears.resident) this.toDevice()
      this.#prefetch(n)
      return withWeights(template, linears.resident!)
    }
    const slot = this.#slotOf(n)
    this.#prefetch(n, slot)
    return withWeights(template, slot.weights)
  }

  /** Moves all weights to host memory. A later `enter` brings them back. */
  async toHost(): Promise<void> {
    for (const { linears } of this.#blocks) await linears.toHost()
    this.#freeSlots()
  }

  /** Brings the weights of the resident blocks back to the device, which need not wait for it. */
  toDevice(): void {
    for (const [n, { linears }] of this.#blocks.entries()) {
      if (!this.#isStreamed[n]) linears.toDevice()
    }
  }

  release(): void {
    for (const { linears } of this.#blocks) linears.release()
    this.#freeSlots()
    this.#blocks.length = 0
  }

  /** The slot with a streamed block's weights, filled now if none has them. */
  #slotOf(n: number, busy?: Slot): Slot {
    const there = this.#slots.find((slot) => slot.block === n)
    if (there) return there
    const { linears } = this.#blocks[n]!
    if (this.#slots.length < 2) this.#slots.push({ weights: linears.allocate(), block: -1 })
    const free = this.#slots.filter((slot) => slot !== busy)
    // Whatever uses the slot is queued already, and the copy comes after it.
    const slot = free.reduce((best, other) =>
      distance(other, n) > distance(best, n) ? other : best,
    )
    linears.fill(slot.weights)
    slot.block = n
    return slot
  }

  /** Starts the copy of the streamed block that comes after this one, in the direction the blocks are being entered. */
  #prefetch(n: number, busy?: Slot): void {
    const step = n < this.#lastEntered ? -1 : 1
    this.#lastEntered = n
    let next = n + step
    while (next >= 0 && next < this.#blocks.length && !this.#isStreamed[next]) next += step
    if (next >= 0 && next < this.#blocks.length) this.#slotOf(next, busy)
  }

  #freeSlots(): void {
    for (const { weights } of this.#slots) for (const weight of weights) free(this.#device, weight)
    this.#slots = []
    this.#lastEntered = -1
  }
}

function free(device: Device, weight: Weight): void {
  for (const tensor of tensorsOf(weight)) device.release(tensor)
}

/** How far a slot's block is from another; an empty slot is farther than any. */
function distance({ block }: Slot, n: number): number {
  return block < 0 ? Infinity : Math.abs(block - n)
}

/** A weight of the same kind over other tensors. */
function replaceTensors(weight: Weight, tensors: readonly Tensor[]): Weight {
  if (!isPackedWeight(weight)) return tensors[0]!
  const [codes, scales, zeros] = tensors as [Tensor, Tensor, Tensor?]
  return { ...weight, codes, scales, ...(zeros ? { zeros } : {}) }
}
