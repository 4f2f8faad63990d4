import type { Ops } from './ops.ts'
import type { DType, Tensor } from './tensor.ts'

/** What a device is, for logs and reports. */
export interface DeviceInfo {
  /** Package that made it, such as `@kinora/wgpu-kernels`. */
  backend: string
  /** Name of the adapter, as the driver says it. */
  adapter: string
  /** Driver and its version, where known. */
  driver: string
  /** True for a software adapter or plain code on the processor. */
  software: boolean
  /** Dtypes its ops compute in; `f32` always. */
  computeDTypes: readonly ('f32' | 'f16')[]
  /** Why this one was chosen, in one sentence. */
  reason: string
}

/** Host arrays: f16 and bf16 travel as their 16 bits. */
export type HostArray = Float32Array | Float64Array | Uint16Array | Int32Array | Uint32Array

/** Bytes on a device, as its tensors count them. */
export interface MemoryUse {
  /** Bytes of live tensors now, and the most since `resetPeak`. */
  liveBytes: number
  peakBytes: number
  /** Bytes the device holds for reuse, live ones not counted. */
  pooledBytes: number
  /** Bytes of host memory that hold parked tensors. */
  parkedBytes: number
}

/** A tensor's content in host memory, from where the device fetches it by itself. */
export interface ParkedTensor {
  readonly shape: readonly number[]
  readonly dtype: DType
  /** The backend's own. */
  readonly handle: unknown
}

export interface ParkOptions {
  /** The copy is short-lived and others of its size will follow: `discard` may keep its host memory for them. */
  transient?: boolean | undefined
}

/**
 * A place where ops run. Work is queued in order; only `read` and `sync` wait. Lifetimes are explicit: a tensor belongs to
 * the innermost open scope and is freed when it ends, unless it is in the scope's result or was retained. No finaliser is
 * needed for correctness.
 */
export interface Device {
  readonly info: DeviceInfo
  readonly ops: Ops

  /**
   * Copies an array to the device. The array's type must be the dtype's: f32 Float32Array (or Float64Array, rounded), f16 and
   * bf16 Uint16Array, i32 Int32Array, u32 Uint32Array.
   */
  upload(data: HostArray, shape: readonly number[], dtype: DType): Tensor
  /** A tensor of zeros. */
  zeros(shape: readonly number[], dtype: DType): Tensor
  /** Overwrites elements from `offset` on: how large weights arrive in parts. */
  write(tensor: Tensor, data: HostArray, offset?: number): void
  /**
   * Overwrites a part of a tensor with the bytes that `read` puts into memory from where the device takes them: how files reach it
   * with no copy in between. Little-endian, as the dtype is stored. Several may be under way; resolves when the copy is queued.
   *
   * @param offsetBytes a multiple of 4
   * @param sizeBytes a multiple of 4, but at the end of the tensor
   */
  fill(
    tensor: Tensor,
    offsetBytes: number,
    sizeBytes: number,
    read: (bytes: Uint8Array) => Promise<void>,
  ): Promise<void>
  /** Copies to the host: f32, f16 and bf16 as Float32Array, integers as their own. Waits for the work before it. */
  read(tensor: Tensor): Promise<Float32Array | Int32Array | Uint32Array>
  /** Waits until all queued work is done. Throws what went wrong on the device since the last wait. */
  sync(): Promise<void>

  /** One more owner: the tensor survives its scope until as many `release` calls. Returns it. */
  retain<T extends Tensor>(tensor: T): T
  /** One owner less; at none the storage returns to the pool. */
  release(tensor: Tensor): void
  /** As `ops.scope`. */
  scope<T>(fn: () => T): T

  /**
   * Copies a tensor to host memory. The tensor stays what it was. The copy is queued when the call returns, so the tensor may be
   * released then, and work queued later may change it.
   */
  park(tensor: Tensor, options?: ParkOptions): Promise<ParkedTensor>
  /**
   * Queues the copy back, over the content of a tensor of the same shape and dtype. Work queued before it sees the old content;
   * the host does not wait, and where the adapter can copy while it computes, it does.
   */
  unpark(parked: ParkedTensor, into: Tensor): void
  /** Frees a parked copy. */
  discard(parked: ParkedTensor): void

  memory(): MemoryUse
  resetPeak(): void
  /**
   * Tells how many bytes of the device this process may take. Below that, what lies idle is kept for reuse, since making large
   * buffers anew costs milliseconds each; unless told, little more is kept than was live at most. No limit: what is asked for
   * beyond it is tried all the same.
   */
  setMemoryBudget(bytes: number): void
  /**
   * Gives idle memory back where the budget, if there is one, has no room for `bytes` more beside it, and waits until the driver
   * has it. To be called between pieces of work that differ in size: while work is queued, nothing comes back.
   */
  makeRoom(bytes: number): Promise<void>
  /** Frees everything. The device cannot be used afterwards. */
  destroy(): void
}

/** What any backend may be asked when it opens a device. */
export interface OpenDeviceOptions {
  /** Part of an adapter's name, to choose among several. */
  adapter?: string | undefined
  /** Checks bounds and validates every call: slower, for bug reports and tests. */
  robust?: boolean | undefined
  /**
   * The work will be long: a backend that can may measure first which of its kernels are fastest here, up to a minute, and keep
   * the answer. Results do not depend on it.
   */
  tune?: boolean | undefined
  /** Hears what a user should know while the device opens. */
  onNote?: ((message: string) => void) | undefined
}
/** What a backend package exports by the name `openDevice`: the one line that changes when the kernels are swapped. */
export type OpenDevice = (options?: OpenDeviceOptions) => Promise<Device>
