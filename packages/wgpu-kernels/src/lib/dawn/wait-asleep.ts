/** Longest nap, in milliseconds: what a wait may be late by. */
const LONGEST_NAP = 1

const never = new Int32Array(new SharedArrayBuffer(4))

/**
 * Waits for a promise of Dawn without spinning. While one is pending, Dawn's Node binding polls in every turn of the event
 * loop, which keeps a core busy: on a software adapter, one of those that compute. Sleeping a little in each turn leaves it
 * to them; timers and I/O still run between naps.
 */
export async function waitAsleep<T>(promise: Promise<T>): Promise<T> {
  let done = false
  let nap = LONGEST_NAP / 16
  const turn = (): void => {
    if (done) return
    Atomics.wait(never, 0, 0, nap)
    nap = Math.min(LONGEST_NAP, nap * 1.5)
    setImmediate(turn)
  }
  setImmediate(turn)
  try {
    return await promise
  } finally {
    done = true
  }
}
