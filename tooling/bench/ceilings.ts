/** What an adapter's matrix units can do at most, by its name. */
export interface Ceiling {
  readonly flopsPerSecond: number
  readonly what: string
}

const ceilings: readonly (readonly [RegExp, Ceiling])[] = [
  // Measured through Dawn on an H200: products of fragments in registers and nothing else. cuBLAS reaches 811 by instructions
  // that WebGPU does not have.
  [
    /\bH[12]00\b/i,
    { flopsPerSecond: 627e12, what: 'f16 products of subgroup matrices in registers alone' },
  ],
]

/** The ceiling of a known adapter. Others are told as rates. */
export function ceilingOf(adapter: string): Ceiling | undefined {
  return ceilings.find(([name]) => name.test(adapter))?.[1]
}
