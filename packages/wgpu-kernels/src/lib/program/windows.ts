/** A range of rows, end exclusive, that fits the binding limit. */
export interface RowWindow {
  readonly start: number
  readonly end: number
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b)
}

/**
 * Cuts rows into the fewest equal ranges such that each tensor's part fits one binding and starts at an aligned offset.
 * Undefined when a single aligned step of rows is already too large.
 *
 * @param rows how many rows there are
 * @param bytesPerRow bytes a row takes in each tensor that is bound by the range
 * @param maxBindingBytes largest binding
 * @param alignment every offset is a multiple of it
 */
export function rowWindows(
  rows: number,
  bytesPerRow: readonly number[],
  maxBindingBytes: number,
  alignment: number,
): RowWindow[] | undefined {
  const widest = Math.max(...bytesPerRow)
  if (rows * widest <= maxBindingBytes) return [{ start: 0, end: rows }]
  // Smallest number of rows after which every tensor is at an aligned offset again.
  let step = 1
  for (const bytes of bytesPerRow) {
    const own = alignment / gcd(alignment, bytes)
    step = (step / gcd(step, own)) * own
  }
  const fitting = Math.floor(Math.floor(maxBindingBytes / widest) / step) * step
  if (fitting === 0) return undefined
  const count = Math.ceil(rows / fitting)
  const size = Math.ceil(Math.ceil(rows / count) / step) * step
  const windows: RowWindow[] = []
  for (let start = 0; start < rows; start += size) {
    windows.push({ start, end: Math.min(rows, start + size) })
  }
  return windows
}
