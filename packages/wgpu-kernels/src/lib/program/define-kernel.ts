/** Scalar element types of a binding. f16 needs the feature; the text enables it where one appears. */
export type Scalar = 'f32' | 'f16' | 'u32' | 'i32'

/** How a kernel sees a buffer. */
export interface BindingDecl {
  readonly access: 'read' | 'write'
  readonly scalar: Scalar
  /** Elements an index covers: 1, 2 or 4. */
  readonly width: 1 | 2 | 4
}

/** A buffer the kernel only reads. Such loads may be cached and moved, so inputs are never declared otherwise. */
export function reads(scalar: Scalar, width: 1 | 2 | 4 = 1): BindingDecl {
  return { access: 'read', scalar, width }
}

/** A buffer the kernel writes, and may read. */
export function writes(scalar: Scalar, width: 1 | 2 | 4 = 1): BindingDecl {
  return { access: 'write', scalar, width }
}

/** A value of a uniform: changes from dispatch to dispatch and is never part of the pipeline. */
export type UniformType = 'u32' | 'i32' | 'f32'

/** WGSL of one variant, without the declarations the framework writes. */
export interface KernelText {
  /** Functions, constants and workgroup variables. */
  readonly declarations?: string
  /**
   * Statements of the entry point. In scope: `group` (linear index of the workgroup, however the grid was folded; may pass
   * the last one by less than a row of the grid), `local` (index in the workgroup), `u.NAME` for each uniform, every binding by name,
   * and for a binding `x` the alias `x_t` of what one index holds.
   */
  readonly main: string
  /** `enable` lines beyond f16, and `diagnostic` lines. */
  readonly directives?: string
  /** Further parameters of the entry point. */
  readonly builtins?: string
}

/**
 * A compute kernel: a function from a variant to WGSL, and what the program layer must know to run it. A variant is plain
 * data and makes one pipeline; what changes from run to run is a uniform.
 */
export interface Kernel<Variant> {
  readonly name: string
  /** Buffers by WGSL name, in @binding order. */
  readonly bindings: (variant: Variant) => Readonly<Record<string, BindingDecl>>
  /** Order is that of the uniform struct. */
  readonly uniforms: Readonly<Record<string, UniformType>>
  /** Invocations a workgroup. */
  readonly workgroupSize: (variant: Variant) => number
  readonly wgsl: (variant: Variant) => KernelText
  /** The variants the compile test builds: each one a device may choose. */
  readonly variants: () => readonly Variant[]
}

/** Declares a kernel. A function only for its type parameter. */
export function defineKernel<Variant>(kernel: Kernel<Variant>): Kernel<Variant> {
  return kernel
}

/** Type of one element of a binding's array. */
export function elementType({ scalar, width }: BindingDecl): string {
  return width === 1 ? scalar : `vec${width}<${scalar}>`
}

/** Whole WGSL module of a variant. */
export function assembleKernel<Variant>(kernel: Kernel<Variant>, variant: Variant): string {
  const bindings = Object.entries(kernel.bindings(variant))
  const { declarations = '', directives = '', builtins = '', main } = kernel.wgsl(variant)
  const usesF16 = bindings.some(([, decl]) => decl.scalar === 'f16')
  const fields = [...Object.entries(kernel.uniforms), ['grid_x', 'u32']]
  return [
    usesF16 ? 'enable f16;' : '',
    directives,
    `struct Uniforms { ${fields.map(([name, type]) => `${name}: ${type}`).join(', ')} }`,
    ...bindings.map(([name, decl], index) => {
      const access = decl.access === 'read' ? 'read' : 'read_write'
      return `alias ${name}_t = ${elementType(decl)};\n@group(0) @binding(${index}) var<storage, ${access}> ${name}: array<${name}_t>;`
    }),
    `@group(0) @binding(${bindings.length}) var<uniform> u: Uniforms;`,
    declarations,
    `@compute @workgroup_size(${kernel.workgroupSize(variant)})`,
    `fn main(@builtin(workgroup_id) group_id: vec3<u32>, @builtin(local_invocation_index) local: u32${builtins && `, ${builtins}`}) {`,
    // The grid is folded into y where one dimension is too short.
    `  let group = group_id.x + group_id.y * u.grid_x;`,
    main,
    `}`,
  ]
    .filter((line) => line !== '')
    .join('\n')
}
