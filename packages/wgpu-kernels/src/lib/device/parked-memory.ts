import type { DType, ParkedTensor, ParkOptions } from '@kinora/kernel-api'

import { wgpuErrors } from '../errors.ts'
import { describeTensor, type WgpuTensor } from '../tensor/wgpu-tensor.ts'
import type { CommandQueue } from './command-queue.ts'
import { BufferUsage, MapMode } from './gpu-constants.ts'

// Host memory that the adapter reads by itself: a buffer that was mapped for writing and may be copied from lives in memory of
// the host, and a copy out of it is a transfer over the bus that no processor takes part in.

/** A tensor's bytes in one such buffer. */
class ParkedBuffer {
  readonly owner: object
  readonly buffer: GPUBuffer
  readonly sizeBytes: number
  /** Whether the buffer is kept for another when this one is discarded. */
  readonly isTransient: boolean
  isDiscarded = false

  constructor(owner: object, buffer: GPUBuffer, sizeBytes: number, isTransient: boolean) {
    this.owner = owner
    this.buffer = buffer
    this.sizeBytes = sizeBytes
    this.isTransient = isTransient
  }
}

/** Bytes copied at a time on the way out: bounds the memory that is mapped for it. */
const CHUNK = 64 * 2 ** 20
/** Of one size, how many buffers for the way out are kept where the copies stay. */
const KEPT_STAGINGS = 8

interface ParkedMemoryParts {
  readonly owner: object
  readonly device: GPUDevice
  readonly queue: CommandQueue
  readonly watch: (check: Promise<Error | undefined>) => void
}

/** The parked tensors of a device. */
export class ParkedMemory {
  readonly #parts: ParkedMemoryParts
  /** By size: what copies were in on their way. Memory of the host that an adapter reads is slow to get. */
  readonly #freeStagings = new Map<number, GPUBuffer[]>()
  readonly #freeTargets = new Map<number, GPUBuffer[]>()
  #sizeBytes = 0

  constructor(parts: ParkedMemoryParts) {
    this.#parts = parts
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  /** Everything up to the first wait happens in the call, so the tensor is free when it returns. */
  async park(tensor: WgpuTensor, { transient = false }: ParkOptions = {}): Promise<ParkedTensor> {
    const { owner, queue } = this.#parts
    const { shape, dtype } = tensor
    const what = describeTensor(tensor)
    const sizeBytes = Math.max(4, Math.ceil(tensor.sizeBytes / 4) * 4)
    const parts: { staging: GPUBuffer; at: number; size: number }[] = []
    for (let at = 0; at < sizeBytes; at += CHUNK) {
      const size = Math.min(CHUNK, sizeBytes - at)
      const staging = this.#staging(size)
      queue.copy(tensor.handle.pooled, at, staging, 0, size)
      parts.push({ staging, at, size })
    }
    queue.flush()
    let target: GPUBuffer | undefined
    try {
      let bytes: Uint8Array | undefined
      for (const { staging, at, size } of parts) {
        await staging.mapAsync(MapMode.READ)
        // Host memory for the copy is taken only once its content is there.
        target ??= await this.#target(sizeBytes)
        bytes ??= new Uint8Array(target.getMappedRange())
        bytes.set(new Uint8Array(staging.getMappedRange()), at)
        staging.unmap()
        const isKept = transient || (this.#freeStagings.get(size)?.length ?? 0) < KEPT_STAGINGS
        if (isKept) keep(this.#freeStagings, size, staging)
        else staging.destroy()
      }
      target!.unmap()
    } catch (cause) {
      target?.destroy()
      for (const { staging } of parts) staging.destroy()
      throw wgpuErrors.VALIDATION(`parking ${what}`, String(cause), { cause })
    }
    this.#sizeBytes += sizeBytes
    return { shape, dtype, handle: new ParkedBuffer(owner, target!, sizeBytes, transient) }
  }

  unpark(parked: ParkedTensor, into: WgpuTensor): void {
    const { buffer, sizeBytes } = this.#own('unpark', parked)
    if (parked.dtype !== into.dtype || parked.shape.join() !== into.shape.join()) {
      const from = describe(parked)
      throw wgpuErrors.BAD_SHAPE('unpark', `a parked ${from} does not fit ${describeTensor(into)}.`)
    }
    this.#parts.queue.copyIn(buffer, into.handle.pooled, sizeBytes)
  }

  discard(parked: ParkedTensor): void {
    const own = this.#own('discard', parked)
    own.isDiscarded = true
    this.#sizeBytes -= own.sizeBytes
    if (own.isTransient) {
      keep(this.#freeTargets, own.sizeBytes, own.buffer)
      return
    }
    // Copies that are recorded and not yet submitted still read it.
    this.#parts.queue.flush()
    own.buffer.destroy()
  }

  /** Gives back what transient copies left behind. */
  trim(): void {
    this.#parts.queue.flush()
    for (const list of [this.#freeStagings, this.#freeTargets]) {
      for (const buffers of list.values()) for (const buffer of buffers) buffer.destroy()
      list.clear()
    }
  }

  /** A buffer that the device copies to and the host reads. */
  #staging(size: number): GPUBuffer {
    const usage = BufferUsage.MAP_READ | BufferUsage.COPY_DST
    return (
      this.#freeStagings.get(size)?.pop() ??
      this.#parts.device.createBuffer({ label: 'park', size, usage })
    )
  }

  /** A buffer that the host writes, mapped. */
  async #target(size: number): Promise<GPUBuffer> {
    const free = this.#freeTargets.get(size)?.pop()
    if (!free) return this.#create(size)
    // Copies out of it that are still recorded must be submitted before it is mapped.
    this.#parts.queue.flush()
    await free.mapAsync(MapMode.WRITE)
    return free
  }

  #own(op: string, parked: ParkedTensor): ParkedBuffer {
    const { handle } = parked
    if (!(handle instanceof ParkedBuffer) || handle.owner !== this.#parts.owner) {
      throw wgpuErrors.FOREIGN_TENSOR(op)
    }
    if (handle.isDiscarded) throw wgpuErrors.TENSOR_FREED(op, `${describe(parked)}, parked`)
    return handle
  }

  #create(size: number): GPUBuffer {
    const { device, watch } = this.#parts
    device.pushErrorScope('out-of-memory')
    const buffer = device.createBuffer({
      label: 'parked',
      size,
      usage: BufferUsage.MAP_WRITE | BufferUsage.COPY_SRC,
      mappedAtCreation: true,
    })
    watch(
      device
        .popErrorScope()
        .then((error) =>
          error ? wgpuErrors.HOST_OUT_OF_MEMORY(size, this.#sizeBytes) : undefined,
        ),
    )
    return buffer
  }
}

function keep(free: Map<number, GPUBuffer[]>, size: number, buffer: GPUBuffer): void {
  const list = free.get(size)
  if (list) list.push(buffer)
  else free.set(size, [buffer])
}

function describe({ shape, dtype }: { shape: readonly number[]; dtype: DType }): string {
  return `[${shape.join(', ')}] ${dtype}`
}
