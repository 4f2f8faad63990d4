import type { Device } from '../device.ts'
import { bf16FromF32, f16FromF32, f32FromBf16, f32FromF16 } from '../half-floats.ts'
import type { Ops } from '../ops.ts'
import { normals, uniforms } from '../random.ts'
import { numElements, type DType, type Tensor } from '../tensor.ts'
import { refArray, type RefArray } from './reference.ts'

/** Dtypes a device may compute in. */
export type ComputeDType = 'f32' | 'f16'

/**
 * The largest error allowed, and why it is not smaller. An error is relative: the norm of (got − want) over the norm of want.
 * Besides, no single element may be off by more than eight times that, measured against the largest element wanted, so that
 * one wrong element does not hide among many right ones.
 */
export interface Bound {
  readonly max: number
  readonly why: string
}

/** One row of the suite: its name is its parameters. */
export interface ConformanceCase {
  readonly op: string
  readonly name: string
  readonly bound: Bound
  /** Runs on the device and compares. */
  run(device: Device): Promise<void>
}

/** Bounds of most ops. f16 results are rounded once, at most 2^-11 = 4.9e-4 of each element, 2.8e-4 in the norm. */
export const bounds = {
  exact: { max: 0, why: 'Elements are moved, not computed.' },
  f32: {
    max: 1e-6,
    why: 'A handful of f32 operations of at most 2^-24 = 6e-8 each, and sums whose rounding grows with √terms.',
  },
  f32Transcendental: {
    max: 2e-5,
    why: 'WGSL allows exp an error of 3 + 2|x| units in the last place, and tanh what follows from it: up to 40 · 6e-8, times what the formula makes of it.',
  },
  f16: {
    max: 5e-4,
    why: 'One rounding of the result to f16, 2.8e-4 in the norm, on inputs that are f16 already; sums run in f32.',
  },
} as const satisfies Record<string, Bound>

/** Formats parameters as the name of a row. */
export function rowName(parameters: object): string {
  return Object.entries(parameters)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key} ${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(', ')
}

/** Numbers as a dtype holds them. */
export function rounded(values: ArrayLike<number>, dtype: DType): Float64Array {
  if (dtype === 'f16') return Float64Array.from(f32FromF16(f16FromF32(values)))
  if (dtype === 'bf16') return Float64Array.from(f32FromBf16(bf16FromF32(values)))
  return Float64Array.from(Float32Array.from(values))
}

/** Draws the inputs of one row: its numbers depend on the row's name alone, so a failing row can be run by itself. */
export class Inputs {
  readonly #seed: number
  #stream = 0

  constructor(name: string) {
    let hash = 0x811c9dc5
    for (let i = 0; i < name.length; i++) {
      hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193) >>> 0
    }
    this.#seed = hash
  }

  /** Normal numbers, rounded to the dtype they will be uploaded as. */
  normal(shape: readonly number[], dtype: DType = 'f32', scale = 1, offset = 0): RefArray {
    const values = normals(this.#seed, this.#stream++, numElements(shape))
    return refArray(
      shape,
      rounded(
        values.map((value) => value * scale + offset),
        dtype,
      ),
    )
  }

  /** Integers from 0 to `end`, exclusive. */
  integers(count: number, end: number): number[] {
    return Array.from(uniforms(this.#seed, this.#stream++, count), (u) => Math.floor(u * end))
  }
}

/** Copies a reference array to a device in some dtype. */
export function upload(device: Device, array: RefArray, dtype: DType = 'f32'): Tensor {
  const { data, shape } = array
  if (dtype === 'f16') return device.upload(f16FromF32(data), shape, dtype)
  if (dtype === 'bf16') return device.upload(bf16FromF32(data), shape, dtype)
  if (dtype === 'i32') return device.upload(Int32Array.from(data), shape, dtype)
  if (dtype === 'u32') return device.upload(Uint32Array.from(data), shape, dtype)
  return device.upload(Float32Array.from(data), shape, dtype)
}

/** A result to compare: what an op should give, in which dtype. */
export interface Expected {
  name: string
  want: RefArray
  dtype: DType
  bound: Bound
}

/**
 * Runs ops in a scope, reads what they return, frees it, and compares.
 *
 * @param fn uploads and runs; returns tensors in the order of `expected`
 */
export async function runAndCompare(
  device: Device,
  expected: readonly Expected[],
  fn: (ops: Ops, put: (array: RefArray, dtype?: DType) => Tensor) => Tensor[],
): Promise<void> {
  const results = device.scope(() => fn(device.ops, (array, dtype) => upload(device, array, dtype)))
  try {
    if (results.length !== expected.length)
      throw new Error('The row returns other results than it compares.')
    for (const [i, { name, want, dtype, bound }] of expected.entries()) {
      const tensor = results[i]!
      const shape = tensor.shape.join(', ')
      if (shape !== want.shape.join(', ')) {
        throw new Error(`${name} has shape [${shape}], but should have [${want.shape.join(', ')}].`)
      }
      if (tensor.dtype !== dtype) {
        throw new Error(`${name} is ${tensor.dtype}, but should be ${dtype}.`)
      }
      compare(name, await device.read(tensor), want, bound)
    }
  } finally {
    for (const tensor of results) device.release(tensor)
  }
}

/** Throws unless `got` is within the bound. NaN and infinities must be where they are wanted. */
export function compare(name: string, got: ArrayLike<number>, want: RefArray, bound: Bound): void {
  const { data } = want
  if (got.length !== data.length) {
    throw new Error(`${name} has ${got.length} elements, but should have ${data.length}.`)
  }
  let difference = 0
  let size = 0
  let worst = 0
  let worstAt = 0
  let largest = 0
  for (let i = 0; i < data.length; i++) {
    const [a, b] = [got[i]!, data[i]!]
    if (Number.isFinite(a) && Number.isFinite(b)) {
      const error = Math.abs(a - b)
      difference += error ** 2
      size += b ** 2
      largest = Math.max(largest, Math.abs(b))
      if (error > worst) [worst, worstAt] = [error, i]
    } else if (!Object.is(a, b)) {
      throw new Error(`${name}[${i}] is ${a}, but should be ${b}.`)
    }
  }
  // Where nothing but zeros is wanted, errors are measured against one.
  const relative = Math.sqrt(difference / (size || 1))
  const element = worst / (largest || 1)
  if (relative > bound.max || element > 8 * bound.max) {
    throw new Error(
      `${name} has relative error ${relative.toExponential(2)} (allowed ${bound.max}); worst is element ${worstAt}: ` +
        `${got[worstAt]} instead of ${data[worstAt]}, ${element.toExponential(2)} of the largest (allowed ${8 * bound.max}). ` +
        `The bound's reason: ${bound.why}`,
    )
  }
}
