import {
  numElements,
  stateBlockSize,
  type BlockState,
  type Device,
  type Tensor,
} from '@kinora/kernel-api'
import { adamw } from './adamw.ts'
import { kept, type Optimizer, type OptimizerFactory, type StateArray } from './optimizer.ts'

/**
 * AdamW with block-wise states of 8 bits (Dettmers et al. 2021): a quarter of the memory of f32 states. As in bitsandbytes, parameters
 * of fewer elements than `min8bitSize` keep states of f32.
 */
export const adamw8bit: OptimizerFactory = (device, params, settings) => {
  const isLarge = ({ shape }: Tensor): boolean => numElements(shape) >= settings.min8bitSize
  const large = params.filter(isLarge)
  const small = params.filter((param) => !isLarge(param))
  const exact = adamw(device, small, settings)
  const m = blockStates(device, large)
  const v = blockStates(device, large)
  const states: [string, readonly StateArray[]][] = [
    ...exact.state,
    ['m_codes', m.map(({ codes }) => codes)],
    ['m_scales', m.map(({ scales }) => scales)],
    ['v_codes', v.map(({ codes }) => codes)],
    ['v_scales', v.map(({ scales }) => scales)],
  ]
  const optimizer: Optimizer = {
    state: new Map(states.filter(([, arrays]) => arrays.length > 0)),
    // Both kinds are updated together, so one count serves.
    numbers: exact.numbers,
    update(grads, options) {
      const gradOf = new Map(params.map((param, i) => [param, grads[i]!]))
      const pick = (some: readonly Tensor[]): Tensor[] => some.map((param) => gradOf.get(param)!)
      void exact.update(pick(small), options)
      const { beta1, beta2, eps, weightDecay } = settings
      const { learningRate, gradScale } = options
      device.ops.adamw8bit(
        large.map((param, i) => ({ param, grad: gradOf.get(param)!, m: m[i]!, v: v[i]! })),
        {
          learningRate,
          beta1,
          beta2,
          eps,
          weightDecay,
          gradScale,
          step: optimizer.numbers['updates']!,
        },
      )
    },
    release() {
      exact.release()
      for (const { codes, scales } of [...m, ...v]) {
        device.release(codes)
        device.release(scales)
      }
    },
  }
  return optimizer
}

/** States of zeros, owned by the caller. */
function blockStates(device: Device, params: readonly Tensor[]): BlockState[] {
  return params.map(({ shape }) => {
    const n = numElements(shape)
    const [codes, scales] = kept(device, () => [
      device.zeros([Math.ceil(n / 4)], 'u32'),
      device.zeros([Math.ceil(n / stateBlockSize)], 'f32'),
    ])
    return { codes: codes!, scales: scales! }
  })
}
