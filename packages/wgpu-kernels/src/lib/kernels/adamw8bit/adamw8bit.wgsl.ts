import { stateBlockSize } from '@kinora/kernel-api'

import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { RowSchedule } from '../../tuning/row-schedule.ts'
import { rowIndex, rowReductions } from '../../wgsl/row-reduce.ts'

export function adamw8bitBindings(): Record<string, BindingDecl> {
  return {
    grad: reads('f32', 4),
    param: writes('f32', 4),
    m_codes: writes('u32'),
    v_codes: writes('u32'),
    m_scales: writes('f32'),
    v_scales: writes('f32'),
  }
}

// The numbers of kernel-api's `blockStateNumbers` from their place j among the magnitudes, 0 being zero. Decade i begins at
// j = FIRST · 2^i and has that many parts; signed FIRST is 1, unsigned 2 with places moved by one. The place after the last is 1.
const codes = /* wgsl */ `
const tens = array<f32, 8>(1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0);

fn magnitude_of(place: u32, first: u32) -> f32 {
  if (place == 0u) { return 0.0; }
  let j = place + first - 1u;
  let i = firstLeadingBit(j / first);
  let parts = first << i;
  if (i > 6u) { return 1.0; }
  return (0.1 + 0.9 * (f32(j - parts) + 0.5) / f32(parts)) * tens[i];
}

// Place of the number nearest to x in [0, 1], of two the lower; at most last.
fn place_of(x: f32, first: u32, last: u32) -> u32 {
  var i = 0u;
  for (var t = 0u; t < 6u; t++) { i += select(0u, 1u, x >= tens[t]); }
  let parts = first << i;
  let part = clamp(i32(floor((x / tens[i] - 0.1) / 0.9 * f32(parts))), 0, i32(parts) - 1);
  let guess = parts + u32(part) - (first - 1u);
  // Parts end where decades do, but the middle between two decades' numbers lies elsewhere.
  var best = min(guess, last);
  var distance = abs(magnitude_of(best, first) - x);
  let below = best - 1u;
  let to_below = abs(magnitude_of(below, first) - x);
  if (to_below <= distance) { best = below; distance = to_below; }
  let above = min(guess + 1u, last);
  if (abs(magnitude_of(above, first) - x) < distance) { best = above; }
  return best;
}

fn signed_number(code: u32) -> f32 {
  if (code >= 127u) { return magnitude_of(code - 127u, 1u); }
  return -magnitude_of(127u - code, 1u);
}
fn signed_code(x: f32) -> u32 {
  if (x >= 0.0) { return 127u + place_of(x, 1u, 128u); }
  return 127u - place_of(-x, 1u, 127u);
}
fn unsigned_number(code: u32) -> f32 { return magnitude_of(code, 2u); }
fn unsigned_code(x: f32) -> u32 {
  if (x <= 0.0) { return 0u; }
  return max(1u, place_of(x, 2u, 255u));
}

fn signed_four(word: u32) -> vec4<f32> {
  return vec4<f32>(signed_number(word & 0xffu), signed_number((word >> 8u) & 0xffu), signed_number((word >> 16u) & 0xffu), signed_number(word >> 24u));
}
fn unsigned_four(word: u32) -> vec4<f32> {
  return vec4<f32>(unsigned_number(word & 0xffu), unsigned_number((word >> 8u) & 0xffu), unsigned_number((word >> 16u) & 0xffu), unsigned_number(word >> 24u));
}
fn signed_word(x: vec4<f32>) -> u32 {
  return signed_code(x.x) | (signed_code(x.y) << 8u) | (signed_code(x.z) << 16u) | (signed_code(x.w) << 24u);
}
fn unsigned_word(x: vec4<f32>) -> u32 {
  return unsigned_code(x.x) | (unsigned_code(x.y) << 8u) | (unsigned_code(x.z) << 16u) | (unsigned_code(x.w) << 24u);
}
fn top_of(x: vec4<f32>) -> f32 { return max(max(x.x, x.y), max(x.z, x.w)); }
fn inverse_of(scale: f32) -> f32 { return select(0.0, 1.0 / scale, scale > 0.0); }`

/** Two passes over a block: the scales must be known before the first code is written. */
export function adamw8bitText(variant: RowSchedule): KernelText {
  const words = stateBlockSize / 4
  const { lanes } = variant
  return {
    declarations: /* wgsl */ `${rowReductions(variant, true)}
${codes}
// What lies past the last element counts as zero.
fn gradient(i: u32) -> vec4<f32> {
  let index = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
  return select(vec4<f32>(0.0), grad[i] * u.grad_scale, index < vec4<u32>(u.elements));
}
fn next_m(i: u32, scale: f32) -> vec4<f32> {
  return u.beta1 * (signed_four(m_codes[i]) * scale) + u.rest1 * gradient(i);
}
fn next_v(i: u32, scale: f32) -> vec4<f32> {
  let g = gradient(i);
  return u.beta2 * (unsigned_four(v_codes[i]) * scale) + u.rest2 * g * g;
}
// Codes past the last element are never written by anyone else and may be anything.
fn inside(i: u32, value: vec4<f32>) -> vec4<f32> {
  let index = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
  return select(vec4<f32>(0.0), value, index < vec4<u32>(u.elements));
}`,
    main: /* wgsl */ `${rowIndex(variant)}
  let all_words = (u.elements + 3u) / 4u;
  let blocks = (u.elements + ${stateBlockSize - 1}u) / ${stateBlockSize}u;
  let block = min(row, blocks - 1u);
  let first = block * ${words}u;
  let end = select(first, min(first + ${words}u, all_words), row < blocks);
  let old_m_scale = m_scales[block];
  let old_v_scale = v_scales[block];
  var top_m = 0.0;
  var top_v = 0.0;
  for (var i = first + lane; i < end; i += ${lanes}u) {
    let m = next_m(i, old_m_scale);
    let v = next_v(i, old_v_scale);
    top_m = max(top_m, top_of(abs(inside(i, m))));
    top_v = max(top_v, top_of(inside(i, v)));
    param[i] = param[i] * u.decay - u.step_size * m / (sqrt(v) * u.root_correction + u.eps);
  }
  let m_scale = reduce_max(top_m, local);
  let v_scale = reduce_max(top_v, local);
  for (var i = first + lane; i < end; i += ${lanes}u) {
    let m = inside(i, next_m(i, old_m_scale));
    let v = inside(i, next_v(i, old_v_scale));
    m_codes[i] = signed_word(clamp(m * inverse_of(m_scale), vec4<f32>(-1.0), vec4<f32>(1.0)));
    v_codes[i] = unsigned_word(min(v * inverse_of(v_scale), vec4<f32>(1.0)));
  }
  // Every lane has read the old scales before the reductions' barriers.
  if (row < blocks && lane == 0u) {
    m_scales[block] = m_scale;
    v_scales[block] = v_scale;
  }`,
  }
}
