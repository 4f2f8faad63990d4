import { wgpuErrors } from '../errors.ts'
import { BufferUsage } from './gpu-constants.ts'

/** A GPU buffer of the pool. The same object comes back each time the buffer is reused, so bind groups can be kept by id. */
export interface PooledBuffer {
  /** Never reused, unlike the buffer. */
  readonly id: number
  readonly buffer: GPUBuffer
  /** Capacity: a size class, a multiple of 256. */
  readonly sizeBytes: number
  /** Number of the batch that last used it: a host write must not overtake commands still being recorded. */
  lastBatch: number
}

/** From here on a buffer is so large that its rounding counts: a training step keeps a hundred of them. */
const LARGE = 64 * 2 ** 20
/** A large buffer that lies idle serves what asks for up to this much less. */
const NEARLY = 1 + 1 / 16

/**
 * Rounds a size up to its class. Small buffers have four classes an octave, those from a quarter of a MiB on sixteen, large ones sixty-four, so
 * at most a quarter of a small buffer, 6 % of a middling one and 1.6 % of a large one is waste, while a network's few hundred sizes
 * meet in few classes.
 */
export function sizeClass(bytes: number): number {
  if (bytes <= 256) return 256
  const octave = 2 ** Math.floor(Math.log2(bytes - 1))
  const step = Math.max(256, octave / (bytes >= LARGE ? 64 : bytes >= 2 ** 18 ? 16 : 4))
  return Math.ceil(bytes / step) * step
}

/** What the pool needs of the device it allocates on. */
export interface PoolHost {
  readonly device: GPUDevice
  /** Largest buffer, in bytes. */
  readonly maxBufferSize: number
  /** Called before a buffer is destroyed: commands that use it must have been submitted. */
  flush(): void
  /** Called with a check that resolves once it is known whether an allocation succeeded. */
  watch(check: Promise<Error | undefined>): void
}

/**
 * How far live and idle buffers together may exceed what was live at most, before a new buffer makes idle ones go: so much, or
 * this share. A step asks for more each block, for what it keeps; idle buffers that the next block needs should outlive that,
 * because a destroyed buffer is only given back once the device has come so far, and the host is seconds ahead of it.
 */
const SLACK_BYTES = 256 * 2 ** 20
const SLACK_SHARE = 1 / 24

/**
 * Storage buffers by size class, the oldest first. Buffers go back explicitly, never by garbage collection, which knows
 * nothing of GPU memory.
 *
 * Which buffer is handed out depends on which are free and not on the order in which they came back, so the same work gets the
 * same buffers each time, and its bind groups are found again.
 */
export class BufferPool {
  readonly #host: PoolHost
  readonly #free = new Map<number, PooledBuffer[]>()
  /** The same buffers, the one that has been idle longest first. */
  readonly #idle = new Set<PooledBuffer>()
  /** Buffers handed out. */
  readonly #live = new Set<PooledBuffer>()
  #nextId = 1
  #liveBytes = 0
  #peakBytes = 0
  /** Like the peak, but since the last `trim`. */
  #mostLive = 0
  #pooledBytes = 0
  /** Live and idle buffers together may take so much; undefined where nobody knows. */
  budget: number | undefined

  constructor(host: PoolHost) {
    this.#host = host
  }

  get liveBytes(): number {
    return this.#liveBytes
  }
  get peakBytes(): number {
    return this.#peakBytes
  }
  get pooledBytes(): number {
    return this.#pooledBytes
  }

  resetPeak(): void {
    this.#peakBytes = this.#liveBytes
  }

  /** A buffer of at least `bytes`. Its content is whatever the last user left. */
  acquire(bytes: number): PooledBuffer {
    const size = sizeClass(bytes)
    if (size > this.#host.maxBufferSize) {
      throw wgpuErrors.BUFFER_TOO_LARGE(bytes, this.#host.maxBufferSize)
    }
    let pooled = this.#free.get(size)?.pop() ?? this.#popNearly(size)
    if (pooled) {
      this.#pooledBytes -= pooled.sizeBytes
      this.#idle.delete(pooled)
    } else {
      this.#makeRoom(size)
      pooled = this.#create(size)
    }
    this.#live.add(pooled)
    this.#liveBytes += pooled.sizeBytes
    this.#peakBytes = Math.max(this.#peakBytes, this.#liveBytes)
    this.#mostLive = Math.max(this.#mostLive, this.#liveBytes)
    return pooled
  }

  release(pooled: PooledBuffer): void {
    if (!this.#live.delete(pooled)) return
    this.#liveBytes -= pooled.sizeBytes
    this.#pooledBytes += pooled.sizeBytes
    this.#idle.add(pooled)
    const list = this.#free.get(pooled.sizeBytes)
    if (!list) this.#free.set(pooled.sizeBytes, [pooled])
    else {
      // By falling id: `pop` takes the oldest.
      let at = list.length
      while (at > 0 && list[at - 1]!.id < pooled.id) at--
      list.splice(at, 0, pooled)
    }
  }

  /** Gives everything unused back to the driver. */
  trim(): void {
    this.#mostLive = this.#liveBytes
    if (this.#pooledBytes === 0) return
    this.#host.flush()
    for (const { buffer } of this.#idle) buffer.destroy()
    this.#free.clear()
    this.#idle.clear()
    this.#pooledBytes = 0
  }

  destroy(): void {
    for (const { buffer } of this.#idle) buffer.destroy()
    for (const { buffer } of this.#live) buffer.destroy()
    this.#free.clear()
    this.#idle.clear()
    this.#live.clear()
    this.#liveBytes = 0
    this.#pooledBytes = 0
  }

  /** For clips of other shapes, which are of nearly the same size: the smallest large buffer that lies idle and will do. */
  #popNearly(size: number): PooledBuffer | undefined {
    if (size < LARGE) return undefined
    let best: PooledBuffer[] | undefined
    let least = size * NEARLY
    for (const [each, list] of this.#free) {
      if (each > size && each <= least && list.length > 0) [best, least] = [list, each]
    }
    return best?.pop()
  }

  /** Destroys the buffers that have been idle longest, until one more of `size` stays within what is allowed. */
  #makeRoom(size: number): void {
    const most = Math.max(this.#mostLive, this.#liveBytes + size)
    const allowed = Math.max(this.budget ?? 0, most + Math.max(SLACK_BYTES, most * SLACK_SHARE))
    let excess = this.#liveBytes + this.#pooledBytes + size - allowed
    if (excess <= 0) return
    this.#host.flush()
    for (const pooled of this.#idle) {
      if (excess <= 0) break
      this.#idle.delete(pooled)
      const list = this.#free.get(pooled.sizeBytes)!
      list.splice(list.indexOf(pooled), 1)
      pooled.buffer.destroy()
      this.#pooledBytes -= pooled.sizeBytes
      excess -= pooled.sizeBytes
    }
  }

  #create(size: number): PooledBuffer {
    const { device } = this.#host
    const live = this.#liveBytes
    const kept = this.#pooledBytes
    // A buffer that does not fit comes back invalid and says so later, through the scope; createBuffer does not throw.
    device.pushErrorScope('out-of-memory')
    const buffer = device.createBuffer({
      label: `pool ${size}`,
      size,
      usage: BufferUsage.STORAGE | BufferUsage.COPY_SRC | BufferUsage.COPY_DST,
    })
    this.#host.watch(
      device
        .popErrorScope()
        .then((error) => (error ? wgpuErrors.OUT_OF_MEMORY(size, live, kept) : undefined)),
    )
    return { id: this.#nextId++, buffer, sizeBytes: size, lastBatch: 0 }
  }
}
