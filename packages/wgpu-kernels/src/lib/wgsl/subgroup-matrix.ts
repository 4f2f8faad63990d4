// All subgroup-matrix syntax of this package: the WGSL proposal still moves, and the final names will differ. Fragments are
// 16×16×16, f16 operands and f32 sums. Operands come from arrays of vec4<u32>, eight f16 each: a load then compiles to
// 128-bit accesses, which a `bufferView` does not. Offsets and strides count those vectors.

/** Lines a shader with matrices starts with. Offsets differ between subgroups, which the analysis cannot follow. */
export const subgroupMatrixDirectives = /* wgsl */ `enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
diagnostic(off, subgroup_uniformity);`

const types = {
  left: 'subgroup_matrix_left<f16, 16, 16>',
  right: 'subgroup_matrix_right<f16, 16, 16>',
  sum: 'subgroup_matrix_result<f32, 16, 16>',
} as const

export type MatrixRole = keyof typeof types
export type MatrixOrder = 'row_major' | 'col_major'

/** A variable's type. */
export function matrixType(role: MatrixRole): string {
  return types[role]
}

/** A sum of zeros. */
export const zeroMatrix = `${types.sum}()`

/** A fragment from an array of vec4<u32>. */
export function loadMatrix(
  role: MatrixRole,
  order: MatrixOrder,
  array: string,
  offset: string,
  stride: string | number,
): string {
  return `subgroupMatrixLoad<${types[role]}, ${order}>(&${array}, ${offset}, ${stride}${typeof stride === 'number' ? 'u' : ''})`
}

/** Statement that stores sums as f32, four a vector. */
export function storeMatrix(
  order: MatrixOrder,
  array: string,
  offset: string,
  value: string,
  stride: number,
): string {
  return `subgroupMatrixStore<${order}>(&${array}, ${offset}, ${value}, ${stride}u);`
}

/** Statement sum += left · right. */
export function multiplyAccumulate(left: string, right: string, sum: string): string {
  return `${sum} = subgroupMatrixMultiplyAccumulate(${left}, ${right}, ${sum});`
}

/** Eight f32 as one vector of f16. */
export function packHalves(low: string, high: string): string {
  return `vec4<u32>(pack2x16float(${low}.xy), pack2x16float(${low}.zw), pack2x16float(${high}.xy), pack2x16float(${high}.zw))`
}

/** `f(0)` to `f(count - 1)`, one a line. */
export function lines(count: number, f: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => f(index)).join('\n')
}
