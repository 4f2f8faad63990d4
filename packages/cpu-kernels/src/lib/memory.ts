import {
  bf16FromF32,
  f16FromF32,
  f32FromBf16,
  f32FromF16,
  numElements,
  type DType,
  type MemoryUse,
  type ParkedTensor,
  type Tensor,
} from '@kinora/kernel-api'
import { cpuKernelsErrors } from './errors.ts'

// Who owns what. A tensor has a number of owners: one for the scope it belongs to (the root scope, when none is open), one for
// each `retain`. At none it is freed. Tensors that `reshape` made share a storage, which goes back to the pool when the last
// of them is freed. Using a freed tensor throws: this device is the strict one, where lifetime bugs are found.

/** Float tensors of any dtype hold plain numbers: f16 and bf16 are already rounded. */
export type FloatArray = Float32Array | Float64Array
export type StorageArray = FloatArray | Int32Array | Uint32Array

/** Bytes kept for reuse: enough for the activations of a block, small enough not to matter. */
const maxPooledBytes = 256 * 2 ** 20

interface Storage {
  readonly array: StorageArray
  /** Live tensors over this storage. */
  tensors: number
}

interface ParkedCopy {
  readonly array: StorageArray
  /** Whose it is; nobody's when it was discarded. */
  memory: Memory | undefined
}

class CpuTensor implements Tensor {
  readonly shape: readonly number[]
  readonly dtype: DType
  readonly handle: Storage
  readonly memory: Memory
  owners = 1

  constructor(memory: Memory, shape: readonly number[], dtype: DType, handle: Storage) {
    this.memory = memory
    this.shape = shape
    this.dtype = dtype
    this.handle = handle
  }
}

/** A tensor's shape and dtype, for messages. */
export function describe(tensor: Tensor): string {
  return `[${tensor.shape.join(', ')}] ${tensor.dtype}`
}

/** All tensors of one device: allocation, scopes, owners. */
export class Memory {
  readonly #float: typeof Float32Array | typeof Float64Array
  readonly #scopes: Set<CpuTensor>[] = [new Set()]
  readonly #pool = new Map<string, StorageArray[]>()
  #liveBytes = 0
  #peakBytes = 0
  #pooledBytes = 0
  #parkedBytes = 0
  #destroyed = false

  constructor(precision: 'f32' | 'f64') {
    this.#float = precision === 'f64' ? Float64Array : Float32Array
  }

  /** A tensor whose elements are not set; the caller sets all of them. */
  allocate(op: string, shape: readonly number[], dtype: DType): Tensor {
    this.#checkAlive(op)
    if (!shape.every((extent) => Number.isSafeInteger(extent) && extent >= 0)) {
      throw cpuKernelsErrors.BAD_ARGUMENT(op, `a result cannot have shape [${shape.join(', ')}]`)
    }
    const array = this.#takeArray(shape, dtype)
    this.#liveBytes += array.byteLength
    this.#peakBytes = Math.max(this.#peakBytes, this.#liveBytes)
    return this.#adopt(new CpuTensor(this, [...shape], dtype, { array, tensors: 1 }))
  }

  /** Another tensor over the same storage. */
  share(op: string, tensor: Tensor, shape: readonly number[]): Tensor {
    const { handle, dtype } = this.#own(op, tensor)
    handle.tensors++
    return this.#adopt(new CpuTensor(this, [...shape], dtype, handle))
  }

  /** The numbers of a live tensor of this device. */
  array(op: string, tensor: Tensor): StorageArray {
    return this.#own(op, tensor).handle.array
  }

  /** As `array`, for an f32, f16 or bf16 tensor. */
  floats(op: string, tensor: Tensor): FloatArray {
    const array = this.array(op, tensor)
    if (array instanceof Int32Array || array instanceof Uint32Array) {
      throw cpuKernelsErrors.BAD_ARGUMENT(op, `${describe(tensor)} is not a float tensor`)
    }
    return array
  }

  /** Rounds what an op has written to the tensor's dtype. */
  finish(tensor: Tensor): Tensor {
    const { array } = tensor.handle as Storage
    if (tensor.dtype === 'f16') (array as FloatArray).set(f32FromF16(f16FromF32(array)))
    if (tensor.dtype === 'bf16') (array as FloatArray).set(f32FromBf16(bf16FromF32(array)))
    return tensor
  }

  retain(tensor: Tensor): void {
    this.#own('retain', tensor).owners++
  }

  release(tensor: Tensor): void {
    this.#dropOwner(this.#own('release', tensor))
  }

  /** A copy of a tensor's numbers that no scope owns. */
  park(tensor: Tensor): ParkedTensor {
    const { shape, dtype, handle } = this.#own('park', tensor)
    const parked: ParkedCopy = { array: handle.array.slice(), memory: this }
    this.#parkedBytes += parked.array.byteLength
    return { shape, dtype, handle: parked }
  }

  unpark(parked: ParkedTensor, into: Tensor): void {
    const array = this.#ownCopy('unpark', parked)
    const target = this.#own('unpark', into)
    if (describe(into) !== `[${parked.shape.join(', ')}] ${parked.dtype}`) {
      throw cpuKernelsErrors.BAD_ARGUMENT(
        'unpark',
        `a parked [${parked.shape.join(', ')}] ${parked.dtype} does not fit ${describe(into)}`,
      )
    }
    target.handle.array.set(array as Float32Array)
  }

  discard(parked: ParkedTensor): void {
    this.#parkedBytes -= this.#ownCopy('discard', parked).byteLength
    ;(parked.handle as ParkedCopy).memory = undefined
  }

  scope<T>(fn: () => T): T {
    this.#checkAlive('scope')
    const own = new Set<CpuTensor>()
    this.#scopes.push(own)
    let kept = new Set<CpuTensor>()
    try {
      const result = fn()
      if (result instanceof Promise) {
        // It will fail on the tensors that are freed here; what it says is not the cause.
        result.catch(() => {})
        throw cpuKernelsErrors.ASYNC_SCOPE()
      }
      kept = new Set(tensorsIn(result))
      return result
    } finally {
      this.#scopes.pop()
      const outer = this.#scopes.at(-1)
      for (const tensor of own) {
        if (kept.has(tensor)) outer?.add(tensor)
        else this.#dropOwner(tensor)
      }
    }
  }

  use(): MemoryUse {
    return {
      liveBytes: this.#liveBytes,
      peakBytes: this.#peakBytes,
      pooledBytes: this.#pooledBytes,
      parkedBytes: this.#parkedBytes,
    }
  }

  resetPeak(): void {
    this.#peakBytes = this.#liveBytes
  }

  dropIdle(): void {
    this.#pool.clear()
    this.#pooledBytes = 0
  }

  destroy(): void {
    this.#destroyed = true
    this.#pool.clear()
    this.#liveBytes = 0
    this.#pooledBytes = 0
    this.#parkedBytes = 0
  }

  #checkAlive(op: string): void {
    if (this.#destroyed) throw cpuKernelsErrors.DESTROYED(op)
  }

  #own(op: string, tensor: Tensor): CpuTensor {
    this.#checkAlive(op)
    if (!(tensor instanceof CpuTensor) || tensor.memory !== this) {
      throw cpuKernelsErrors.FOREIGN_TENSOR(op)
    }
    if (tensor.owners === 0) throw cpuKernelsErrors.FREED_TENSOR(op, describe(tensor))
    return tensor
  }

  #ownCopy(op: string, { handle, shape, dtype }: ParkedTensor): StorageArray {
    this.#checkAlive(op)
    const { array, memory } = handle as ParkedCopy
    if (memory === undefined) {
      throw cpuKernelsErrors.FREED_TENSOR(op, `[${shape.join(', ')}] ${dtype}, parked`)
    }
    if (memory !== this) throw cpuKernelsErrors.FOREIGN_TENSOR(op)
    return array
  }

  #adopt(tensor: CpuTensor): Tensor {
    this.#scopes.at(-1)!.add(tensor)
    return tensor
  }

  #dropOwner(tensor: CpuTensor): void {
    if (tensor.owners === 0) return
    tensor.owners--
    if (tensor.owners > 0) return
    this.#scopes[0]!.delete(tensor)
    const storage = tensor.handle
    storage.tensors--
    if (storage.tensors > 0) return
    this.#liveBytes -= storage.array.byteLength
    if (this.#pooledBytes + storage.array.byteLength > maxPooledBytes) return
    this.#pooledBytes += storage.array.byteLength
    const key = `${storage.array.constructor.name} ${storage.array.length}`
    const free = this.#pool.get(key)
    if (free) free.push(storage.array)
    else this.#pool.set(key, [storage.array])
  }

  #takeArray(shape: readonly number[], dtype: DType): StorageArray {
    const count = numElements(shape)
    const type = dtype === 'i32' ? Int32Array : dtype === 'u32' ? Uint32Array : this.#float
    const pooled = this.#pool.get(`${type.name} ${count}`)?.pop()
    if (pooled) {
      this.#pooledBytes -= pooled.byteLength
      return pooled
    }
    try {
      return new type(count)
    } catch (cause) {
      throw cpuKernelsErrors.OUT_OF_MEMORY(
        count * type.BYTES_PER_ELEMENT,
        `[${shape.join(', ')}] ${dtype}`,
        this.#liveBytes,
        { cause },
      )
    }
  }
}

/** The tensors in a scope's result: itself, or in arrays, maps, sets and plain objects, at any depth. */
function* tensorsIn(value: unknown): Generator<CpuTensor> {
  if (value instanceof CpuTensor) yield value
  else if (Array.isArray(value) || value instanceof Set) {
    for (const item of value) yield* tensorsIn(item)
  } else if (value instanceof Map) {
    for (const [key, item] of value) {
      yield* tensorsIn(key)
      yield* tensorsIn(item)
    }
  } else if (isPlainObject(value)) {
    for (const item of Object.values(value)) yield* tensorsIn(item)
  }
}

function isPlainObject(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}
