import { zerosLike, type Optimizer, type OptimizerFactory } from './optimizer.ts'

/** Adam with decoupled weight decay (Loshchilov and Hutter 2019), on the device. */
export const adamw: OptimizerFactory = (device, params, settings) => {
  const m = zerosLike(device, params)
  const v = zerosLike(device, params)
  const optimizer: Optimizer & { numbers: { updates: number } } = {
    state: new Map([
      ['m', m],
      ['v', v],
    ]),
    numbers: { updates: 0 },
    update(grads, { learningRate, gradScale }) {
      optimizer.numbers.updates++
      const { beta1, beta2, eps, weightDecay } = settings
      device.ops.adamw(
        params.map((param, i) => ({ param, grad: grads[i]!, m: m[i]!, v: v[i]! })),
        {
          learningRate,
          beta1,
          beta2,
          eps,
          weightDecay,
          gradScale,
          step: optimizer.numbers.updates,
        },
      )
    },
    release: () => [...m, ...v].forEach((tensor) => device.release(tensor)),
  }
  return optimizer
}
