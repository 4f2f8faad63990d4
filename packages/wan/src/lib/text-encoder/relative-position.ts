/**
 * The bucket of a relative position (key − query): half of the buckets for keys before, half for keys after; in each half the
 * nearest distances have a bucket of their own, the others share logarithmically growing ones up to `maxDistance` (Raffel et
 * al. 2020, "Exploring the limits of transfer learning").
 */
function relativeBucket(relative: number, numBuckets: number, maxDistance: number): number {
  const half = numBuckets / 2
  const exact = half / 2
  const distance = Math.abs(relative)
  const side = relative > 0 ? half : 0
  if (distance < exact) return side + distance
  const logarithmic = (Math.log(distance / exact) / Math.log(maxDistance / exact)) * (half - exact)
  // Where the logarithm is a whole number in exact arithmetic it must not fall below it.
  return side + Math.min(half - 1, exact + Math.floor(logarithmic + 1e-9))
}

/** Buckets of all pairs of n positions, row-major [query, key]. */
export function relativeBuckets(n: number, numBuckets: number, maxDistance: number): Uint32Array {
  const byOffset = Uint32Array.from({ length: 2 * n - 1 }, (_, i) =>
    relativeBucket(i - (n - 1), numBuckets, maxDistance),
  )
  const out = new Uint32Array(n * n)
  for (let query = 0; query < n; query++) {
    for (let key = 0; key < n; key++) out[query * n + key] = byOffset[key - query + n - 1]!
  }
  return out
}
