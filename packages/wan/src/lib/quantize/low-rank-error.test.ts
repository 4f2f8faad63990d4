import { openDevice, type CpuDevice } from '@kinora/cpu-kernels'
import { normals, type PackedWeight } from '@kinora/kernel-api'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { correctError, orthonormalRows, symmetricEigen } from './low-rank-error.ts'

let device: CpuDevice
beforeAll(async () => {
  device = await openDevice()
})
afterAll(() => device.destroy())

const [n, k] = [96, 128]

/** W = Ŵ + E with a known E of rank 3 and singular values 5, 2, 1 beside a little noise. */
async function knownError(noise: number) {
  const coarse = device.upload(normals(1, 0, n * k), [n, k], 'f32')
  const packed = device.ops.quantize(coarse, 'uint4')
  device.release(coarse)
  const left = orthonormalRows(normals(2, 0, 3 * n), 3, n)
  const right = orthonormalRows(normals(2, 1, 3 * k), 3, k)
  const error = normals(2, 2, n * k).map((value) => value * noise)
  for (const [i, sigma] of [5, 2, 1].entries()) {
    for (let o = 0; o < n; o++) {
      for (let c = 0; c < k; c++) error[o * k + c]! += sigma * left[i * n + o]! * right[i * k + c]!
    }
  }
  const identity = Float32Array.from({ length: k * k }, (_, i) => (i % (k + 1) === 0 ? 1 : 0))
  const transposed = device.ops.linear(device.upload(identity, [k, k], 'f32'), packed)
  const restored = (await device.read(device.ops.permute(transposed, [1, 0]))) as Float32Array
  const dense = device.upload(
    restored.map((value, i) => value + error[i]!),
    [n, k],
    'f32',
  )
  return { dense, packed, error }
}

/** ‖(E − B A) D‖ / ‖E D‖ */
function leftOver(
  error: Float32Array,
  { a, b, rank }: { a: Float32Array; b: Float32Array; rank: number },
  d?: Float32Array,
): number {
  let left = 0
  let all = 0
  for (let o = 0; o < n; o++) {
    for (let c = 0; c < k; c++) {
      let corrected = 0
      for (let i = 0; i < rank; i++) corrected += b[o * rank + i]! * a[i * k + c]!
      const size = d?.[c] ?? 1
      left += ((error[o * k + c]! - corrected) * size) ** 2
      all += (error[o * k + c]! * size) ** 2
    }
  }
  return Math.sqrt(left / all)
}

describe('the correction of a packing error', () => {
  it('is the error itself where that has the rank', async () => {
    const { dense, packed, error } = await knownError(0)
    const three = await correctError(device, dense, packed, { rank: 3, seed: 1, stream: 0 })
    expect(leftOver(error, three)).toBeLessThan(1e-4)
    expect(three.recovered).toBeGreaterThan(0.5)
    // Of rank 1 it takes the largest: what is left is √(4 + 1) of √(25 + 4 + 1).
    const one = await correctError(device, dense, packed, { rank: 1, seed: 1, stream: 0 })
    expect(leftOver(error, one)).toBeCloseTo(Math.sqrt(5 / 30), 4)
    expect(Math.hypot(...one.a)).toBeCloseTo(Math.hypot(...one.b), 3)
  })

  it('is nearly the best there is for an error without structure, and is the same from the same seed', async () => {
    const { dense, packed, error } = await knownError(0.2)
    const options = { rank: 16, seed: 5, stream: 2 }
    const found = await correctError(device, dense, packed, options)
    // The best from the eigenvalues of E Eᵀ.
    const gram = new Float64Array(n * n)
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0
        for (let c = 0; c < k; c++) sum += error[i * k + c]! * error[j * k + c]!
        gram[i * n + j] = sum
      }
    }
    const { values } = symmetricEigen(gram, n)
    const total = values.reduce((a, b) => a + b, 0)
    const best = Math.sqrt(values.subarray(16).reduce((a, b) => a + b, 0) / total)
    expect(leftOver(error, found)).toBeGreaterThan(best - 1e-6)
    expect(leftOver(error, found)).toBeLessThan(1.02 * best)
    expect(found.recovered).toBeCloseTo(1 - best ** 2, 1)
    expect(await correctError(device, dense, packed, options)).toEqual(found)
  })

  it('spends itself on the channels that are large', async () => {
    const { dense, packed, error } = await knownError(0.2)
    const d = Float32Array.from({ length: k }, (_, c) => (c < 8 ? 10 : 0.5))
    const options = { rank: 8, seed: 5, stream: 2 }
    const plain = await correctError(device, dense, packed, options)
    const weighted = await correctError(device, dense, packed, { ...options, channelSize: d })
    expect(leftOver(error, weighted, d)).toBeLessThan(0.8 * leftOver(error, plain, d))
    expect(leftOver(error, weighted)).toBeGreaterThan(leftOver(error, plain))
    // A channel of size 0 does not make it infinite.
    const silent = await correctError(device, dense, packed, {
      ...options,
      channelSize: d.map((size, c) => (c === 3 ? 0 : size)),
    })
    expect([...silent.a, ...silent.b].every(Number.isFinite)).toBe(true)
  })

  it('is nothing for a weight that was packed without loss, and for a sketch as large as the matrix', async () => {
    const zeros = device.zeros([8, 64], 'f32')
    const packed: PackedWeight = device.ops.quantize(zeros, 'uint4')
    const { a, b, rank, recovered } = await correctError(device, zeros, packed, {
      rank: 32,
      seed: 1,
      stream: 0,
    })
    expect([rank, recovered]).toEqual([8, 0])
    expect([...a, ...b].every((value) => value === 0)).toBe(true)
  })
})

describe('symmetricEigen', () => {
  it('gives orthonormal vectors and their values, largest first', () => {
    const l = 12
    const x = normals(9, 0, l * l)
    const m = new Float64Array(l * l)
    for (let i = 0; i < l; i++)
      for (let j = 0; j < l; j++) m[i * l + j] = x[i * l + j]! + x[j * l + i]!
    const { values, vectors } = symmetricEigen(m, l)
    for (let i = 0; i < l; i++) {
      if (i > 0) expect(values[i]).toBeLessThanOrEqual(values[i - 1]!)
      for (let row = 0; row < l; row++) {
        let product = 0
        for (let c = 0; c < l; c++) product += m[row * l + c]! * vectors[i * l + c]!
        expect(product).toBeCloseTo(values[i]! * vectors[i * l + row]!, 9)
      }
    }
  })
})
