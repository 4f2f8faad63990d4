import {
  copiesOf,
  moveTowards,
  zerosLike,
  type Optimizer,
  type OptimizerFactory,
} from './optimizer.ts'

/**
 * Schedule-free AdamW (Defazio et al. 2024, "The road less scheduled"). Gradients are taken at y, steps are made by z, and the
 * weights worth having are x, a weighted average of the z:
 *
 *     v ← β₂ v + (1 − β₂) g²
 *     z ← z − lr_t · (g / (√(v / (1 − β₂^t)) + eps) + wd · y)
 *     x ← (1 − c) x + c z,   c = lr_t² / Σ lr²
 *     y ← β₁ x + (1 − β₁) z
 *
 * The parameters are y while training; x = (y − (1 − β₁) z) / β₁ is what is saved.
 */
export const scheduleFreeAdamw: OptimizerFactory = (device, params, settings) => {
  const { beta1, beta2, eps, weightDecay, warmupSteps } = settings
  const z = copiesOf(device, params)
  const x = copiesOf(device, params)
  const v = zerosLike(device, params)
  const { ops } = device
  const optimizer: Optimizer & { numbers: { updates: number; weightSum: number } } = {
    state: new Map([
      ['z', z],
      ['x', x],
      ['v', v],
    ]),
    numbers: { updates: 0, weightSum: 0 },
    update(grads, { learningRate, gradScale }) {
      const { numbers } = optimizer
      const step = ++numbers.updates
      const rate = learningRate * Math.min(1, step / Math.max(warmupSteps, 1))
      numbers.weightSum += rate ** 2
      const share = numbers.weightSum > 0 ? rate ** 2 / numbers.weightSum : 0
      params.forEach((y, i) =>
        device.scope(() => {
          ops.addInto(z[i]!, y, -rate * weightDecay)
          const m = device.zeros(y.shape, 'f32')
          ops.adamw([{ param: z[i]!, grad: grads[i]!, m, v: v[i]! }], {
            learningRate: rate,
            beta1: 0,
            beta2,
            eps,
            weightDecay: 0,
            gradScale,
            step,
          })
          moveTowards(device, x[i]!, z[i]!, share)
          const next = ops.add(
            ops.affine(x[i]!, { scale: beta1 }),
            ops.affine(z[i]!, { scale: 1 - beta1 }),
          )
          moveTowards(device, y, next, 1)
        }),
      )
    },
    finishedParams: () => copiesOf(device, x),
    release: () => [...z, ...x, ...v].forEach((tensor) => device.release(tensor)),
  }
  return optimizer
}
