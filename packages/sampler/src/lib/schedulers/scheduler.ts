/** Where a sampler evaluates the velocity, from noise to clip. */
export interface Schedule {
  /** One per step, on the model's 0 to 1000 scale: goes to the transformer and decides which expert is asked. */
  readonly timesteps: readonly number[]
  /** One more than steps, the last 0: what the solver computes with. */
  readonly sigmas: readonly number[]
}

/** A solver in the middle of one clip. It keeps its own history; steps are taken in order. */
export interface Solver {
  readonly schedule: Schedule
  /**
   * The state after the next step.
   *
   * @param latents the state that the velocity was evaluated at
   * @param velocity prediction of noise − clip, guidance applied
   */
  step(latents: Float32Array, velocity: Float32Array): Float32Array
}

export interface SchedulerOptions {
  numSteps: number
  /** Moves the steps towards the noisy end: σ' = shift σ / (1 + (shift − 1) σ). 1 leaves them even. */
  shift: number
}

/** Makes a solver for one clip. */
export type CreateSolver = (options: SchedulerOptions) => Solver

/** σ' = s σ / (1 + (s − 1) σ). */
export function shiftSigma(sigma: number, shift: number): number {
  return (shift * sigma) / (1 + (shift - 1) * sigma)
}

/** Both diffusers classes keep their sigmas as f32, and compute with what is left. */
export function roundedSigmas(sigmas: readonly number[]): number[] {
  return [...sigmas, 0].map(Math.fround)
}
