import {
  roundedSigmas,
  shiftSigma,
  type CreateSolver,
  type Schedule,
  type SchedulerOptions,
} from './scheduler.ts'

// UniPC (Zhao et al. 2023, "UniPC: a unified predictor-corrector framework"), order 2, B(h) of the second kind, predicting the
// clip, for flow matching: x_σ = (1 − σ) x0 + σ ε, so α = 1 − σ, λ = ln α − ln σ, x0 = x − σ v. Coefficients are f64, states f32.
//
// Each step first corrects the state that the predictor left, now that the model has been asked there, then predicts the next.

/** Keeps λ finite at the first step, where σ is 1. */
const firstSigmaMargin = 1e-6

/** As diffusers' UniPCMultistepScheduler with flow sigmas: σ = 1 − 0.999 i/N, shifted; timesteps cut to whole numbers. */
function unipcSchedule({ numSteps, shift }: SchedulerOptions): Schedule {
  const sigmas = Array.from({ length: numSteps }, (_, i) =>
    shiftSigma(1 - (0.999 * i) / numSteps, shift),
  )
  if (Math.abs(sigmas[0]! - 1) < firstSigmaMargin) sigmas[0]! -= firstSigmaMargin
  return {
    sigmas: roundedSigmas(sigmas),
    timesteps: sigmas.map((sigma) => Math.trunc(1000 * sigma)),
  }
}

const lambda = (sigma: number) => Math.log(1 - sigma) - Math.log(sigma)

export const createUniPC: CreateSolver = (options) => {
  const schedule = unipcSchedule(options)
  const { sigmas } = schedule
  const numSteps = options.numSteps
  let index = 0
  /** Predicted clips, newest first: m_{i−1}, m_{i−2}. */
  let clips: Float32Array[] = []
  /** The state before the last prediction, corrected: xc_{i−1}. */
  let before: Float32Array | undefined
  /** Order of the prediction that made the present state. */
  let lastOrder = 0

  return {
    schedule,
    step(latents, velocity) {
      const i = index++
      const sigma = sigmas[i]!
      const clip = latents.map((x, j) => x - sigma * velocity[j]!)
      const corrected = before ? correct(sigmas, i, lastOrder, before, clip, clips) : latents
      const order = Math.min(2, numSteps - i, i + 1)
      const next = predict(sigmas, i, order, corrected, clip, clips[0])
      before = corrected
      lastOrder = order
      clips = [clip, clips[0] ?? clip]
      return next
    },
  }
}

/** UniC: from xc_{i−1} to xc_i, with the clip predicted at both ends (and, at order 2, at i − 2). */
function correct(
  sigmas: readonly number[],
  i: number,
  order: number,
  before: Float32Array,
  clip: Float32Array,
  [clip1, clip2]: readonly Float32Array[],
): Float32Array {
  const h = lambda(sigmas[i]!) - lambda(sigmas[i - 1]!)
  const e = Math.expm1(-h)
  const alpha = 1 - sigmas[i]!
  const ratio = sigmas[i]! / sigmas[i - 1]!
  if (order === 1) {
    return before.map((x, j) => {
      const m1 = clip1![j]!
      return ratio * x - alpha * e * (m1 + 0.5 * (clip[j]! - m1))
    })
  }
  const r = (lambda(sigmas[i - 2]!) - lambda(sigmas[i - 1]!)) / h
  // Two equations in ρ: the weights of the difference to i − 2 and of the difference to i.
  const k = -h
  const f2 = e / k - 1
  const f3 = f2 / k - 0.5
  const b1 = f2 / e
  const b2 = (2 * f3) / e
  const rho1 = (b1 - b2) / (1 - r)
  const rho2 = b1 - rho1
  return before.map((x, j) => {
    const m1 = clip1![j]!
    const slope = (clip2![j]! - m1) / r
    return ratio * x - alpha * e * (m1 + rho1 * slope + rho2 * (clip[j]! - m1))
  })
}

/** UniP: from xc_i to x_{i+1}. */
function predict(
  sigmas: readonly number[],
  i: number,
  order: number,
  corrected: Float32Array,
  clip: Float32Array,
  clip1: Float32Array | undefined,
): Float32Array {
  const sigma = sigmas[i]!
  const next = sigmas[i + 1]!
  if (next === 0) return clip
  const h = lambda(next) - lambda(sigma)
  const e = Math.expm1(-h)
  const alpha = 1 - next
  const ratio = next / sigma
  if (order === 1) return corrected.map((x, j) => ratio * x - alpha * e * clip[j]!)
  const r = (lambda(sigmas[i - 1]!) - lambda(sigma)) / h
  return corrected.map((x, j) => {
    const m0 = clip[j]!
    return ratio * x - alpha * e * (m0 + (0.5 * (clip1![j]! - m0)) / r)
  })
}
