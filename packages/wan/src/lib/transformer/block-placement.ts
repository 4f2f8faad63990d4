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

// The weights of the blocks' linears are nearly all of an expert, so where they are is what decides about device memory:
//
// - A resident block has them on the device. `toHost` parks all of them there are and frees the device's; `toDevice` brings
//   them back. The weights are frozen, so what was parked once never has to be copied out again.
// - A streamed block has them parked in host memory always. Two slots on the device, each the size of a block, take turns: while
//   the ops of one block run, the next one's weights are copied into the other. "Next" is after on the way forward and before
//   on the way back, so at the turn the last two blocks are there already.
//
// Blocks see none of this: `enter` gives weights that are on the device when the ops queued next run.

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

/** A block whose weights may be elsewhere. */
interface PlacedBlock {
  readonly template: BlockWeights
  /** By linear, then by tensor of its weight; undefined where they were never parked. */
  parked: ParkedTensor[][] | undefined
  /** On the device; undefined for a streamed block, and for a resident one that is in host memory. */
  resident: BlockWeights | undefined
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
    const placed: PlacedBlock = { template: block, parked: undefined, resident: block }
    this.#blocks.push(placed)
    if (!this.#isStreamed[n]) return
    placed.parked = await this.#park(block)
    this.#freeResident(placed)
  }

  /** The weights of a block, for ops that are queued before the next call. */
  enter(n: number): BlockWeights {
    const block = this.#blocks[n]!
    if (!this.#isStreamed[n]) {
      if (!block.resident) this.toDevice()
      this.#prefetch(n)
      return block.resident!
    }
    const slot = this.#slotOf(n)
    this.#prefetch(n, slot)
    return withWeights(block.template, slot.weights)
  }

  /** Moves all weights to host memory. A later `enter` brings them back. */
  async toHost(): Promise<void> {
    for (const [n, block] of this.#blocks.entries()) {
      if (this.#isStreamed[n] || !block.resident) continue
      block.parked ??= await this.#park(block.resident)
      this.#freeResident(block)
    }
    this.#freeSlots()
  }

  /** Brings the weights of the resident blocks back to the device, which need not wait for it. */
  toDevice(): void {
    for (const [n, block] of this.#blocks.entries()) {
      if (this.#isStreamed[n] || block.resident) continue
      const weights = this.#allocate(n)
      this.#fill(n, weights)
      block.resident = withWeights(block.template, weights)
    }
  }

  release(): void {
    for (const block of this.#blocks) {
      this.#freeResident(block)
      for (const parked of block.parked?.flat() ?? []) this.#device.discard(parked)
      block.parked = undefined
    }
    this.#freeSlots()
    this.#blocks.length = 0
  }

  /** The slot with a streamed block's weights, filled now if none has them. */
  #slotOf(n: number, busy?: Slot): Slot {
    const there = this.#slots.find((slot) => slot.block === n)
    if (there) return there
    if (this.#slots.length < 2) this.#slots.push({ weights: this.#allocate(n), block: -1 })
    const free = this.#slots.filter((slot) => slot !== busy)
    // Whatever uses the slot is queued already, and the copy comes after it.
    const slot = free.reduce((best, other) =>
      distance(other, n) > distance(best, n) ? other : best,
    )
    this.#fill(n, slot.weights)
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

  #allocate(n: number): Weight[] {
    const { template, parked } = this.#blocks[n]!
    return linearsOf(template).map(({ weight }, i) => {
      const tensors = parked![i]!.map(({ shape, dtype }) =>
        keptFromScope(this.#device, () => this.#device.zeros(shape, dtype)),
      )
      return replaceTensors(weight, tensors)
    })
  }

  #fill(n: number, weights: readonly Weight[]): void {
    const { parked } = this.#blocks[n]!
    for (const [i, weight] of weights.entries()) {
      for (const [j, tensor] of tensorsOf(weight).entries()) {
        this.#device.unpark(parked![i]![j]!, tensor)
      }
    }
  }

  #park(block: BlockWeights): Promise<ParkedTensor[][]> {
    return Promise.all(
      linearsOf(block).map(({ weight }) =>
        Promise.all(tensorsOf(weight).map((tensor) => this.#device.park(tensor))),
      ),
    )
  }

  #freeResident(block: PlacedBlock): void {
    if (!block.resident) return
    for (const { weight } of linearsOf(block.resident)) this.#free(weight)
    block.resident = undefined
  }

  #freeSlots(): void {
    for (const slot of this.#slots) for (const weight of slot.weights) this.#free(weight)
    this.#slots = []
    this.#lastEntered = -1
  }

  #free(weight: Weight): void {
    for (const tensor of tensorsOf(weight)) this.#device.release(tensor)
  }
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
