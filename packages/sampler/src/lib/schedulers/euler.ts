import {
  roundedSigmas,
  shiftSigma,
  type CreateSolver,
  type Schedule,
  type SchedulerOptions,
} from './scheduler.ts'

/**
 * diffusers' FlowMatchEulerDiscreteScheduler: timesteps evenly from 1000 to 1000 · shift(0.001), shifted once more (its
 * constructor shifts the ends, `set_timesteps` the whole), then x += (σ' − σ) v.
 */
export const createEuler: CreateSolver = (options) => eulerSolver(eulerSchedule(options))

/** Euler over σ = 1 − i/N, shifted once: what the 4-step distillation LoRAs were made for. */
export const createEulerLinear: CreateSolver = (options) => eulerSolver(linearSchedule(options))

function eulerSchedule({ numSteps, shift }: SchedulerOptions): Schedule {
  const last = shiftSigma(1 / 1000, shift)
  return scheduleOf(
    Array.from({ length: numSteps }, (_, i) => {
      const even = numSteps === 1 ? 1 : 1 + ((last - 1) * i) / (numSteps - 1)
      return shiftSigma(even, shift)
    }),
  )
}

function linearSchedule({ numSteps, shift }: SchedulerOptions): Schedule {
  return scheduleOf(Array.from({ length: numSteps }, (_, i) => shiftSigma(1 - i / numSteps, shift)))
}

function scheduleOf(sigmas: readonly number[]): Schedule {
  return {
    sigmas: roundedSigmas(sigmas),
    timesteps: sigmas.map((sigma) => Math.fround(1000 * sigma)),
  }
}

function eulerSolver(schedule: Schedule): ReturnType<CreateSolver> {
  let index = 0
  return {
    schedule,
    step(latents, velocity) {
      const distance = schedule.sigmas[index + 1]! - schedule.sigmas[index]!
      index++
      return latents.map((x, i) => x + distance * velocity[i]!)
    },
  }
}
