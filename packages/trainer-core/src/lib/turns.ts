import type { Expert } from './noise/random-streams.ts'

// Which expert a step trains. The two take turns, high first; each counts its own steps. Everything here is a function of the
// step alone, so a resumed run is where the uninterrupted one would be.

export interface TurnOptions {
  trained: readonly Expert[]
  /** Steps of two turns together are twice this; 1 or more. */
  switchEvery: number
  /** Share of the steps that the high-noise expert gets, between 0 and 1; ½ unless given. */
  highShare?: number | null | undefined
}

export interface Turn {
  expert: Expert
  /** Counts the expert's own steps, from 0. */
  expertStep: number
  /** True for the first step of a turn: the other expert may leave the device. */
  begins: boolean
}

function turnLengths({ trained, switchEvery, highShare }: TurnOptions): Record<Expert, number> {
  if (trained.length === 1) {
    return { high: trained[0] === 'high' ? 1 : 0, low: trained[0] === 'low' ? 1 : 0 }
  }
  const share = highShare ?? 0.5
  // A share too small for turns of this length makes the cycle longer rather than the share wrong.
  const cycle = Math.max(2 * switchEvery, Math.ceil(1 / Math.min(share, 1 - share)))
  const high = Math.min(Math.max(Math.round(cycle * share), 1), cycle - 1)
  return { high, low: cycle - high }
}

/** The turn of a step, counted from 0. */
export function turnAt(step: number, options: TurnOptions): Turn {
  const lengths = turnLengths(options)
  const cycle = lengths.high + lengths.low
  const within = step % cycle
  const expert = within < lengths.high ? 'high' : 'low'
  const inTurn = expert === 'high' ? within : within - lengths.high
  return {
    expert,
    expertStep: Math.floor(step / cycle) * lengths[expert] + inTurn,
    begins: step === 0 || (inTurn === 0 && options.trained.length > 1),
  }
}

/** Steps of each expert before `step`: what both have done when `step` steps are done. */
export function stepsOfExperts(step: number, options: TurnOptions): Record<Expert, number> {
  const lengths = turnLengths(options)
  const cycle = lengths.high + lengths.low
  const within = step % cycle
  const whole = Math.floor(step / cycle)
  return {
    high: whole * lengths.high + Math.min(within, lengths.high),
    low: whole * lengths.low + Math.max(within - lengths.high, 0),
  }
}
