/** WGSL type of `width` f32 values: kernels compute in it whatever the storage. */
export function floatVector(width: 1 | 2 | 4): string {
  return width === 1 ? 'f32' : `vec${width}<f32>`
}

/** Sum of the components of an expression of `floatVector(width)`. */
export function sumOf(width: 1 | 2 | 4, value: string): string {
  return width === 1 ? value : `dot(${value}, ${floatVector(width)}(1.0))`
}

/** 4 if every extent is a multiple of 4, else 1: how wide rows of these lengths can be read. */
export function widthOf(...extents: readonly number[]): 1 | 4 {
  return extents.every((extent) => extent % 4 === 0) ? 4 : 1
}
