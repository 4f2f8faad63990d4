import type { DType } from '@kinora/kernel-api'

import type { BindingDecl } from '../program/define-kernel.ts'

/** How four elements of a dtype look in memory: `f16` needs the feature, `f16-packed` is the same bytes without it. */
export type StorageFormat = DType | 'f16-packed'

/** Binding element that covers four elements. */
export function formatElement(format: StorageFormat): Omit<BindingDecl, 'access'> {
  switch (format) {
    case 'f32':
    case 'i32':
    case 'u32':
    case 'f16':
      return { scalar: format, width: 4 }
    case 'bf16':
    case 'f16-packed':
      return { scalar: 'u32', width: 2 }
  }
}

/** Reads four elements as vec4<f32> from an expression of the binding's element type. */
export function decodeFour(format: StorageFormat, value: string): string {
  switch (format) {
    case 'f32':
      return value
    case 'f16':
    case 'i32':
    case 'u32':
      return `vec4<f32>(${value})`
    case 'f16-packed':
      return `vec4<f32>(unpack2x16float(${value}.x), unpack2x16float(${value}.y))`
    case 'bf16':
      return `bitcast<vec4<f32>>(vec4<u32>(${value}.x << 16u, ${value}.x & 0xffff0000u, ${value}.y << 16u, ${value}.y & 0xffff0000u))`
  }
}

/** Makes the binding's element type from a vec4<f32> named `value`. */
export function encodeFour(format: StorageFormat, value: string): string {
  switch (format) {
    case 'f32':
      return value
    case 'f16':
      return `vec4<f16>(${value})`
    case 'i32':
      return `vec4<i32>(${value})`
    case 'u32':
      return `vec4<u32>(${value})`
    case 'f16-packed':
      return `vec2<u32>(pack2x16float(${value}.xy), pack2x16float(${value}.zw))`
    case 'bf16':
      return `encode_bf16(${value})`
  }
}

/** Functions `encodeFour` calls. bf16 rounds to nearest even and keeps NaN a NaN. */
export function codecDeclarations(format: StorageFormat): string {
  return format === 'bf16'
    ? /* wgsl */ `
fn encode_bf16(value: vec4<f32>) -> vec2<u32> {
  let bits = bitcast<vec4<u32>>(value);
  let rounded = (bits + 0x7fffu + ((bits >> vec4<u32>(16u)) & vec4<u32>(1u))) >> vec4<u32>(16u);
  // Rounding could carry a NaN's mantissa into an infinity.
  let nan = (bits & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
  let half = select(rounded, (bits >> vec4<u32>(16u)) | vec4<u32>(0x40u), nan);
  return vec2<u32>(half.x | (half.y << 16u), half.z | (half.w << 16u));
}`
    : ''
}
