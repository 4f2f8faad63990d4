import type { LossKind } from '@kinora/kernel-api'
import type { FloatArray } from '../memory.ts'

/** The width of pseudo-huber's quadratic part. */
const delta = 0.01

const value: Record<LossKind, (d: number) => number> = {
  mse: (d) => d * d,
  mae: (d) => Math.abs(d),
  'pseudo-huber': (d) => Math.sqrt(d * d + delta * delta) - delta,
}

const slope: Record<LossKind, (d: number) => number> = {
  mse: (d) => 2 * d,
  mae: (d) => Math.sign(d),
  'pseudo-huber': (d) => d / Math.sqrt(d * d + delta * delta),
}

/** Mean over the elements of each of `items` batch items. */
export function loss(
  prediction: FloatArray,
  target: FloatArray,
  mask: FloatArray | undefined,
  kind: LossKind,
  out: FloatArray,
): void {
  const count = prediction.length / out.length
  const f = value[kind]
  for (let b = 0; b < out.length; b++) {
    let sum = 0
    for (let i = b * count; i < (b + 1) * count; i++) {
      const term = f(prediction[i]! - target[i]!)
      sum += mask ? term * mask[i]! : term
    }
    out[b] = sum / count
  }
}

export function lossGrad(
  prediction: FloatArray,
  target: FloatArray,
  mask: FloatArray | undefined,
  kind: LossKind,
  itemScale: readonly number[],
  out: FloatArray,
): void {
  const count = prediction.length / itemScale.length
  const f = slope[kind]
  for (let b = 0; b < itemScale.length; b++) {
    const scale = itemScale[b]! / count
    for (let i = b * count; i < (b + 1) * count; i++) {
      const term = scale * f(prediction[i]! - target[i]!)
      out[i] = mask ? term * mask[i]! : term
    }
  }
}
