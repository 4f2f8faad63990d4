import type { PooledBuffer } from './buffer-pool.ts'
import { BufferUsage, MapMode } from './gpu-constants.ts'

/** One dispatch as the profiler reports it. */
export interface KernelTime {
  kernel: string
  /** The uniforms: shapes, mostly. */
  detail: string
  milliseconds: number
}

/** What a recorded dispatch was, for error messages and profiles. Kept as references; made into text only when asked. */
export interface DispatchNote {
  readonly kernel: string
  readonly uniforms: Readonly<Record<string, number>>
}

export function describeDispatch({ kernel, uniforms }: DispatchNote): string {
  const values = Object.entries(uniforms).map(([name, value]) => `${name} ${value}`)
  return `${kernel} (${values.join(', ')})`
}

export interface CommandQueueOptions {
  readonly device: GPUDevice
  readonly uniformAlignment: number
  /** Submits after every dispatch, so that an error names exactly one. */
  readonly robust: boolean
  /** Gives every dispatch a pass of its own with timestamps. */
  readonly profile: boolean
  /** Called after each submit with what it held and a promise of the validation error, if any. */
  readonly onSubmit: (notes: readonly DispatchNote[], error: Promise<GPUError | null>) => void
}

/** Bytes of uniforms one batch may hold. */
const UNIFORM_BYTES = 64 * 1024
/** Dispatches after which a batch is submitted: long enough to make a submit cheap, short enough to keep the device busy. */
const BATCH_DISPATCHES = 128
const QUERIES = 2048

/**
 * Records dispatches into long passes and submits them in batches. The uniforms of a batch go up in one write before it, and
 * each dispatch finds its own by a dynamic offset.
 */
export class CommandQueue {
  readonly #options: CommandQueueOptions
  readonly #device: GPUDevice
  /** Holds the uniforms of the batch being recorded. */
  readonly uniformBuffer: GPUBuffer
  readonly #staging = new ArrayBuffer(UNIFORM_BYTES)
  readonly #stagingView = new DataView(this.#staging)
  #stagingUsed = 0
  #encoder: GPUCommandEncoder | undefined
  #pass: GPUComputePassEncoder | undefined
  #pipeline: GPUComputePipeline | undefined
  #notes: DispatchNote[] = []
  /** Number of the batch being recorded. */
  #batch = 1
  readonly #querySet: GPUQuerySet | undefined
  readonly #queryBuffer: GPUBuffer | undefined
  #timed: DispatchNote[] = []
  /** Times of earlier batches, on their way to the host. */
  readonly #resolved: { notes: readonly DispatchNote[]; ticks: GPUBuffer }[] = []

  constructor(options: CommandQueueOptions) {
    this.#options = options
    this.#device = options.device
    this.uniformBuffer = options.device.createBuffer({
      label: 'uniforms',
      size: UNIFORM_BYTES,
      usage: BufferUsage.UNIFORM | BufferUsage.COPY_DST,
    })
    if (options.profile) {
      this.#querySet = options.device.createQuerySet({ type: 'timestamp', count: QUERIES })
      this.#queryBuffer = options.device.createBuffer({
        size: QUERIES * 8,
        usage: BufferUsage.QUERY_RESOLVE | BufferUsage.COPY_SRC,
      })
    }
  }

  /** Records one dispatch. `uniforms` are written in order; `types` says how. */
  dispatch(
    note: DispatchNote,
    pipeline: GPUComputePipeline,
    bindGroup: GPUBindGroup,
    buffers: readonly PooledBuffer[],
    types: readonly ('u32' | 'i32' | 'f32')[],
    uniforms: readonly number[],
    grid: readonly [number, number],
  ): void {
    const { uniformAlignment, robust } = this.#options
    if (
      this.#notes.length >= BATCH_DISPATCHES ||
      this.#stagingUsed + types.length * 4 + uniformAlignment > UNIFORM_BYTES
    ) {
      this.flush()
    }
    const offset = this.#stagingUsed
    for (let i = 0; i < types.length; i++) {
      const at = offset + 4 * i
      if (types[i] === 'f32') this.#stagingView.setFloat32(at, uniforms[i]!, true)
      else if (types[i] === 'i32') this.#stagingView.setInt32(at, uniforms[i]!, true)
      else this.#stagingView.setUint32(at, uniforms[i]!, true)
    }
    this.#stagingUsed = Math.ceil((offset + types.length * 4) / uniformAlignment) * uniformAlignment
    for (const buffer of buffers) buffer.lastBatch = this.#batch
    const pass = this.#openPass(note)
    if (this.#pipeline !== pipeline) {
      pass.setPipeline(pipeline)
      this.#pipeline = pipeline
    }
    pass.setBindGroup(0, bindGroup, [offset])
    pass.dispatchWorkgroups(grid[0], grid[1])
    this.#notes.push(note)
    if (this.#querySet) this.#closePass()
    if (robust) this.flush()
  }

  /** Records a copy between buffers. Offsets and size are multiples of 4. */
  copy(
    source: PooledBuffer,
    sourceOffset: number,
    target: GPUBuffer,
    targetOffset: number,
    sizeBytes: number,
  ): void {
    source.lastBatch = this.#batch
    this.#openEncoder().copyBufferToBuffer(
      source.buffer,
      sourceOffset,
      target,
      targetOffset,
      sizeBytes,
    )
  }

  /** Records a copy of the first bytes of a buffer over a part of a pooled one. Offset and size are multiples of 4. */
  copyIn(source: GPUBuffer, target: PooledBuffer, sizeBytes: number, targetOffset = 0): void {
    target.lastBatch = this.#batch
    this.#openEncoder().copyBufferToBuffer(source, 0, target.buffer, targetOffset, sizeBytes)
  }

  /** Fills the first bytes of a buffer with zeros. `sizeBytes` is a multiple of 4. */
  clear(target: PooledBuffer, sizeBytes: number): void {
    target.lastBatch = this.#batch
    this.#openEncoder().clearBuffer(target.buffer, 0, sizeBytes)
  }

  /** Writes from the host, after everything recorded so far that uses the buffer. `offset` and size are multiples of 4. */
  write(target: PooledBuffer, offset: number, data: Uint8Array): void {
    if (target.lastBatch === this.#batch) this.flush()
    this.#device.queue.writeBuffer(
      target.buffer,
      offset,
      data.buffer as ArrayBuffer,
      data.byteOffset,
      data.byteLength,
    )
  }

  /** Submits what is recorded. */
  flush(): void {
    if (!this.#encoder) return
    this.#closePass()
    if (this.#timed.length > 0) {
      this.#encoder.resolveQuerySet(
        this.#querySet!,
        0,
        2 * this.#timed.length,
        this.#queryBuffer!,
        0,
      )
      if (2 * (this.#timed.length + BATCH_DISPATCHES) > QUERIES) this.#drainTimes(this.#encoder)
    }
    const { queue } = this.#device
    this.#device.pushErrorScope('validation')
    if (this.#stagingUsed > 0) {
      queue.writeBuffer(this.uniformBuffer, 0, this.#staging, 0, this.#stagingUsed)
    }
    queue.submit([this.#encoder.finish()])
    const error = this.#device.popErrorScope()
    const notes = this.#notes
    this.#encoder = undefined
    this.#stagingUsed = 0
    this.#notes = []
    this.#batch++
    this.#options.onSubmit(notes, error)
  }

  /** Times of the dispatches since the last call, in order. Only with `profile`. */
  async takeProfile(): Promise<KernelTime[]> {
    if (!this.#querySet) return []
    this.flush()
    if (this.#timed.length > 0) {
      const encoder = this.#device.createCommandEncoder()
      this.#drainTimes(encoder)
      this.#device.queue.submit([encoder.finish()])
    }
    const times: KernelTime[] = []
    for (const { notes, ticks: staging } of this.#resolved.splice(0)) {
      await staging.mapAsync(MapMode.READ)
      const ticks = new BigUint64Array(staging.getMappedRange().slice(0))
      staging.destroy()
      for (const [i, note] of notes.entries()) {
        times.push({
          kernel: note.kernel,
          detail: describeDispatch(note),
          milliseconds: Number(ticks[2 * i + 1]! - ticks[2 * i]!) / 1e6,
        })
      }
    }
    return times
  }

  /** Copies the resolved times to where the host can read them, so that the queries can be used again. */
  #drainTimes(encoder: GPUCommandEncoder): void {
    const size = 16 * this.#timed.length
    const ticks = this.#device.createBuffer({
      size,
      usage: BufferUsage.MAP_READ | BufferUsage.COPY_DST,
    })
    encoder.copyBufferToBuffer(this.#queryBuffer!, 0, ticks, 0, size)
    this.#resolved.push({ notes: this.#timed, ticks })
    this.#timed = []
  }

  destroy(): void {
    this.uniformBuffer.destroy()
    this.#querySet?.destroy()
    this.#queryBuffer?.destroy()
  }

  #openEncoder(): GPUCommandEncoder {
    this.#closePass()
    return (this.#encoder ??= this.#device.createCommandEncoder())
  }

  #openPass(note: DispatchNote): GPUComputePassEncoder {
    if (this.#pass) return this.#pass
    this.#encoder ??= this.#device.createCommandEncoder()
    const index = 2 * this.#timed.length
    const timed = this.#querySet && index + 2 <= QUERIES
    if (timed) this.#timed.push(note)
    this.#pass = this.#encoder.beginComputePass(
      timed
        ? {
            timestampWrites: {
              querySet: this.#querySet!,
              beginningOfPassWriteIndex: index,
              endOfPassWriteIndex: index + 1,
            },
          }
        : {},
    )
    this.#pipeline = undefined
    return this.#pass
  }

  #closePass(): void {
    this.#pass?.end()
    this.#pass = undefined
    this.#pipeline = undefined
  }
}
