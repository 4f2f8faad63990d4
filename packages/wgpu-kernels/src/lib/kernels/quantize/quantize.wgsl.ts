import { writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import type { RowSchedule } from '../../tuning/row-schedule.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'
import { rowIndex, rowReductions } from '../../wgsl/row-reduce.ts'
import { decodeFour, formatElement, type StorageFormat } from '../../wgsl/storage-codec.ts'

interface QuantizeVariant {
  /** How the weight is stored; bf16 also rounds every step to it. */
  readonly w: Extract<StorageFormat, 'f32' | 'f16' | 'f16-packed' | 'bf16'>
}

export interface QuantizeUint4Variant extends QuantizeVariant, ElementwiseSchedule {
  /** Of scales and zeros; f32 where the adapter has no f16, holding numbers of f16. */
  readonly scale: 'f32' | 'f16'
}

export interface QuantizeFloat8Variant extends QuantizeVariant, RowSchedule {}

export function quantizeUint4Bindings({
  w,
  scale,
}: QuantizeUint4Variant): Record<string, BindingDecl> {
  return {
    w: { access: 'read', ...formatElement(w) },
    codes: writes('u32'),
    scales: writes(scale),
    zeros: writes(scale),
  }
}

export function quantizeFloat8Bindings({ w }: QuantizeFloat8Variant): Record<string, BindingDecl> {
  return {
    w: { access: 'read', ...formatElement(w) },
    codes: writes('u32'),
    scales: writes('f32'),
  }
}

/** `R` of the op's definition, and reading of four numbers. */
function common({ w }: QuantizeVariant): string {
  return /* wgsl */ `
fn round_weight(value: vec4<f32>) -> vec4<f32> {
  ${
    w === 'bf16'
      ? `let bits = bitcast<vec4<u32>>(value);
  let rounded = bits + 0x7fffu + ((bits >> vec4<u32>(16u)) & vec4<u32>(1u));
  return bitcast<vec4<f32>>(rounded & vec4<u32>(0xffff0000u));`
      : `return value;`
  }
}
fn four(i: u32) -> vec4<f32> { return ${decodeFour(w, 'w[i]')}; }`
}

// Numbers of f16 are 2^13 f32 units apart in its normal range, and 2^-24 below it.
const roundF16 = /* wgsl */ `
fn round_f16(value: f32) -> f32 {
  let bits = bitcast<u32>(value);
  let normal = bitcast<f32>((bits + 0xfffu + ((bits >> 13u) & 1u)) & 0xffffe000u);
  return select(normal, round(value * 16777216.0) * 5.9604644775390625e-08, value < 6.103515625e-05);
}
fn code_word(value: vec4<f32>, inverse: f32, zero: f32) -> u32 {
  let codes = vec4<u32>(clamp(round(round_weight(value * inverse)) + zero, vec4<f32>(0.0), vec4<f32>(15.0)));
  return codes.x | (codes.y << 4u) | (codes.z << 8u) | (codes.w << 12u);
}`

/** One invocation a group: two passes over its numbers, the second from the cache. */
export function quantizeUint4Text(variant: QuantizeUint4Variant): KernelText {
  return {
    declarations: common(variant) + roundF16,
    main: forEachVector(
      variant,
      /* wgsl */ `let fours = u.group_size / 4u;
    let start = i * fours;
    var low = vec4<f32>(0.0);
    var high = vec4<f32>(0.0);
    for (var k = start; k < start + fours; k++) {
      let value = four(k);
      low = min(low, value);
      high = max(high, value);
    }
    let least = min(min(low.x, low.y), min(low.z, low.w));
    let most = max(max(high.x, high.y), max(high.z, high.w));
    let span = round_weight(vec4<f32>(most - least)).x;
    let scale = round_f16(max(round_weight(vec4<f32>(span / 15.0)).x, 1.1920928955078125e-07));
    let zero = min(-round(round_weight(vec4<f32>(least / scale)).x), 15.0);
    let inverse = round_weight(vec4<f32>(1.0 / scale)).x;
    for (var k = 0u; k < fours; k += 2u) {
      codes[(start + k) / 2u] = code_word(four(start + k), inverse, zero) | (code_word(four(start + k + 1u), inverse, zero) << 16u);
    }
    scales[i] = scales_t(scale);
    zeros[i] = zeros_t(zero);`,
    ),
  }
}

// e4m3fn: bias 7, no infinities. The exponent of an f32 is moved by taking 120 from it; below 2^-6 codes are 2^-9 apart.
const encodeE4m3 = /* wgsl */ `
fn encode_e4m3(value: vec4<f32>) -> u32 {
  let magnitude = min(abs(value), vec4<f32>(448.0));
  let bits = bitcast<vec4<u32>>(magnitude);
  let normal = (bits - 0x3c000000u + 0x7ffffu + ((bits >> vec4<u32>(20u)) & vec4<u32>(1u))) >> vec4<u32>(20u);
  let subnormal = vec4<u32>(round(magnitude * 512.0));
  let codes = select(normal, subnormal, magnitude < vec4<f32>(0.015625)) | select(vec4<u32>(0u), vec4<u32>(0x80u), value < vec4<f32>(0.0));
  return codes.x | (codes.y << 8u) | (codes.z << 16u) | (codes.w << 24u);
}`

// x / 448 rounded to nearest, in integers: WGSL's division may be off by 2.5 units in the last place, and on NVIDIA a third of all
// scales were. 448 is 7 · 2^6, and the remainder by 7 never lies half way. 0 where the quotient is no normal number.
const by448 = /* wgsl */ `
fn by_448(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let exponent = bits >> 23u;
  let mantissa = (bits & 0x7fffffu) | 0x800000u;
  let shift = select(3u, 2u, mantissa >= 14680064u);
  let wide = mantissa << shift;
  let quotient = wide / 7u + select(0u, 1u, wide % 7u > 3u);
  if (exponent == 255u) { return x; }
  if (exponent <= 6u + shift) { return 0.0; }
  return bitcast<f32>(((exponent - 6u - shift) << 23u) + (quotient - 0x800000u));
}`

/** The lanes of a row find its largest number together, then each packs its share. */
export function quantizeFloat8Text(variant: QuantizeFloat8Variant): KernelText {
  return {
    declarations: common(variant) + rowReductions(variant, true) + encodeE4m3 + by448,
    main: /* wgsl */ `${rowIndex(variant)}
  let base = min(row, u.N - 1u) * u.words_per_row;
  var top = vec4<f32>(0.0);
  for (var c = lane; c < u.words_per_row; c += ${variant.lanes}u) { top = max(top, abs(four(base + c))); }
  let largest = reduce_max(max(max(top.x, top.y), max(top.z, top.w)), local);
  var scale = round_weight(vec4<f32>(by_448(largest))).x;
  // Also where the quotient is too small for f32: all codes are 0 then.
  if (scale < 1.1754943508222875e-38) { scale = 1.0; }
  if (row < u.N) {
    for (var c = lane; c < u.words_per_row; c += ${variant.lanes}u) {
      codes[base + c] = encode_e4m3(round_weight(four(base + c) / scale));
    }
    if (lane == 0u) { scales[row] = scale; }
  }`,
  }
}
