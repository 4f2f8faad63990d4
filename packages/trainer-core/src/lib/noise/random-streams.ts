import { normals, uniforms } from '@kinora/kernel-api'

/** The two experts, in the order in which they take turns. */
export const experts = ['high', 'low'] as const
export type Expert = (typeof experts)[number]

// What random numbers are for. Permanent: a number changed is a run that resumes differently.
const purposes = {
  initLora: 1,
  clipOrder: 2,
  timestepStratum: 3,
  timestep: 4,
  noise: 5,
  captionDropout: 6,
  loraDropout: 7,
  posterior: 8,
  regularisationOrder: 9,
  validationNoise: 10,
  captionChoice: 11,
  guidanceTarget: 12,
  rankDropout: 13,
  moduleDropout: 14,
  captionVariants: 15,
} as const

/** What a random number is for. */
export type Purpose = keyof typeof purposes

/**
 * The stream of one draw. Each expert has its own, counted by its own steps, so that experts trained by turns and experts
 * trained side by side draw the same.
 *
 * @param index below 2^40: which draw of this purpose
 */
export function streamOf(purpose: Purpose, expert: Expert, index: number): number {
  return (purposes[purpose] * 2 + experts.indexOf(expert)) * 2 ** 40 + index
}

/** Random numbers of a run, by purpose, expert and index, and by nothing else. */
export interface RandomStreams {
  readonly seed: number
  /** Uniform in (0, 1). */
  uniforms(purpose: Purpose, expert: Expert, index: number, count: number): Float64Array
  /** Standard normal. */
  normals(purpose: Purpose, expert: Expert, index: number, count: number): Float32Array
  /** A shuffle of 0 … count − 1 (Fisher and Yates). */
  permutation(purpose: Purpose, expert: Expert, index: number, count: number): Uint32Array
}

/** @param seed integer, 0 to 2^53 − 1 */
export function createRandomStreams(seed: number): RandomStreams {
  return {
    seed,
    uniforms: (purpose, expert, index, count) =>
      uniforms(seed, streamOf(purpose, expert, index), count),
    normals: (purpose, expert, index, count) =>
      normals(seed, streamOf(purpose, expert, index), count),
    permutation(purpose, expert, index, count) {
      const order = Uint32Array.from({ length: count }, (_, i) => i)
      const u = uniforms(seed, streamOf(purpose, expert, index), count)
      for (let i = count - 1; i > 0; i--) {
        const j = Math.floor(u[i]! * (i + 1))
        const swapped = order[i]!
        order[i] = order[j]!
        order[j] = swapped
      }
      return order
    },
  }
}
