import { numElements, type Tensor } from '@kinora/kernel-api'
import {
  copiesOf,
  moveTowards,
  zerosLike,
  type Optimizer,
  type OptimizerFactory,
} from './optimizer.ts'

/** Estimate of the rate to begin with. */
const firstD = 1e-6

/**
 * Prodigy (Mishchenko and Defazio 2023): AdamW that finds its learning rate. d estimates the distance from the first weights x₀ to
 * the solution, and the job's learning rate multiplies it (1 is usual):
 *
 *     r ← β₃ r + (d/d₀) · d·lr · ⟨g, x₀ − x⟩,   s ← β₃ s + (d/d₀) · d·lr · g,   d̂ = d_coef · r / ‖s‖₁
 *     m ← β₁ m + (1 − β₁) d g,   v ← β₂ v + (1 − β₂) d² g²
 *     x ← x − d·lr · (m / (√v + d' eps) + wd · x),   d' = max(d, d̂)
 *
 * with β₃ = √β₂ and without bias correction, as in the authors' code.
 */
export const prodigy: OptimizerFactory = (device, params, settings) => {
  const { beta1, beta2, eps, weightDecay, dCoef } = settings
  const beta3 = Math.sqrt(beta2)
  const [m, v, s] = [
    zerosLike(device, params),
    zerosLike(device, params),
    zerosLike(device, params),
  ]
  const start = copiesOf(device, params)
  const { ops } = device

  /** Σ a·b and Σ |s| of every parameter, one after another. */
  async function sums(grads: readonly Tensor[], gradScale: number): Promise<[number, number]> {
    let numbers: Tensor | undefined
    device.scope(() => {
      const parts = params.flatMap((param, i) => {
        const n = numElements(param.shape)
        const moved = ops.add(start[i]!, ops.affine(param, { scale: -1 }))
        // A linear with one row and one column is a dot product; the mean absolute error to zero is a norm.
        const dot = ops.linear(ops.reshape(grads[i]!, [1, n]), ops.reshape(moved, [1, n]))
        const norm = ops.loss(
          ops.reshape(s[i]!, [1, n]),
          ops.affine(ops.reshape(s[i]!, [1, n]), { scale: 0 }),
          { kind: 'mae' },
        )
        return [
          ops.affine(ops.reshape(dot, [1]), { scale: gradScale }),
          ops.affine(norm, { scale: n }),
        ]
      })
      numbers = device.retain(ops.concat(parts, 0))
    })
    const values = (await device.read(numbers!)) as Float32Array
    device.release(numbers!)
    let [dot, norm] = [0, 0]
    for (let i = 0; i < values.length; i += 2) {
      dot += values[i]!
      norm += values[i + 1]!
    }
    return [dot, norm]
  }

  const optimizer: Optimizer & { numbers: { d: number; dMax: number; numerator: number } } = {
    state: new Map([
      ['m', m],
      ['v', v],
      ['s', s],
      ['start', start],
    ]),
    numbers: { d: firstD, dMax: firstD, numerator: 0 },
    async update(grads, { learningRate, gradScale }) {
      const { numbers } = optimizer
      const { d } = numbers
      const rate = d * learningRate
      const weight = (d / firstD) * rate
      params.forEach((_, i) =>
        device.scope(() => {
          // s ← β₃ s + weight · g, as a move towards weight · g / (1 − β₃).
          const grad = ops.affine(grads[i]!, { scale: (gradScale * weight) / (1 - beta3) })
          moveTowards(device, s[i]!, grad, 1 - beta3)
        }),
      )
      const [dot, norm] = await sums(grads, gradScale)
      numbers.numerator = beta3 * numbers.numerator + weight * dot
      if (norm > 0) {
        const estimate = (dCoef * numbers.numerator) / norm
        if (numbers.d === firstD) numbers.d = Math.max(d, estimate)
        numbers.dMax = Math.max(numbers.dMax, estimate)
        numbers.d = numbers.dMax
      }
      ops.adamw(
        params.map((param, i) => ({ param, grad: grads[i]!, m: m[i]!, v: v[i]! })),
        {
          learningRate: rate,
          beta1,
          beta2,
          eps: numbers.d * eps,
          weightDecay,
          gradScale: gradScale * d,
          // So late that the bias corrections are 1.
          step: 1e9,
        },
      )
    },
    release: () => [...m, ...v, ...s, ...start].forEach((tensor) => device.release(tensor)),
  }
  return optimizer
}
