// Which elements dropout takes: a 32-bit hash that shaders compute with one multiplication a round (PCG-RXS-M-XS, O'Neill 2014).
// It need not be as good as the numbers that noise is made of, only cheap, even, and the same everywhere.

function scramble(value: number): number {
  const state = (Math.imul(value, 747796405) + 2891336453) >>> 0
  const word = Math.imul(((state >>> ((state >>> 28) + 4)) ^ state) >>> 0, 277803737) >>> 0
  return ((word >>> 22) ^ word) >>> 0
}

/** What seed and stream, both 0 to 2^53 − 1, come to: the key of `dropoutHash`. */
export function dropoutKey(seed: number, stream: number): number {
  let key = 0
  for (const value of [seed, stream]) {
    key = scramble((key ^ (value >>> 0)) >>> 0)
    key = scramble((key ^ Math.floor(value / 2 ** 32)) >>> 0)
  }
  return key
}

/** Hash of element i, 0 to 2^32 − 1. */
export function dropoutHash(key: number, i: number): number {
  return scramble((scramble(i >>> 0) ^ key) >>> 0)
}
