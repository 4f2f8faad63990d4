import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { RowSchedule } from '../../tuning/row-schedule.ts'
import { floatVector, sumOf } from '../../wgsl/float-vector.ts'
import { rowIndex, rowReductions } from '../../wgsl/row-reduce.ts'

/** How often a weight or bias repeats: never given, one for all rows, one a batch item. */
export type Affine = 'none' | 'shared' | 'batch'

export interface NormVariant extends RowSchedule {
  readonly kind: 'layer' | 'rms'
  readonly pass: 'forward' | 'backward'
  readonly x: 'f32' | 'f16'
  /** Dtype of the incoming gradient; unused in the forward pass. */
  readonly dy: 'f32' | 'f16'
  readonly y: 'f32' | 'f16'
  readonly weight: Affine
  readonly bias: Affine
  readonly width: 1 | 4
}

export function normBindings(variant: NormVariant): Record<string, BindingDecl> {
  const { x, dy, y, width } = variant
  return {
    x: reads(x, width),
    ...(variant.pass === 'backward' ? { dy: reads(dy, width) } : {}),
    ...(variant.weight === 'none' ? {} : { weight: reads('f32', width) }),
    ...(variant.bias === 'none' ? {} : { bias: reads('f32', width) }),
    y: writes(y, width),
  }
}

export function normText(variant: NormVariant): KernelText {
  const { kind, pass, width, lanes } = variant
  const V = floatVector(width)
  const affine = (name: 'weight' | 'bias'): string =>
    variant[name] === 'none'
      ? name === 'weight'
        ? `${V}(1.0)`
        : `${V}(0.0)`
      : `${name}[${variant[name] === 'batch' ? 'batch + c' : 'c'}]`
  const overRow = (body: string): string =>
    `for (var c = lane; c < u.C; c += ${lanes}u) { let v = ${V}(x[base + c]); ${body} }`

  const mean =
    kind === 'layer'
      ? `
  var total = ${V}(0.0);
  ${overRow('total += v;')}
  let mean = reduce_sum(${sumOf(width, 'total')}, local) * scale;`
      : `
  let mean = 0.0;`
  // The second pass over the deviations keeps a large common offset from cancelling.
  const statistics = `${mean}
  var squares = ${V}(0.0);
  ${overRow('let d = v - mean; squares += d * d;')}
  let r = 1.0 / sqrt(reduce_sum(${sumOf(width, 'squares')}, local) * scale + u.eps);`

  const forward = `
  if (alive) { ${overRow(`y[base + c] = y_t((v - mean) * r * ${affine('weight')} + ${affine('bias')});`)} }`

  // With x̂ = (x − mean)·r and g = dy·weight: dx = r·(g − mean(g) − x̂·mean(g·x̂)); for rms the mean of g does not appear.
  const backward = `
  var sum_g = ${V}(0.0);
  var sum_gx = ${V}(0.0);
  ${overRow(`let g = ${V}(dy[base + c]) * ${affine('weight')}; sum_g += g; sum_gx += g * (v - mean) * r;`)}
  let mean_gx = reduce_sum(${sumOf(width, 'sum_gx')}, local) * scale;
  ${
    kind === 'layer'
      ? `let mean_g = reduce_sum(${sumOf(width, 'sum_g')}, local) * scale;`
      : 'let mean_g = 0.0;'
  }
  if (alive) { ${overRow(`let g = ${V}(dy[base + c]) * ${affine('weight')};
    y[base + c] = y_t(r * (g - mean_g - (v - mean) * r * mean_gx));`)} }`

  return {
    declarations: rowReductions(variant),
    main: `${rowIndex(variant)}
  let alive = row < u.R;
  // Idle lanes work on the last row, so that every barrier is reached by all.
  let safe_row = min(row, u.R - 1u);
  let base = safe_row * u.C;
  let batch = ((u.first_row + safe_row) / u.rows_per_batch) * u.C;
  let scale = 1.0 / f32(u.C * ${width}u);
${statistics}
${pass === 'forward' ? forward : backward}`,
  }
}
