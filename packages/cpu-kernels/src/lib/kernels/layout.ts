import type { StorageArray } from '../memory.ts'

/** Copies x so that its axis axes[i] becomes axis i. */
export function permute(
  x: StorageArray,
  y: StorageArray,
  shape: readonly number[],
  axes: readonly number[],
): void {
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((p, n) => p * n, 1))
  const extents = axes.map((axis) => shape[axis]!)
  const steps = axes.map((axis) => strides[axis]!)
  const last = extents.length - 1
  const index = extents.map(() => 0)
  let from = 0
  for (let to = 0; to < y.length; to++) {
    y[to] = x[from]!
    for (let axis = last; axis >= 0; axis--) {
      index[axis]!++
      from += steps[axis]!
      if (index[axis]! < extents[axis]!) break
      from -= steps[axis]! * extents[axis]!
      index[axis] = 0
    }
  }
}

/** Copies `count` rows of `length` elements, each source and target row a stride from the one before. */
export function copyRows(
  source: StorageArray,
  sourceOffset: number,
  sourceStride: number,
  target: StorageArray,
  targetOffset: number,
  targetStride: number,
  count: number,
  length: number,
): void {
  for (let row = 0; row < count; row++) {
    const from = sourceOffset + row * sourceStride
    target.set(source.subarray(from, from + length), targetOffset + row * targetStride)
  }
}
