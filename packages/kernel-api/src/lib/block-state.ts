// The numbers of 8-bit optimiser states: the dynamic tree data type (Dettmers 2015), as bitsandbytes lays it out. Seven decades
// down from 1, each divided twice as finely as the one below it; a number is the middle of its part.

/** Elements that share a scale. */
export const stateBlockSize = 256

/** parts · [0.1, 1] · 10^(decade − 6), each the middle of its part. */
const decadesOf = (partsOfFirst: number): number[] =>
  Array.from({ length: 7 }, (_, decade) => {
    const parts = partsOfFirst * 2 ** decade
    return Array.from(
      { length: parts },
      (_, part) => (0.1 + (0.9 * (part + 0.5)) / parts) * 10 ** (decade - 6),
    )
  }).flat()

/**
 * The 256 numbers by code, ascending, exact to f64. Signed: 127 negative ones, 0 (code 127), 127 positive ones and 1. Unsigned:
 * 0, 254 positive ones and 1.
 */
export const blockStateNumbers: Readonly<Record<'signed' | 'unsigned', readonly number[]>> = {
  signed: (() => {
    const magnitudes = decadesOf(1)
    return [...magnitudes.map((value) => -value).reverse(), 0, ...magnitudes, 1]
  })(),
  unsigned: [0, ...decadesOf(2), 1],
}
