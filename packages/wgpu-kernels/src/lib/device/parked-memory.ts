import type { DType, ParkedTensor } from '@kinora/kernel-api'

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
  isDiscarded = false

  constructor(owner: object, buffer: GPUBuffer, sizeBytes: number) {
    this.owner = owner
    this.buffer = buffer
    this.sizeBytes = sizeBytes
  }
}

/** Bytes copied at a time on the way out: bounds the memory that is mapped for it. */
const CHUNK = 64 * 2 ** 20

interface ParkedMemoryParts {
  readonly owner: object
  readonly device: GPUDevice
  readonly queue: CommandQueue
  readonly watch: (check: Promise<Error | undefined>) => void
}

/** The parked tensors of a device. */
export class ParkedMemory {
  readonly #parts: ParkedMemoryParts
  #sizeBytes = 0

  constructor(parts: ParkedMemoryParts) {
    this.#parts = parts
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  async park(tensor: WgpuTensor): Promise<ParkedTensor> {
    const { owner, device, queue } = this.#parts
    const { shape, dtype } = tensor
    const sizeBytes = Math.max(4, Math.ceil(tensor.sizeBytes / 4) * 4)
    const target = this.#create(sizeBytes)
    const parts: { staging: GPUBuffer; at: number }[] = []
    try {
      const bytes = new Uint8Array(target.getMappedRange())
      for (let at = 0; at < sizeBytes; at += CHUNK) {
        const size = Math.min(CHUNK, sizeBytes - at)
        const usage = BufferUsage.MAP_READ | BufferUsage.COPY_DST
        const staging = device.createBuffer({ label: 'park', size, usage })
        queue.copy(tensor.handle.pooled, at, staging, 0, size)
        parts.push({ staging, at })
      }
      queue.flush()
      for (const { staging, at } of parts) {
        await staging.mapAsync(MapMode.READ)
        bytes.set(new Uint8Array(staging.getMappedRange()), at)
      }
      target.unmap()
    } catch (cause) {
      target.destroy()
      throw wgpuErrors.VALIDATION(`parking ${describeTensor(tensor)}`, String(cause), { cause })
    } finally {
      for (const { staging } of parts) staging.destroy()
    }
    this.#sizeBytes += sizeBytes
    return { shape, dtype, handle: new ParkedBuffer(owner, target, sizeBytes) }
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
    // Copies that are recorded and not yet submitted still read it.
    this.#parts.queue.flush()
    own.isDiscarded = true
    own.buffer.destroy()
    this.#sizeBytes -= own.sizeBytes
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

function describe({ shape, dtype }: { shape: readonly number[]; dtype: DType }): string {
  return `[${shape.join(', ')}] ${dtype}`
}
