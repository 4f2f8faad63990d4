/**
 * The sinusoid of each timestep, cosines first: [cos(t ω_j), sin(t ω_j)] with ω_j = 10000^(−j / half), half = freqDim / 2.
 *
 * @param timesteps 0 to 1000
 * @returns row-major [timesteps.length, freqDim]
 */
export function timestepSinusoid(timesteps: readonly number[], freqDim: number): Float32Array {
  const half = freqDim / 2
  const out = new Float32Array(timesteps.length * freqDim)
  for (const [row, t] of timesteps.entries()) {
    for (let j = 0; j < half; j++) {
      const angle = t * 10_000 ** (-j / half)
      out[row * freqDim + j] = Math.cos(angle)
      out[row * freqDim + half + j] = Math.sin(angle)
    }
  }
  return out
}
