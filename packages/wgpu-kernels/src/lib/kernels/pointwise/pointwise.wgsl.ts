import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'

/** Functions of one tensor, or of one tensor and the gradient that comes back to it. */
export type PointwiseFunction = 'gelu' | 'gelu-grad' | 'silu' | 'rsqrt' | 'dropout' | 'affine'

export interface PointwiseVariant extends ElementwiseSchedule {
  readonly fn: PointwiseFunction
  readonly x: 'f32' | 'f16'
  /** Dtype of the incoming gradient; only `gelu-grad` has one. */
  readonly dy: 'f32' | 'f16' | 'none'
}

export function pointwiseBindings({ x, dy }: PointwiseVariant): Record<string, BindingDecl> {
  // A gradient has the dtype of dy, every other result that of x.
  return dy === 'none'
    ? { x: reads(x, 4), y: writes(x, 4) }
    : { x: reads(x, 4), dy: reads(dy, 4), y: writes(dy, 4) }
}

// ½(1 + tanh(z)) = sigmoid(2z), which neither overflows nor cancels. The exponent is held where exp stays finite; a NaN still
// comes through by the factor v.
const sigmoid = /* wgsl */ `
fn sigmoid4(z: vec4<f32>) -> vec4<f32> { return 1.0 / (1.0 + exp(min(-z, vec4<f32>(80.0)))); }
const root = 0.7978845608028654;
const cubic = 0.044715;`

const values: Record<PointwiseFunction, string> = {
  gelu: `let value = v * sigmoid4(2.0 * root * (v + cubic * v * v * v));`,
  'gelu-grad': `let s = sigmoid4(2.0 * root * (v + cubic * v * v * v));
    let value = vec4<f32>(dy[i]) * (s + 2.0 * root * v * s * (1.0 - s) * (1.0 + 3.0 * cubic * v * v));`,
  silu: `let value = v * sigmoid4(v);`,
  rsqrt: `let value = inverseSqrt(v);`,
  dropout: `let index = vec4<u32>(4u * (u.start + i)) + vec4<u32>(0u, 1u, 2u, 3u);
    let hash = scramble(scramble(index) ^ vec4<u32>(u.key));
    let value = select(v * u.scale, vec4<f32>(0.0), hash < vec4<u32>(u.threshold));`,
  affine: `let value = v * u.scale + u.offset;`,
}

// kernel-api's `dropoutHash`, four at a time.
const scramble = /* wgsl */ `
fn scramble(value: vec4<u32>) -> vec4<u32> {
  let state = value * 747796405u + 2891336453u;
  let word = ((state >> ((state >> vec4<u32>(28u)) + 4u)) ^ state) * 277803737u;
  return (word >> vec4<u32>(22u)) ^ word;
}`

const declarations: Record<PointwiseFunction, string> = {
  gelu: sigmoid,
  'gelu-grad': sigmoid,
  silu: sigmoid,
  rsqrt: '',
  dropout: scramble,
  affine: '',
}

export function pointwiseText(variant: PointwiseVariant): KernelText {
  return {
    declarations: declarations[variant.fn],
    main: forEachVector(
      variant,
      `let v = vec4<f32>(x[i]);
    ${values[variant.fn]}
    y[i] = y_t(value);`,
    ),
  }
}
