import {
  bytesPerElement,
  f32FromBf16,
  f32FromF16,
  numElements,
  type Device,
  type DeviceInfo,
  type DType,
  type HostArray,
  type MemoryUse,
  type Ops,
  type ParkedTensor,
  type ParkOptions,
  type Tensor,
} from '@kinora/kernel-api'

import { wgpuErrors } from '../errors.ts'
import { createOps } from '../ops.ts'
import { spliceHalfWords } from '../kernels/splice/splice.ts'
import { ProgramCache } from '../program/program-cache.ts'
import { Runner } from '../program/runner.ts'
import { proveUnits, type PrepareOptions } from '../self-test/prove-units.ts'
import { Lifetimes } from '../tensor/lifetimes.ts'
import { describeTensor, type WgpuTensor } from '../tensor/wgpu-tensor.ts'
import {
  readProfile,
  type AdapterDescription,
  type AdapterProfile,
  type Findings,
  type ProfileOverrides,
} from './adapter-profile.ts'
import { BufferPool } from './buffer-pool.ts'
import {
  CommandQueue,
  describeDispatch,
  type DispatchNote,
  type KernelTime,
} from './command-queue.ts'
import { BufferUsage, MapMode } from './gpu-constants.ts'
import { ParkedMemory } from './parked-memory.ts'
import { StagingRing } from './staging-ring.ts'

export interface CreateDeviceOptions {
  /** Why this adapter was chosen, for `info.reason`. */
  reason?: string | undefined
  /** Submits after every dispatch, so that an error names exactly one. Slow. */
  robust?: boolean | undefined
  /** Times every dispatch (needs the feature timestamp-query); read with `takeProfile`. */
  profile?: boolean | undefined
  /** Treats the adapter as less than it is: how tests reach the paths for other adapters. */
  overrides?: ProfileOverrides | undefined
  /** Wraps every promise the device waits for: where a door sees to it that waiting is cheap. */
  waiting?: (<T>(promise: Promise<T>) => Promise<T>) | undefined
  /** Collects what the device has dropped thousands of: bind groups hold memory of the driver that no collector counts. */
  collectGarbage?: (() => void) | undefined
  /** Called when the device is destroyed: where a door drops what it kept alive. */
  onDestroy?: (() => void) | undefined
}

/** Bytes read back at once: bounds the staging memory of a large tensor. */
const READ_CHUNK = 64 * 2 ** 20

/** kernel-api on a GPUDevice. */
export class WgpuDevice implements Device {
  readonly info: DeviceInfo
  readonly ops: Ops
  readonly profile: AdapterProfile
  readonly gpuDevice: GPUDevice
  readonly #options: CreateDeviceOptions
  /** The profile, as `prepare` may change it. */
  readonly #findings: AdapterProfile & Findings
  readonly #pool: BufferPool
  readonly #queue: CommandQueue
  readonly #lifetimes: Lifetimes
  readonly #runner: Runner
  readonly #parked: ParkedMemory
  readonly #staging: StagingRing
  /** Checks whose answer is not in yet. */
  readonly #checks = new Set<Promise<void>>()
  readonly #errors: Error[] = []
  #lost: Error | undefined
  #destroyed = false

  constructor(
    gpuDevice: GPUDevice,
    adapterInfo: AdapterDescription,
    options: CreateDeviceOptions = {},
  ) {
    this.gpuDevice = gpuDevice
    this.#options = options
    const profile = readProfile(gpuDevice, adapterInfo, options.overrides)
    this.profile = profile
    this.#findings = profile
    this.info = {
      backend: '@kinora/wgpu-kernels',
      adapter: profile.device,
      driver: profile.driver,
      software: profile.adapterClass === 'software',
      computeDTypes: profile.f16 ? ['f32', 'f16'] : ['f32'],
      reason: options.reason ?? 'The caller brought the device.',
    }
    const watch = (check: Promise<Error | undefined>): void => this.#watch(check)
    this.#queue = new CommandQueue({
      device: gpuDevice,
      uniformAlignment: profile.limits.uniformAlignment,
      robust: options.robust ?? false,
      profile: (options.profile ?? false) && profile.timestamps,
      onSubmit: (notes, error) => watch(error.then((found) => submitError(notes, found))),
    })
    this.#pool = new BufferPool({
      device: gpuDevice,
      maxBufferSize: profile.limits.maxBufferBytes,
      flush: () => this.#queue.flush(),
      watch,
    })
    this.#lifetimes = new Lifetimes((tensor) => {
      if (--tensor.handle.tensors === 0) this.#pool.release(tensor.handle.pooled)
    })
    this.#runner = new Runner({
      owner: this,
      device: gpuDevice,
      profile,
      pool: this.#pool,
      queue: this.#queue,
      programs: new ProgramCache(gpuDevice, watch),
      lifetimes: this.#lifetimes,
      assertUsable: () => this.#assertUsable(),
      watch,
      collectGarbage: options.collectGarbage,
    })
    this.#parked = new ParkedMemory({ owner: this, device: gpuDevice, queue: this.#queue, watch })
    this.#staging = new StagingRing(gpuDevice, this.#queue, (promise) => this.#wait(promise))
    this.ops = createOps(this.#runner)
    void gpuDevice.lost.then(({ reason, message }) => {
      if (!this.#destroyed) this.#lost = wgpuErrors.DEVICE_LOST(reason, message)
    })
  }

  /**
   * Lets the kernels for tensor cores prove themselves on this adapter, before any other work: some seconds at the first use of
   * a driver, nothing where `cache` has the answer. Kernels that fail are replaced by general ones, and `onNote` and
   * `info.reason` say so. Without it they are trusted.
   */
  async prepare(options: PrepareOptions = {}): Promise<void> {
    await proveUnits(this, this.#findings, {
      ...options,
      onNote: (message) => {
        this.info.reason += ` ${message}`
        options.onNote?.(message)
      },
    })
    this.trim()
    this.resetPeak()
  }

  upload(data: HostArray, shape: readonly number[], dtype: DType): Tensor {
    if (data.length !== numElements(shape)) {
      throw wgpuErrors.BAD_SHAPE(
        'upload',
        `${data.length} values do not fill a tensor [${shape.join(', ')}].`,
      )
    }
    const bits = hostBits(data, dtype)
    const tensor = this.#runner.alloc(shape, dtype)
    this.#writeBits(tensor, bits, 0)
    return tensor
  }

  zeros(shape: readonly number[], dtype: DType): Tensor {
    const tensor = this.#runner.alloc(shape, dtype)
    this.#runner.clear(tensor)
    return tensor
  }

  write(tensor: Tensor, data: HostArray, offset = 0): void {
    this.#assertUsable()
    const target = this.#runner.own('write', tensor)
    if (offset < 0 || offset + data.length > target.numElements) {
      throw wgpuErrors.BAD_SHAPE(
        'write',
        `${data.length} values from ${offset} on do not fit ${describeTensor(target)}.`,
      )
    }
    this.#writeBits(target, hostBits(data, target.dtype), offset * bytesPerElement[target.dtype])
  }

  async fill(
    tensor: Tensor,
    offsetBytes: number,
    sizeBytes: number,
    read: (bytes: Uint8Array) => Promise<void>,
  ): Promise<void> {
    this.#assertUsable()
    const target = this.#runner.own('fill', tensor)
    const end = offsetBytes + sizeBytes
    const isWhole = offsetBytes % 4 === 0 && (sizeBytes % 4 === 0 || end === target.sizeBytes)
    if (!isWhole || offsetBytes < 0 || sizeBytes < 1 || end > target.sizeBytes) {
      throw wgpuErrors.BAD_SHAPE(
        'fill',
        `bytes ${offsetBytes} to ${end} are no part of ${describeTensor(target)} in whole words.`,
      )
    }
    await this.#staging.fill(target.handle.pooled, offsetBytes, sizeBytes, read)
  }

  async read(tensor: Tensor): Promise<Float32Array | Int32Array | Uint32Array> {
    this.#assertUsable()
    const source = this.#runner.own('read', tensor)
    const { dtype, sizeBytes } = source
    const { pooled } = source.handle
    const bytes = new Uint8Array(Math.ceil(sizeBytes / 4) * 4)
    // All copies are recorded before the first wait, so the caller may free the tensor right after the call.
    const parts: { staging: GPUBuffer; at: number }[] = []
    for (let at = 0; at < bytes.length; at += READ_CHUNK) {
      const size = Math.min(READ_CHUNK, bytes.length - at)
      const staging = this.gpuDevice.createBuffer({
        label: 'read',
        size,
        usage: BufferUsage.MAP_READ | BufferUsage.COPY_DST,
      })
      this.#queue.copy(pooled, at, staging, 0, size)
      parts.push({ staging, at })
    }
    this.#queue.flush()
    try {
      for (const { staging, at } of parts) {
        try {
          await this.#wait(staging.mapAsync(MapMode.READ))
        } catch (cause) {
          // What really happened is in a scope's answer or in `lost`; a failed map is only its consequence.
          await this.#settle()
          throw wgpuErrors.VALIDATION(`reading ${describeTensor(source)}`, String(cause), { cause })
        }
        bytes.set(new Uint8Array(staging.getMappedRange()), at)
      }
    } finally {
      for (const { staging } of parts) staging.destroy()
    }
    await this.#settle()
    const { buffer } = bytes
    switch (dtype) {
      case 'f32':
        return new Float32Array(buffer, 0, sizeBytes / 4)
      case 'i32':
        return new Int32Array(buffer, 0, sizeBytes / 4)
      case 'u32':
        return new Uint32Array(buffer, 0, sizeBytes / 4)
      case 'f16':
        return f32FromF16(new Uint16Array(buffer, 0, sizeBytes / 2))
      case 'bf16':
        return f32FromBf16(new Uint16Array(buffer, 0, sizeBytes / 2))
    }
  }

  async sync(): Promise<void> {
    this.#assertUsable()
    this.#queue.flush()
    await this.#wait(this.gpuDevice.queue.onSubmittedWorkDone())
    await this.#settle()
  }

  retain<T extends Tensor>(tensor: T): T {
    this.#lifetimes.retain(this.#runner.own('retain', tensor))
    return tensor
  }

  release(tensor: Tensor): void {
    this.#lifetimes.release(this.#runner.own('release', tensor))
  }

  scope<T>(fn: () => T): T {
    return this.#lifetimes.scope(fn)
  }

  async park(tensor: Tensor, options?: ParkOptions): Promise<ParkedTensor> {
    this.#assertUsable()
    const parked = await this.#parked.park(this.#runner.own('park', tensor), options)
    await this.#settle()
    return parked
  }

  unpark(parked: ParkedTensor, into: Tensor): void {
    this.#assertUsable()
    this.#parked.unpark(parked, this.#runner.own('unpark', into))
  }

  discard(parked: ParkedTensor): void {
    this.#assertUsable()
    this.#parked.discard(parked)
  }

  memory(): MemoryUse {
    const { liveBytes, peakBytes, pooledBytes } = this.#pool
    return { liveBytes, peakBytes, pooledBytes, parkedBytes: this.#parked.sizeBytes }
  }

  resetPeak(): void {
    this.#pool.resetPeak()
  }

  setMemoryBudget(bytes: number): void {
    this.#pool.budget = bytes
  }

  async makeRoom(bytes: number): Promise<void> {
    this.#assertUsable()
    const { budget, liveBytes, pooledBytes } = this.#pool
    if (pooledBytes === 0) return
    if (budget !== undefined && liveBytes + pooledBytes + bytes <= budget) return
    this.trim()
    await this.sync()
  }

  /** Gives unused buffers back to the driver, on the device and in host memory. */
  trim(): void {
    this.#assertUsable()
    this.#pool.trim()
    this.#parked.trim()
    this.#staging.trim()
  }

  /** Times of the dispatches since the last call, when the device was made with `profile`. Waits. */
  async takeProfile(): Promise<KernelTime[]> {
    return this.#queue.takeProfile()
  }

  destroy(): void {
    if (this.#destroyed) return
    this.#destroyed = true
    this.#pool.destroy()
    this.#runner.destroy()
    this.#queue.destroy()
    this.gpuDevice.destroy()
    this.#options.onDestroy?.()
  }

  [Symbol.dispose](): void {
    this.destroy()
  }

  #assertUsable(): void {
    if (this.#destroyed) throw wgpuErrors.DESTROYED()
    if (this.#lost) throw this.#lost
  }

  #wait<T>(promise: Promise<T>): Promise<T> {
    return this.#options.waiting ? this.#options.waiting(promise) : promise
  }

  /** Remembers what a check finds; the next wait throws it. */
  #watch(check: Promise<Error | undefined>): void {
    const settled: Promise<void> = check
      .then(
        (error) => {
          if (error) this.#errors.push(error)
        },
        // A scope that rejects does so because the device is gone, which `lost` reports.
        () => undefined,
      )
      .finally(() => this.#checks.delete(settled))
    this.#checks.add(settled)
  }

  /** Waits for the checks so far and throws the first cause among what they found. */
  async #settle(): Promise<void> {
    await this.#wait(Promise.all(this.#checks))
    const errors = this.#errors.splice(0)
    if (this.#lost) throw this.#lost
    // Running out of memory makes everything after it invalid, so it is the cause wherever it appears.
    const cause =
      errors.find((error) => (error as { code?: string }).code === 'WGPU_OUT_OF_MEMORY') ??
      errors.find((error) => (error as { code?: string }).code === 'WGPU_BAD_KERNEL') ??
      errors[0]
    if (cause) throw cause
  }

  #writeBits(target: WgpuTensor, bits: Uint8Array, offsetBytes: number): void {
    const { pooled } = target.handle
    const end = offsetBytes + bits.byteLength
    const fillsTail = end === target.sizeBytes
    if (offsetBytes % 4 === 0 && (bits.byteLength % 4 === 0 || fillsTail)) {
      const whole = Math.floor(bits.byteLength / 4) * 4
      if (whole > 0) this.#queue.write(pooled, offsetBytes, bits.subarray(0, whole))
      if (whole < bits.byteLength) {
        const tail = new Uint8Array(4)
        tail.set(bits.subarray(whole))
        this.#queue.write(pooled, offsetBytes + whole, tail)
      }
      return
    }
    // A 16-bit dtype at an odd element: WebGPU writes whole words only, so a kernel merges the halves.
    this.scope(() => {
      const count = bits.byteLength / 2
      const source = this.#runner.alloc([count], target.dtype)
      this.#writeBits(source, bits, 0)
      spliceHalfWords(this.#runner, target, source, offsetBytes / 2, count)
    })
  }
}

function submitError(notes: readonly DispatchNote[], error: GPUError | null): Error | undefined {
  if (!error) return undefined
  const shown = notes.slice(-4).map(describeDispatch).join('; ')
  const where =
    notes.length === 1
      ? shown
      : notes.length === 0
        ? 'a copy'
        : `a batch of ${notes.length} dispatches ending in ${shown}`
  return wgpuErrors.VALIDATION(where, error.message)
}

/** The bytes of a host array for a dtype. Throws if the array's type does not carry it. */
function hostBits(data: HostArray, dtype: DType): Uint8Array {
  const fits =
    dtype === 'f32'
      ? data instanceof Float32Array || data instanceof Float64Array
      : dtype === 'i32'
        ? data instanceof Int32Array
        : dtype === 'u32'
          ? data instanceof Uint32Array
          : data instanceof Uint16Array
  if (!fits) {
    throw wgpuErrors.BAD_DTYPE(
      'upload',
      `a ${data.constructor.name} does not carry ${dtype}; see HostArray.`,
    )
  }
  const array = data instanceof Float64Array ? Float32Array.from(data) : data
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
}

/**
 * kernel-api on any `GPUDevice`, in Node or a browser. Pass the adapter's `info`, by which tile sizes are chosen. The device
 * is destroyed with the result's `destroy`.
 */
export function createDevice(
  gpuDevice: GPUDevice,
  adapterInfo: AdapterDescription,
  options?: CreateDeviceOptions,
): WgpuDevice {
  return new WgpuDevice(gpuDevice, adapterInfo, options)
}
