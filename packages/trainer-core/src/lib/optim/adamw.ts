import { zerosLike, type OptimizerFactory } from './optimizer.ts'

/** Adam with decoupled weight decay (Loshchilov and Hutter 2019), on the device. */
export const adamw: OptimizerFactory = (device, params, settings) => {
  const m = zerosLike(device, params)
  const v = zerosLike(device, params)
  const optimizer = {
    state: new Map([
      ['m', m],
      ['v', v],
    ]),
    numbers: { updates: 0 } as Record<string, number>,
    update(
      grads: Parameters<ReturnType<OptimizerFactory>['update']>[0],
      { learningRate, gradScale }: { learningRate: number; gradScale: number },
    ) {
      const step = ++optimizer.numbers['updates']!
      device.ops.adamw(
        params.map((param, i) => ({ param, grad: grads[i]!, m: m[i]!, v: v[i]! })),
        { ...settings, learningRate, gradScale, step },
      )
    },
    release: () => [...m, ...v].forEach((tensor) => device.release(tensor)),
  }
  return optimizer
}
