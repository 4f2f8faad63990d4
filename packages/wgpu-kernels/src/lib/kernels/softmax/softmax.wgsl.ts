import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { RowSchedule } from '../../tuning/row-schedule.ts'
import { floatVector, sumOf } from '../../wgsl/float-vector.ts'
import { rowIndex, rowReductions } from '../../wgsl/row-reduce.ts'

export interface SoftmaxVariant extends RowSchedule {
  /** `forward` turns scores into weights; `backward` turns scores and dP into weights and dS. */
  readonly pass: 'forward' | 'backward'
  readonly bias: boolean
  readonly keyBias: boolean
  readonly width: 1 | 4
}

export function softmaxBindings({
  pass,
  bias,
  keyBias,
  width,
}: SoftmaxVariant): Record<string, BindingDecl> {
  return {
    ...(bias ? { bias: reads('f32', width) } : {}),
    ...(keyBias ? { key_bias: reads('f32', width) } : {}),
    scores: writes('f32', width),
    ...(pass === 'forward'
      ? { lse: writes('f32') }
      : { lse: reads('f32'), dscores: writes('f32', width) }),
  }
}

export function softmaxText(variant: SoftmaxVariant): KernelText {
  const { pass, bias, keyBias, width, lanes } = variant
  const V = floatVector(width)
  // −Infinity masks a key; arithmetic on it is not portable, and this is as good.
  const score = [
    `scores[base + c]`,
    bias ? `bias[bias_base + c]` : '',
    keyBias ? `key_bias[key_base + c]` : '',
  ]
    .filter((term) => term !== '')
    .join(' + ')
  const overRow = (body: string): string =>
    `for (var c = lane; c < u.M; c += ${lanes}u) { let s = max(${score}, ${V}(-1e30)); ${body} }`
  const highest = width === 1 ? 'top' : 'max(max(top.x, top.y), max(top.z, top.w))'
  const forward = /* wgsl */ `
  var top = ${V}(-1e30);
  ${overRow('top = max(top, s);')}
  let peak = reduce_max(${highest}, local);
  var total = ${V}(0.0);
  ${overRow('total += exp(s - peak);')}
  let sum = reduce_sum(${sumOf(width, 'total')}, local);
  if (alive) {
    ${overRow('scores[base + c] = exp(s - peak) / sum;')}
    if (lane == 0u) { lse[lse_at] = peak + log(sum); }
  }`
  // δ = Σ_j P dP, which equals the row sum of dO ∘ O.
  const backward = /* wgsl */ `
  let level = lse[lse_at];
  var total = ${V}(0.0);
  ${overRow('total += exp(s - level) * dscores[base + c];')}
  let delta = reduce_sum(${sumOf(width, 'total')}, local);
  if (alive) {
    ${overRow(`let p = exp(s - level);
      scores[base + c] = p;
      dscores[base + c] = p * (dscores[base + c] - delta) * u.scale;`)}
  }`
  return {
    declarations: rowReductions(variant, true),
    main: /* wgsl */ `${rowIndex(variant)}
  let alive = row < u.R;
  // Idle lanes work on the last row, so that every barrier is reached by all.
  let safe_row = min(row, u.R - 1u);
  let n = u.first_row + safe_row % u.rows;
  let h = (safe_row / u.rows) % u.H;
  let b = u.first_batch + safe_row / (u.rows * u.H);
  let base = safe_row * u.M;
  let bias_base = (h * u.N + n) * u.M;
  let key_base = b * u.M;
  let lse_at = (b * u.H + h) * u.N + n;
${pass === 'forward' ? forward : backward}`,
  }
}
