import { numElements } from '@kinora/kernel-api'
import { readTensors } from '../device-arrays.ts'
import type { Optimizer, OptimizerFactory } from './optimizer.ts'

/** Added to the squared gradient. */
const eps1 = 1e-30

/**
 * Adafactor (Shazeer and Stern 2018) with a given learning rate, no first moment and no scaling by the weights, as AI Toolkit has
 * it. The second moment of a matrix is kept as row means R and column means C:
 *
 *     R ← β R + (1 − β) mean_c(g² + ε),   C ← β C + (1 − β) mean_r(g² + ε),   β = 1 − t^decayRate
 *     u = g / √(R Cᵀ / mean(R)),   u ← u / max(1, rms(u) / clipThreshold),   p ← p − lr · (u + wd · p)
 *
 * Its arithmetic is on the host: a LoRA is small beside the networks, and no op of a device has row means of squares.
 */
export const adafactor: OptimizerFactory = (device, params, settings) => {
  const { weightDecay, clipThreshold, decayRate } = settings
  const rows = params.map(({ shape }) => new Float32Array(shape[0]!))
  const columns = params.map(({ shape }) => new Float32Array(shape[1]!))
  const optimizer: Optimizer & { numbers: { updates: number } } = {
    state: new Map([
      ['rows', rows],
      ['columns', columns],
    ]),
    numbers: { updates: 0 },
    async update(grads, { learningRate, gradScale }) {
      const beta = 1 - (++optimizer.numbers.updates) ** decayRate
      const [gradValues, paramValues] = await Promise.all([
        readTensors(device, grads),
        readTensors(device, params),
      ])
      params.forEach((param, i) => {
        const update = factoredUpdate(gradValues[i]!, gradScale, rows[i]!, columns[i]!, beta)
        let squares = 0
        for (const value of update) squares += value * value
        const rms = Math.sqrt(squares / numElements(param.shape))
        const rate = learningRate / Math.max(1, rms / clipThreshold)
        const values = paramValues[i]!
        for (let j = 0; j < values.length; j++) {
          const decayed = values[j]! - learningRate * weightDecay * values[j]!
          values[j] = decayed - rate * update[j]!
        }
        device.write(param, values)
      })
    },
    release: () => {},
  }
  return optimizer
}

/** Updates the factors and returns g / √(R Cᵀ / mean(R)), in the gradient's own array. */
function factoredUpdate(
  grad: Float32Array,
  gradScale: number,
  rows: Float32Array,
  columns: Float32Array,
  beta: number,
): Float32Array {
  const [numRows, numColumns] = [rows.length, columns.length]
  const columnSums = new Float64Array(numColumns)
  for (let r = 0; r < numRows; r++) {
    let sum = 0
    for (let c = 0; c < numColumns; c++) {
      const g = grad[r * numColumns + c]! * gradScale
      const square = g * g + eps1
      sum += square
      columnSums[c]! += square
    }
    rows[r] = beta * rows[r]! + (1 - beta) * (sum / numColumns)
  }
  let meanRow = 0
  for (let r = 0; r < numRows; r++) meanRow += rows[r]! / numRows
  for (let c = 0; c < numColumns; c++) {
    columns[c] = beta * columns[c]! + (1 - beta) * (columnSums[c]! / numRows)
  }
  for (let r = 0; r < numRows; r++) {
    const rowFactor = gradScale / Math.sqrt(rows[r]! / meanRow)
    for (let c = 0; c < numColumns; c++) {
      grad[r * numColumns + c]! *= rowFactor / Math.sqrt(columns[c]!)
    }
  }
  return grad
}
