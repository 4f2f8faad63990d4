import { cpus } from 'node:os'
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
  type OpenDeviceOptions,
  type ParkedTensor,
  type Tensor,
} from '@kinora/kernel-api'
import { CpuOps } from './cpu-ops.ts'
import { cpuKernelsErrors } from './errors.ts'
import { describe, Memory } from './memory.ts'

/** What `openDevice` takes. */
export interface CpuDeviceOptions extends OpenDeviceOptions {
  /**
   * How f32 tensors are held: `f32` (default), or as `f64`, never rounded, for finite differences and references. Those of
   * f16 and bf16 hold numbers of their dtype either way.
   */
  precision?: 'f32' | 'f64' | undefined
}

/** A device on the processor. */
export interface CpuDevice extends Device {
  /** A float tensor with all its digits, which `read` rounds to f32. */
  readF64(tensor: Tensor): Float64Array
}

/**
 * Opens kernel-api on the processor, one thread. Ops run at once, so `sync` has nothing to wait for. Lifetimes are checked:
 * a tensor used after its scope ended or it was released is an error.
 */
export function openDevice(options: CpuDeviceOptions = {}): Promise<CpuDevice> {
  return Promise.resolve(new Cpu(options.precision ?? 'f32'))
}

class Cpu implements CpuDevice {
  readonly info: DeviceInfo
  readonly ops: CpuOps
  readonly #memory: Memory

  constructor(precision: 'f32' | 'f64') {
    this.#memory = new Memory(precision)
    this.ops = new CpuOps(this.#memory)
    this.info = {
      backend: '@kinora/cpu-kernels',
      adapter: cpus()[0]?.model.trim() || 'processor',
      driver: `Node ${process.versions.node}, V8 ${process.versions.v8}, ${precision}`,
      software: true,
      computeDTypes: ['f32'],
      reason: 'Plain TypeScript on one thread of the processor, which needs no adapter.',
    }
  }

  upload(data: HostArray, shape: readonly number[], dtype: DType): Tensor {
    const tensor = this.#memory.allocate('upload', shape, dtype)
    if (data.length !== numElements(shape)) {
      throw cpuKernelsErrors.BAD_ARGUMENT(
        'upload',
        `${data.length} elements were given for ${describe(tensor)}`,
      )
    }
    this.write(tensor, data)
    return tensor
  }

  zeros(shape: readonly number[], dtype: DType): Tensor {
    const tensor = this.#memory.allocate('zeros', shape, dtype)
    this.#memory.array('zeros', tensor).fill(0)
    return tensor
  }

  async fill(
    tensor: Tensor,
    offsetBytes: number,
    sizeBytes: number,
    read: (bytes: Uint8Array) => Promise<void>,
  ): Promise<void> {
    const element = bytesPerElement[tensor.dtype]
    if (offsetBytes % element !== 0 || sizeBytes % element !== 0) {
      throw cpuKernelsErrors.BAD_ARGUMENT(
        'fill',
        `bytes ${offsetBytes} to ${offsetBytes + sizeBytes} cut an element of ${describe(tensor)}`,
      )
    }
    const bytes = new Uint8Array(sizeBytes)
    await read(bytes)
    this.write(tensor, new hostTypes[tensor.dtype][0](bytes.buffer), offsetBytes / element)
  }

  write(tensor: Tensor, data: HostArray, offset = 0): void {
    const array = this.#memory.array('write', tensor)
    if (!hostTypes[tensor.dtype].some((type) => data instanceof type)) {
      throw cpuKernelsErrors.BAD_ARGUMENT(
        'write',
        `${describe(tensor)} was given a ${data.constructor.name}`,
      )
    }
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + data.length > array.length) {
      throw cpuKernelsErrors.BAD_ARGUMENT(
        'write',
        `elements ${offset} to ${offset + data.length} are outside ${describe(tensor)}`,
      )
    }
    array.set(decode(data, tensor.dtype), offset)
  }

  read(tensor: Tensor): Promise<Float32Array | Int32Array | Uint32Array> {
    try {
      const array = this.#memory.array('read', tensor)
      return Promise.resolve(
        array instanceof Float64Array ? Float32Array.from(array) : array.slice(),
      )
    } catch (error) {
      return Promise.reject(error as Error)
    }
  }

  readF64(tensor: Tensor): Float64Array {
    return Float64Array.from(this.#memory.floats('readF64', tensor))
  }

  sync(): Promise<void> {
    return Promise.resolve()
  }

  retain<T extends Tensor>(tensor: T): T {
    this.#memory.retain(tensor)
    return tensor
  }

  release(tensor: Tensor): void {
    this.#memory.release(tensor)
  }

  scope<T>(fn: () => T): T {
    return this.#memory.scope(fn)
  }

  park(tensor: Tensor): Promise<ParkedTensor> {
    try {
      return Promise.resolve(this.#memory.park(tensor))
    } catch (error) {
      return Promise.reject(error as Error)
    }
  }

  unpark(parked: ParkedTensor, into: Tensor): void {
    this.#memory.unpark(parked, into)
  }

  discard(parked: ParkedTensor): void {
    this.#memory.discard(parked)
  }

  memory(): MemoryUse {
    return this.#memory.use()
  }

  resetPeak(): void {
    this.#memory.resetPeak()
  }

  /** What lies idle here is never much, whatever the budget. */
  setMemoryBudget(): void {}

  makeRoom(): Promise<void> {
    this.#memory.dropIdle()
    return Promise.resolve()
  }

  destroy(): void {
    this.#memory.destroy()
  }
}

const hostTypes = {
  f32: [Float32Array, Float64Array],
  f16: [Uint16Array],
  bf16: [Uint16Array],
  i32: [Int32Array],
  u32: [Uint32Array],
} as const satisfies Record<DType, unknown>

function decode(data: HostArray, dtype: DType): HostArray {
  if (dtype === 'f16') return f32FromF16(data as Uint16Array)
  if (dtype === 'bf16') return f32FromBf16(data as Uint16Array)
  return data
}
