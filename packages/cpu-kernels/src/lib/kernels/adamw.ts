import type { AdamWOptions } from '@kinora/kernel-api'
import type { FloatArray } from '../memory.ts'

/** One parameter's update, in place; the equations are in kernel-api's `adamw`. */
export function adamw(
  param: FloatArray,
  grad: FloatArray,
  m: FloatArray,
  v: FloatArray,
  { learningRate, beta1, beta2, eps, weightDecay, step, gradScale }: AdamWOptions,
): void {
  const correction1 = 1 - beta1 ** step
  const correction2 = 1 - beta2 ** step
  for (let i = 0; i < param.length; i++) {
    const g = grad[i]! * gradScale
    const mean = beta1 * m[i]! + (1 - beta1) * g
    const square = beta2 * v[i]! + (1 - beta2) * g * g
    m[i] = mean
    v[i] = square
    const decayed = param[i]! * (1 - learningRate * weightDecay)
    param[i] =
      decayed - (learningRate * (mean / correction1)) / (Math.sqrt(square / correction2) + eps)
  }
}
