/**
 * Peak signal-to-noise ratio of two clips in decibels, over all frames together: 10 log10(255² / mean squared error).
 *
 * @param a frames of 8-bit samples; `b` has the same shape
 * @returns Infinity where they are equal
 */
export function psnr(a: readonly Uint8Array[], b: readonly Uint8Array[]): number {
  if (a.length !== b.length || a.length === 0) {
    throw new RangeError(`Cannot compare ${a.length} frames with ${b.length}.`)
  }
  let squares = 0
  let count = 0
  for (const [index, frame] of a.entries()) {
    const other = b[index]!
    if (frame.length !== other.length) {
      throw new RangeError(`Frame ${index} has ${frame.length} and ${other.length} samples.`)
    }
    for (let i = 0; i < frame.length; i++) squares += (frame[i]! - other[i]!) ** 2
    count += frame.length
  }
  return 10 * Math.log10(255 ** 2 / (squares / count))
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}
