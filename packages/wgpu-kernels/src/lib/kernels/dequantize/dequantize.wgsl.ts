import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import { WEIGHT_BLOCK } from '../matmul/units/subgroup-matrix.wgsl.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'

export interface DequantizeVariant extends ElementwiseSchedule {
  readonly format: 'uint4' | 'float8_e4m3'
  /** Dtype of scales and zeros. */
  readonly scale: 'f32' | 'f16'
  readonly y: 'f32' | 'f16'
  /** y lies as [K / 32, N, 32]; f16. */
  readonly blocked: boolean
}

export function dequantizeBindings({
  format,
  scale,
  y,
}: DequantizeVariant): Record<string, BindingDecl> {
  return {
    codes: reads('u32'),
    scales: reads(scale),
    ...(format === 'uint4' ? { zeros: reads(scale) } : {}),
    // Eight values of a word of uint4 are 16 bytes of f16, stored at once.
    y: format === 'uint4' && y === 'f16' ? writes('u32', 4) : writes(y, 4),
  }
}

const decodeE4m3 = /* wgsl */ `
// e4m3fn: bias 7, no infinities, 0x7f is NaN. The exponent is moved into an f32's by adding 120 to it.
fn decode_e4m3(code: u32) -> f32 {
  let magnitude = code & 0x7fu;
  let normal = bitcast<f32>((magnitude << 20u) + (120u << 23u));
  let subnormal = f32(magnitude) * 0.001953125;
  var value = select(normal, subnormal, magnitude < 8u);
  if (magnitude == 0x7fu) { value = bitcast<f32>(0x7fc00000u | u.zero); }
  return select(value, -value, (code & 0x80u) != 0u);
}`

/** Declares `at`, the vector of y that word `i` expands to; `perRow` of them are a block of a row. */
function placeOf({ blocked }: DequantizeVariant, perRow: number): string {
  return blocked
    ? `let row = i / u.words_per_row;
    let vector = i - row * u.words_per_row;
    let at = ((vector / ${perRow}u) * u.rows + u.first_row + row) * ${perRow}u + vector % ${perRow}u;`
    : 'let at = i;'
}

export function dequantizeText(variant: DequantizeVariant): KernelText {
  return variant.format === 'uint4'
    ? {
        directives: variant.y === 'f16' ? 'enable f16;' : '',
        main: forEachVector(
          variant,
          /* wgsl */ `let word = codes[i];
    // Rows are whole groups.
    let group_index = i / u.words_per_group;
    let s = f32(scales[group_index]);
    let z = f32(zeros[group_index]);
    let low = vec4<u32>(word, word >> 4u, word >> 8u, word >> 12u) & vec4<u32>(15u);
    let high = vec4<u32>(word >> 16u, word >> 20u, word >> 24u, word >> 28u) & vec4<u32>(15u);
    ${
      variant.y === 'f16'
        ? `${placeOf(variant, WEIGHT_BLOCK / 8)}
    y[at] = vec4<u32>(bitcast<vec2<u32>>(vec4<f16>((vec4<f32>(low) - z) * s)), bitcast<vec2<u32>>(vec4<f16>((vec4<f32>(high) - z) * s)));`
        : `y[2u * i] = (vec4<f32>(low) - z) * s;
    y[2u * i + 1u] = (vec4<f32>(high) - z) * s;`
    }`,
        ),
      }
    : {
        declarations: decodeE4m3,
        main: forEachVector(
          variant,
          /* wgsl */ `let word = codes[i];
    let s = f32(scales[i / u.words_per_row]);
    ${placeOf(variant, WEIGHT_BLOCK / 4)}
    y[at] = y_t(s * vec4<f32>(decode_e4m3(word & 0xffu), decode_e4m3((word >> 8u) & 0xffu), decode_e4m3((word >> 16u) & 0xffu), decode_e4m3(word >> 24u)));`,
        ),
      }
}
