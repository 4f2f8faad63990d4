import type { PooledBuffer } from './buffer-pool.ts'
import type { CommandQueue } from './command-queue.ts'
import { BufferUsage, MapMode } from './gpu-constants.ts'

/** Buffers on their way at a time; whoever wants one more waits for the oldest. */
const MOST_BUFFERS = 8
/** Buffers have sizes of 2ⁿ from here on, so that the ends of tensors need few sizes. */
const SMALLEST = 2 ** 20

interface Staging {
  readonly buffer: GPUBuffer
  readonly sizeBytes: number
  /** Resolves once the buffer is mapped again. */
  ready: Promise<void>
}

/**
 * Memory of the host that the device copies from by itself, written in place: a file read into it reaches the device with no copy
 * by a processor, and without new memory, which drivers are slow to give.
 */
export class StagingRing {
  readonly #device: GPUDevice
  readonly #queue: CommandQueue
  readonly #wait: <T>(promise: Promise<T>) => Promise<T>
  /** Idle or on their way back, the oldest first. */
  #free: Staging[] = []
  #numBuffers = 0
  readonly #waiting: (() => void)[] = []

  constructor(
    device: GPUDevice,
    queue: CommandQueue,
    wait: <T>(promise: Promise<T>) => Promise<T>,
  ) {
    this.#device = device
    this.#queue = queue
    this.#wait = wait
  }

  /**
   * Copies what `read` writes over a part of a buffer. `read` may write all of the memory it is given.
   *
   * @param offset in bytes, a multiple of 4
   */
  async fill(
    target: PooledBuffer,
    offset: number,
    sizeBytes: number,
    read: (bytes: Uint8Array) => Promise<void>,
  ): Promise<void> {
    const staging = await this.#take(sizeBytes)
    try {
      await read(new Uint8Array(staging.buffer.getMappedRange(), 0, sizeBytes))
    } catch (error) {
      // Still mapped, but its range is handed out once only.
      staging.buffer.destroy()
      this.#numBuffers--
      this.#waiting.shift()?.()
      throw error
    }
    staging.buffer.unmap()
    this.#queue.copyIn(staging.buffer, target, Math.ceil(sizeBytes / 4) * 4, offset)
    this.#queue.flush()
    staging.ready = this.#wait(staging.buffer.mapAsync(MapMode.WRITE))
    // A lost device is told by whatever is waited for next.
    staging.ready.catch(() => {})
    this.#free.push(staging)
    this.#waiting.shift()?.()
  }

  trim(): void {
    for (const { buffer } of this.#free) buffer.destroy()
    this.#numBuffers -= this.#free.length
    this.#free = []
  }

  async #take(sizeBytes: number): Promise<Staging> {
    const size = Math.max(SMALLEST, 2 ** Math.ceil(Math.log2(sizeBytes)))
    for (;;) {
      const at = this.#free.findIndex((staging) => staging.sizeBytes === size)
      // A buffer on its way back is worth waiting for only where there may not be another.
      if (at >= 0 && (this.#numBuffers >= MOST_BUFFERS || this.#free.length > MOST_BUFFERS / 2)) {
        const [staging] = this.#free.splice(at, 1)
        await staging!.ready
        return staging!
      }
      if (this.#numBuffers < MOST_BUFFERS) return this.#create(size)
      const other = this.#free.shift()
      if (other) {
        other.buffer.destroy()
        this.#numBuffers--
        return this.#create(size)
      }
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
  }

  #create(size: number): Staging {
    this.#numBuffers++
    const buffer = this.#device.createBuffer({
      label: 'staging',
      size,
      usage: BufferUsage.MAP_WRITE | BufferUsage.COPY_SRC,
      mappedAtCreation: true,
    })
    return { buffer, sizeBytes: size, ready: Promise.resolve() }
  }
}
