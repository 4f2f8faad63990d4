import { openDevice, type CpuDevice } from '@kinora/cpu-kernels'
import { normals, type Tensor, type Weight } from '@kinora/kernel-api'
import type { LokrModule, LoraModule } from '@kinora/lora-files'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { columnSquares, inverseColumnLengths } from './column-lengths.ts'
import { uploadLora } from './device-lora.ts'
import { adaptedLinear, type LowRankAdapter, type ModuleAdapter } from './module-adapter.ts'

// Each kind of adapter against the dense weight that its definition makes, in f64 and plain loops.

type Matrix = number[][]
const [numRows, inFeatures, outFeatures, rank] = [3, 6, 8, 2]
let seed = 0
const values = (length: number): Float32Array => normals(1, ++seed, length)
const matrix = (data: ArrayLike<number>, rows: number, columns: number): Matrix =>
  Array.from({ length: rows }, (_, r) =>
    Array.from({ length: columns }, (__, c) => data[r * columns + c]!),
  )
const product = (p: Matrix, q: Matrix): Matrix =>
  p.map((row) => q[0]!.map((_, c) => row.reduce((sum, value, k) => sum + value * q[k]![c]!, 0)))
const plus = (p: Matrix, q: Matrix, factor = 1): Matrix =>
  p.map((row, r) => row.map((value, c) => value + factor * q[r]![c]!))
const kron = (p: Matrix, q: Matrix): Matrix =>
  p.flatMap((rowP) => q.map((rowQ) => rowP.flatMap((a) => rowQ.map((b) => a * b))))
const lengths = (w: Matrix): number[] =>
  w[0]!.map((_, c) => Math.sqrt(w.reduce((sum, row) => sum + row[c]! ** 2, 0)))

const [x, w, bias] = [
  values(numRows * inFeatures),
  values(outFeatures * inFeatures),
  values(outFeatures),
]
const dense = matrix(w, outFeatures, inFeatures)

function low(): LoraModule {
  const module = { a: values(rank * inFeatures), b: values(outFeatures * rank) }
  return { ...module, rank, inFeatures, outFeatures, alpha: 3 }
}
const deltaOf = ({ a, b }: LoraModule): Matrix =>
  product(matrix(b, outFeatures, rank), matrix(a, rank, inFeatures)).map((row) =>
    row.map((value) => value * (3 / rank)),
  )
const doraOf = (module: LoraModule): Matrix => {
  const v = plus(dense, deltaOf(module))
  const size = lengths(v)
  return v.map((row) => row.map((value, c) => (module.magnitude![c]! * value) / size[c]!))
}

let device: CpuDevice
beforeAll(async () => {
  device = await openDevice()
})
afterAll(() => device.destroy())

/** Result of the linear with some modules, each at a strength, and what a dense weight would give. */
async function compare(
  modules: readonly { module: LoraModule | LokrModule; strength: number }[],
  expected: Matrix,
): Promise<void> {
  const before = device.memory().liveBytes
  const loras = modules.map(({ module, strength }) =>
    uploadLora(
      device,
      'w1' in module
        ? { modules: new Map(), kronecker: new Map([['q', module]]), metadata: {} }
        : { modules: new Map([['q', module]]), metadata: {} },
      { strength },
    ),
  )
  const y = device.scope(() => {
    const weight = device.upload(w, [outFeatures, inFeatures], 'f32')
    const linear = { name: 'q', weight, bias: device.upload(bias, [outFeatures], 'f32') }
    const squares = columnSquares(device, weight)
    const adapters = loras.flatMap((lora) => lora.adapters.get('q')!)
    return adaptedLinear(
      device.ops,
      device.upload(x, [1, numRows, inFeatures], 'f32'),
      linear,
      adapters,
      (adapter) => inverseColumnLengths(device, weight, squares, adapter),
      'q',
    )
  })
  expect(y.shape).toEqual([1, numRows, outFeatures])
  const got = matrix((await device.read(y)) as Float32Array, numRows, outFeatures)
  const want = matrix(x, numRows, inFeatures).map((row) =>
    expected.map((weights, o) => weights.reduce((sum, v, k) => sum + v * row[k]!, bias[o]!)),
  )
  got.forEach((row, r) => row.forEach((value, o) => expect(value).toBeCloseTo(want[r]![o]!, 4)))
  device.release(y)
  for (const lora of loras) lora.release()
  expect(device.memory().liveBytes).toBe(before)
}

describe('adapters of a linear', () => {
  it('a LoKr adds the Kronecker product of its factors, w2 whole or in two', async () => {
    const sizes = { shape1: [2, 3], shape2: [4, 2], inFeatures, outFeatures } as const
    const whole: LokrModule = { ...sizes, w1: values(6), w2: values(8) }
    const change = kron(matrix(whole.w1, 2, 3), matrix(whole.w2 as Float32Array, 4, 2))
    await compare([{ module: whole, strength: 1 }], plus(dense, change))
    await compare([{ module: whole, strength: 0.4 }], plus(dense, change, 0.4))
    const [a, b] = [values(4), values(2)]
    const parts: LokrModule = { ...sizes, w1: whole.w1, w2: { a, b }, rank: 1, alpha: 0.5 }
    const second = kron(matrix(whole.w1, 2, 3), product(matrix(a, 4, 1), matrix(b, 1, 2)))
    await compare([{ module: parts, strength: 1 }], plus(dense, second, 0.5))
  })

  it('a DoRA brings the columns of the sum to its lengths, by its strength', async () => {
    const module = { ...low(), magnitude: values(inFeatures).map((value) => 1 + value ** 2) }
    const whole = doraOf(module)
    await compare([{ module, strength: 1 }], whole)
    const half = plus(
      dense.map((row) => row.map((value) => 0.5 * value)),
      whole,
      0.5,
    )
    await compare([{ module, strength: 0.5 }], half)
    const other = { ...low(), magnitude: values(inFeatures) }
    await compare(
      [
        { module, strength: 1 },
        { module: other, strength: 0.3 },
      ],
      plus(plus(whole, doraOf(other), 0.3), dense, -0.3),
    )
  })

  it('a DoRA with the lengths of the weight and no change is the weight', async () => {
    const module = {
      ...low(),
      b: new Float32Array(outFeatures * rank),
      magnitude: Float32Array.from(lengths(dense)),
    }
    await compare([{ module, strength: 1 }], dense)
  })

  it('drops elements between the two factors of a pair', async () => {
    const { a, b } = low()
    const options = { probability: 0.5, seed: 7, stream: 9 }
    const y = device.scope(() => {
      const upload = (data: Float32Array, ...shape: number[]): Tensor =>
        device.upload(data, shape, 'f32')
      const adapter: ModuleAdapter = {
        a: upload(a, rank, inFeatures),
        b: upload(b, outFeatures, rank),
        scale: 2,
        dropout: options,
      }
      const weight = upload(w, outFeatures, inFeatures)
      const none = (): never => {
        throw new Error('There is no DoRA.')
      }
      const rows = upload(x, numRows, inFeatures)
      const got = adaptedLinear(device.ops, rows, { name: 'q', weight }, [adapter], none, 'q')
      const u = device.ops.dropout(device.ops.linear(rows, adapter.a), options)
      const want = device.ops.add(
        device.ops.linear(rows, weight),
        device.ops.affine(device.ops.linear(u, adapter.b), { scale: 2 }),
      )
      return device.ops.concat([got, want], 0)
    })
    const both = await device.read(y)
    device.release(y)
    const half = both.length / 2
    both.slice(half).forEach((value, i) => expect(both[i]).toBeCloseTo(value, 5))
  })
})

describe('lengths of columns', () => {
  it.each(['f32', 'f16', 'uint4', 'float8_e4m3'] as const)('of a %s weight', async (format) => {
    const [O, K] = [1100, 64]
    const data = normals(3, 3, O * K)
    const unpacked = device.scope(() => {
      const full = device.upload(data, [O, K], 'f32')
      const weight: Weight =
        format === 'f32'
          ? full
          : format === 'f16'
            ? device.ops.cast(full, 'f16')
            : device.ops.quantize(full, format)
      const adapter: LowRankAdapter = {
        a: device.upload(normals(3, 4, 2 * K), [2, K], 'f32'),
        b: device.upload(normals(3, 5, O * 2), [O, 2], 'f32'),
        scale: 0.3,
      }
      const identity = new Float32Array(K * K)
      for (let k = 0; k < K; k++) identity[k * K + k] = 1
      const columns = device.ops.linear(device.upload(identity, [K, K], 'f32'), weight, {
        adapters: [adapter],
      })
      const squares = columnSquares(device, weight)
      return device.ops.concat(
        [
          device.ops.reshape(columns, [K * O]),
          inverseColumnLengths(device, weight, squares, adapter),
        ],
        0,
      )
    })
    const both = await device.read(unpacked)
    device.release(unpacked)
    for (let k = 0; k < K; k++) {
      let sum = 0
      for (let o = 0; o < O; o++) sum += both[k * O + o]! ** 2
      expect(both[K * O + k]! * Math.sqrt(sum)).toBeCloseTo(1, 4)
    }
  })
})
