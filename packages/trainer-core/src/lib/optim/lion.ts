import { moveTowards, zerosLike, type Optimizer, type OptimizerFactory } from './optimizer.ts'

/**
 * Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms"):
 *
 *     p ← p − lr · (sign(β₁ m + (1 − β₁) g) + wd · p),   m ← β₂ m + (1 − β₂) g
 *
 * The sign comes from AdamW's own op: without memory (β = 0) it steps by c / (√c² + eps), which is the sign of c.
 */
export const lion: OptimizerFactory = (device, params, { beta1, beta2, weightDecay }) => {
  const m = zerosLike(device, params)
  const { ops } = device
  const optimizer: Optimizer = {
    state: new Map([['m', m]]),
    numbers: {},
    update(grads, { learningRate, gradScale }) {
      params.forEach((param, i) =>
        device.scope(() => {
          const grad = ops.affine(grads[i]!, { scale: gradScale })
          const direction = ops.add(
            ops.affine(m[i]!, { scale: beta1 }),
            ops.affine(grad, { scale: 1 - beta1 }),
          )
          const scratch = [device.zeros(param.shape, 'f32'), device.zeros(param.shape, 'f32')]
          ops.adamw([{ param, grad: direction, m: scratch[0]!, v: scratch[1]! }], {
            learningRate,
            beta1: 0,
            beta2: 0,
            eps: 1e-30,
            weightDecay,
            // √c² of small c would vanish in f32: their sign is that of a larger multiple.
            gradScale: 2 ** 40,
            step: 1,
          })
          moveTowards(device, m[i]!, grad, 1 - beta2)
        }),
      )
    },
    release: () => m.forEach((tensor) => device.release(tensor)),
  }
  return optimizer
}
