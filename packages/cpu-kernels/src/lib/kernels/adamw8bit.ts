import { blockStateNumbers, stateBlockSize, type AdamWOptions } from '@kinora/kernel-api'
import type { FloatArray } from '../memory.ts'

/** A state of 8-bit numbers: four codes a word, a scale a block. */
export interface StateArrays {
  codes: Uint32Array
  scales: FloatArray
}

/** Numbers by code, and halfway between each and the next: what is above rounds up. */
const tables = {
  signed: numbersOf('signed'),
  unsigned: numbersOf('unsigned'),
} as const

interface Numbers {
  values: Float64Array
  middles: Float64Array
  /** Least code that a positive number takes. */
  leastPositive: number
}

function numbersOf(kind: 'signed' | 'unsigned'): Numbers {
  const values = Float64Array.from(blockStateNumbers[kind])
  return {
    values,
    middles: Float64Array.from({ length: 255 }, (_, i) => (values[i]! + values[i + 1]!) / 2),
    leastPositive: kind === 'signed' ? 0 : 1,
  }
}

/** Code of the nearest number; of two, that of the smaller magnitude. */
function codeOf({ middles, leastPositive }: Numbers, x: number): number {
  let [low, high] = [0, 255]
  while (low < high) {
    const at = (low + high) >> 1
    if (x > middles[at]! || (x === middles[at]! && x < 0)) low = at + 1
    else high = at
  }
  return x > 0 ? Math.max(low, leastPositive) : low
}

/** One parameter's update, in place; the equations are in kernel-api's `adamw8bit`. */
export function adamw8bit(
  param: FloatArray,
  grad: FloatArray,
  m: StateArrays,
  v: StateArrays,
  { learningRate, beta1, beta2, eps, weightDecay, step, gradScale }: AdamWOptions,
): void {
  const correction1 = 1 - beta1 ** step
  const correction2 = 1 - beta2 ** step
  const means = new Float64Array(stateBlockSize)
  const squares = new Float64Array(stateBlockSize)
  const byteAt = ({ codes }: StateArrays, i: number): number =>
    (codes[i >> 2]! >>> (8 * (i & 3))) & 0xff
  for (let start = 0, block = 0; start < param.length; start += stateBlockSize, block++) {
    const count = Math.min(stateBlockSize, param.length - start)
    const [meanScale, squareScale] = [m.scales[block]!, v.scales[block]!]
    for (let j = 0; j < count; j++) {
      const i = start + j
      const g = grad[i]! * gradScale
      const mean = beta1 * (tables.signed.values[byteAt(m, i)]! * meanScale) + (1 - beta1) * g
      const square =
        beta2 * (tables.unsigned.values[byteAt(v, i)]! * squareScale) + (1 - beta2) * g * g
      means[j] = mean
      squares[j] = square
      const decayed = param[i]! * (1 - learningRate * weightDecay)
      param[i] =
        decayed - (learningRate * (mean / correction1)) / (Math.sqrt(square / correction2) + eps)
    }
    store(means, count, tables.signed, m, start, block)
    store(squares, count, tables.unsigned, v, start, block)
  }
}

function store(
  values: Float64Array,
  count: number,
  numbers: Numbers,
  { codes, scales }: StateArrays,
  start: number,
  block: number,
): void {
  let largest = 0
  for (let j = 0; j < count; j++) largest = Math.max(largest, Math.abs(values[j]!))
  scales[block] = largest
  const inverse = scales[block] === 0 ? 0 : 1 / scales[block]!
  for (let j = 0; j < count; j += 4) {
    let word = 0
    for (let k = 0; k < Math.min(4, count - j); k++) {
      word |= codeOf(numbers, values[j + k]! * inverse) << (8 * k)
    }
    codes[(start + j) >> 2] = word >>> 0
  }
}
