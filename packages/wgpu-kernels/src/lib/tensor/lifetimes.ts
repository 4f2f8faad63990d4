import { wgpuErrors } from '../errors.ts'
import { WgpuTensor } from './wgpu-tensor.ts'

/** Finds the tensors in a scope's result: arrays, plain objects, maps and sets, however nested. */
function* tensorsIn(value: unknown, seen: Set<object>): Generator<WgpuTensor> {
  if (typeof value !== 'object' || value === null || seen.has(value)) return
  seen.add(value)
  if (value instanceof WgpuTensor) {
    yield value
  } else if (Array.isArray(value) || value instanceof Set) {
    for (const item of value) yield* tensorsIn(item, seen)
  } else if (value instanceof Map) {
    for (const [key, item] of value) {
      yield* tensorsIn(key, seen)
      yield* tensorsIn(item, seen)
    }
  } else {
    const prototype: unknown = Object.getPrototypeOf(value)
    if (prototype === Object.prototype || prototype === null) {
      for (const item of Object.values(value)) yield* tensorsIn(item, seen)
    }
  }
}

/**
 * Who owns which tensor: the innermost open scope owns what is made in it, until its end; `retain` adds owners. With no
 * scope open the caller owns it.
 */
export class Lifetimes {
  readonly #free: (tensor: WgpuTensor) => void
  readonly #scopes: Set<WgpuTensor>[] = []

  /** @param free called once for a tensor that lost its last owner */
  constructor(free: (tensor: WgpuTensor) => void) {
    this.#free = free
  }

  /** Puts a new tensor into the innermost scope. */
  adopt(tensor: WgpuTensor): void {
    this.#scopes.at(-1)?.add(tensor)
  }

  retain(tensor: WgpuTensor): void {
    tensor.owners++
  }

  release(tensor: WgpuTensor): void {
    if (--tensor.owners === 0) this.#free(tensor)
  }

  scope<T>(fn: () => T): T {
    const made = new Set<WgpuTensor>()
    this.#scopes.push(made)
    const depth = this.#scopes.length
    let kept: ReadonlySet<WgpuTensor> = new Set()
    try {
      const result = fn()
      if (result instanceof Promise) throw wgpuErrors.ASYNC_SCOPE()
      kept = new Set(tensorsIn(result, new Set()))
      return result
    } finally {
      this.#scopes.length = depth - 1
      const outer = this.#scopes.at(-1)
      for (const tensor of made) {
        if (tensor.owners <= 0) continue
        if (kept.has(tensor)) outer?.add(tensor)
        else this.release(tensor)
      }
    }
  }
}
