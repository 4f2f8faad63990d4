import { openDevice, type CpuDevice } from '@kinora/cpu-kernels'
import { normals, type Tensor } from '@kinora/kernel-api'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MovingAverage } from './moving-average.ts'
import { optimizersByName } from './optimizers.ts'
import type { OptimizerSettings, StateArray } from './optimizer.ts'

// Fifty updates of each optimiser on a small problem against its definition in f64, written here once more from the papers.

const [rows, columns] = [3, 5]
const n = rows * columns
const numUpdates = 50
const settings: OptimizerSettings = {
  beta1: 0.9,
  beta2: 0.99,
  eps: 1e-6,
  weightDecay: 0.05,
  dCoef: 1.5,
  clipThreshold: 0.8,
  decayRate: -0.8,
  warmupSteps: 10,
  min8bitSize: 1,
}
const learningRates = (step: number): number => 0.02 * (1 - step / 100)
const gradScale = 0.7

/** Small, so that the first steps of Prodigy, a millionth each, are not lost in the rounding of f32. */
const start = Float64Array.from(normals(1, 1, n), (value) => Math.fround(value * 1e-3))
const target = Float64Array.from(normals(2, 1, n))
/** Gradient of a quadratic with a different curvature for each weight, and some noise. */
const gradient = (p: ArrayLike<number>, step: number): Float64Array => {
  const noise = normals(3, step, n)
  return Float64Array.from(
    { length: n },
    (_, i) => (1 + i) * (p[i]! - target[i]!) * 0.3 + 0.2 * noise[i]!,
  )
}

type Reference = (p: Float64Array, g: Float64Array, step: number, lr: number) => void
const { beta1, beta2, eps, weightDecay: wd } = settings

const references: Record<
  string,
  () => { update: Reference; saved?: (p: Float64Array) => Float64Array }
> = {
  adamw() {
    const [m, v] = [new Float64Array(n), new Float64Array(n)]
    return {
      update(p, g, t, lr) {
        for (let i = 0; i < n; i++) {
          p[i]! -= lr * wd * p[i]!
          m[i] = beta1 * m[i]! + (1 - beta1) * g[i]!
          v[i] = beta2 * v[i]! + (1 - beta2) * g[i]! ** 2
          p[i]! -= (lr * (m[i]! / (1 - beta1 ** t))) / (Math.sqrt(v[i]! / (1 - beta2 ** t)) + eps)
        }
      },
    }
  },
  lion() {
    const m = new Float64Array(n)
    return {
      update(p, g, _t, lr) {
        for (let i = 0; i < n; i++) {
          const c = beta1 * m[i]! + (1 - beta1) * g[i]!
          p[i]! -= lr * (Math.sign(c) + wd * p[i]!)
          m[i] = beta2 * m[i]! + (1 - beta2) * g[i]!
        }
      },
    }
  },
  schedule_free_adamw() {
    const [z, x, v] = [start.slice(), start.slice(), new Float64Array(n)]
    let sum = 0
    return {
      update(y, g, t, lr) {
        const rate = lr * Math.min(1, t / settings.warmupSteps)
        sum += rate ** 2
        const c = rate ** 2 / sum
        for (let i = 0; i < n; i++) {
          v[i] = beta2 * v[i]! + (1 - beta2) * g[i]! ** 2
          z[i]! -= rate * (g[i]! / (Math.sqrt(v[i]! / (1 - beta2 ** t)) + eps) + wd * y[i]!)
          x[i] = (1 - c) * x[i]! + c * z[i]!
          y[i] = beta1 * x[i]! + (1 - beta1) * z[i]!
        }
      },
      saved: () => x,
    }
  },
  prodigy() {
    const [m, v, s] = [new Float64Array(n), new Float64Array(n), new Float64Array(n)]
    const [d0, beta3] = [1e-6, Math.sqrt(beta2)]
    let [d, dMax, numerator] = [d0, d0, 0]
    return {
      update(p, g, _t, lr) {
        const dlr = d * lr
        numerator *= beta3
        let norm = 0
        for (let i = 0; i < n; i++) {
          numerator += (d / d0) * dlr * g[i]! * (start[i]! - p[i]!)
          m[i] = beta1 * m[i]! + d * (1 - beta1) * g[i]!
          v[i] = beta2 * v[i]! + d * d * (1 - beta2) * g[i]! ** 2
          s[i] = beta3 * s[i]! + (d / d0) * dlr * g[i]!
          norm += Math.abs(s[i]!)
        }
        const estimate = (settings.dCoef * numerator) / norm
        if (d === d0) d = Math.max(d, estimate)
        dMax = Math.max(dMax, estimate)
        d = dMax
        for (let i = 0; i < n; i++) {
          p[i]! -= wd * dlr * p[i]!
          p[i]! -= (dlr * m[i]!) / (Math.sqrt(v[i]!) + d * eps)
        }
      },
    }
  },
  adafactor() {
    const [r, c] = [new Float64Array(rows), new Float64Array(columns)]
    return {
      update(p, g, t, lr) {
        const beta = 1 - t ** settings.decayRate
        const square = g.map((value) => value ** 2 + 1e-30)
        for (let i = 0; i < rows; i++) {
          const mean =
            square.subarray(i * columns, (i + 1) * columns).reduce((a, b) => a + b) / columns
          r[i] = beta * r[i]! + (1 - beta) * mean
        }
        for (let j = 0; j < columns; j++) {
          let mean = 0
          for (let i = 0; i < rows; i++) mean += square[i * columns + j]! / rows
          c[j] = beta * c[j]! + (1 - beta) * mean
        }
        const meanRow = r.reduce((a, b) => a + b) / rows
        const u = g.map((value, k) => {
          const [i, j] = [Math.floor(k / columns), k % columns]
          return value / Math.sqrt((r[i]! * c[j]!) / meanRow)
        })
        const rms = Math.sqrt(u.reduce((a, b) => a + b ** 2, 0) / n)
        for (let i = 0; i < n; i++) {
          p[i]! -= lr * wd * p[i]!
          p[i]! -= (lr * u[i]!) / Math.max(1, rms / settings.clipThreshold)
        }
      },
    }
  },
}

/** bitsandbytes' dynamic map, as its authors build it: ascending, 256 numbers. */
function dynamicMap(signed: boolean): number[] {
  const numbers = [0, 1]
  for (let decade = 0; decade < 7; decade++) {
    const parts = 2 ** (signed ? decade : decade + 1)
    const edge = (i: number): number => 0.1 + (0.9 * i) / parts
    for (let i = 0; i < parts; i++) {
      const middle = (10 ** (decade - 6) * (edge(i) + edge(i + 1))) / 2
      numbers.push(middle, ...(signed ? [-middle] : []))
    }
  }
  return numbers.sort((a, b) => a - b)
}

/** Rounds to the nearest number of a block that is as long as the parameter. */
function rounding(signed: boolean): (values: Float64Array) => Float64Array {
  const map = dynamicMap(signed)
  expect(map).toHaveLength(256)
  return (values) => {
    const scale = Math.max(...values.map(Math.abs))
    return values.map((value) => {
      const choices = signed || value === 0 ? map : map.slice(1)
      return (
        scale *
        choices.reduce((a, b) =>
          Math.abs(b - value / scale) < Math.abs(a - value / scale) ? b : a,
        )
      )
    })
  }
}

references['adamw8bit'] = () => {
  const rule: Record<'m' | 'v', Float64Array> = {
    m: new Float64Array(n),
    v: new Float64Array(n),
  }
  const [roundM, roundV] = [rounding(true), rounding(false)]
  return {
    update(p, g, t, lr) {
      for (let i = 0; i < n; i++) {
        p[i]! -= lr * wd * p[i]!
        rule.m[i] = beta1 * rule.m[i]! + (1 - beta1) * g[i]!
        rule.v[i] = beta2 * rule.v[i]! + (1 - beta2) * g[i]! ** 2
        const size = Math.sqrt(rule.v[i]! / (1 - beta2 ** t)) + eps
        p[i]! -= (lr * (rule.m[i]! / (1 - beta1 ** t))) / size
      }
      rule.m = roundM(rule.m)
      rule.v = roundV(rule.v)
    },
  }
}

let device: CpuDevice
beforeAll(async () => {
  device = await openDevice()
})
afterAll(() => device.destroy())

const rateOf = (name: string, step: number): number =>
  learningRates(step) * (name === 'prodigy' ? 50 : 1)

async function copyState(arrays: readonly StateArray[]): Promise<(Float32Array | Uint32Array)[]> {
  return Promise.all(
    arrays.map(async (array) =>
      array instanceof Float32Array
        ? array.slice()
        : ((await device.read(array)) as Float32Array | Uint32Array),
    ),
  )
}

describe.each(Object.keys(optimizersByName))('%s', (name) => {
  it('is its definition over fifty updates, and goes on from its written state to the last bit', async () => {
    const before = device.memory().liveBytes
    const factory = optimizersByName[name as keyof typeof optimizersByName]
    const upload = (values: Float64Array | Float32Array): Tensor =>
      device.upload(Float32Array.from(values), [rows, columns], 'f32')
    const param = upload(start)
    let optimizer = factory(device, [param], settings)
    const expected = start.slice()
    const reference = references[name]!()
    for (let step = 1; step <= numUpdates; step++) {
      const lr = rateOf(name, step)
      // Both see the reference's gradient: what is compared is the rule, not how a problem amplifies rounding.
      const g = gradient(expected, step)
      const grad = upload(g)
      await optimizer.update([grad], { learningRate: lr, gradScale })
      device.release(grad)
      reference.update(
        expected,
        g.map((value) => value * gradScale),
        step,
        lr,
      )
      if (step === 23) {
        const state = new Map<string, (Float32Array | Uint32Array)[]>()
        for (const [key, arrays] of optimizer.state) state.set(key, await copyState(arrays))
        const numbers = { ...optimizer.numbers }
        optimizer.release()
        optimizer = factory(device, [param], settings)
        for (const [key, arrays] of optimizer.state) {
          arrays.forEach((array, i) => {
            const values = state.get(key)![i]!
            if (array instanceof Float32Array) array.set(values)
            else device.write(array, values)
          })
        }
        Object.assign(optimizer.numbers, numbers)
      }
    }
    const compare = async (tensor: Tensor, values: Float64Array) => {
      const found = (await device.read(tensor)) as Float32Array
      found.forEach((value, i) => expect(Math.abs(value - values[i]!)).toBeLessThan(2e-5))
      // It moved, and not all weights alike.
      expect(
        new Set(found.map((value, i) => Math.round(1e4 * (value - start[i]!)))).size,
      ).toBeGreaterThan(2)
    }
    await compare(param, expected)
    const finished = optimizer.finishedParams?.()
    expect(finished !== undefined).toBe(reference.saved !== undefined)
    for (const tensor of finished ?? []) {
      await compare(tensor, reference.saved!(expected))
      device.release(tensor)
    }
    device.release(param)
    optimizer.release()
    expect(device.memory().liveBytes).toBe(before)
  })
})

it('a moving average is its definition over fifty updates', async () => {
  const param = device.upload(Float32Array.from(start), [n], 'f32')
  const average = new MovingAverage(device, [param], 0.95)
  let expected = start.slice()
  for (let step = 1; step <= numUpdates; step++) {
    const weights = gradient(start, step)
    device.write(param, Float32Array.from(weights))
    average.update([param])
    expected = expected.map((s, i) => s - 0.05 * (s - weights[i]!))
  }
  const found = (await device.read(average.params[0]!)) as Float32Array
  found.forEach((value, i) => expect(value).toBeCloseTo(expected[i]!, 5))
  average.release()
  device.release(param)
})

describe('adamw8bit', () => {
  const shapes = [
    [64, 96],
    [4, 8],
  ]

  it('keeps large parameters in a quarter of the memory of f32 states, small ones exactly as adamw', async () => {
    const before = device.memory().liveBytes
    const params = shapes.map((shape) => device.zeros(shape, 'f32'))
    const withParams = device.memory().liveBytes
    const stateBytes = (name: 'adamw' | 'adamw8bit', min8bitSize: number): number => {
      const optimizer = optimizersByName[name](device, params, { ...settings, min8bitSize })
      const bytes = device.memory().liveBytes - withParams
      optimizer.release()
      return bytes
    }
    const [large, small] = shapes.map(([r, c]) => r! * c!) as [number, number]
    expect(stateBytes('adamw', 4096)).toBe(8 * (large + small))
    expect(stateBytes('adamw8bit', 4096)).toBe(2 * (large + 4 * (large / 256)) + 8 * small)
    params.forEach((tensor) => device.release(tensor))
    expect(device.memory().liveBytes).toBe(before)
  })

  it('ends as near the least loss as adamw does, with gradients over three decades', async () => {
    const count = 6144
    const curvature = normals(7, 1, count).map((value) => 10 ** (value / 2))
    const goal = normals(8, 1, count)
    const train = async (name: 'adamw' | 'adamw8bit'): Promise<number> => {
      const param = device.zeros([count], 'f32')
      const optimizer = optimizersByName[name](device, [param], {
        ...settings,
        weightDecay: 0,
        eps: 1e-8,
        min8bitSize: 4096,
      })
      let last = 0
      for (let step = 0; step < 150; step++) {
        const values = (await device.read(param)) as Float32Array
        const grad = device.upload(
          values.map((value, i) => curvature[i]! * (value - goal[i]!)),
          [count],
          'f32',
        )
        await optimizer.update([grad], { learningRate: 0.05 * (1 - step / 150), gradScale: 1 })
        device.release(grad)
        last = values.reduce((sum, value, i) => sum + (value - goal[i]!) ** 2, 0) / count
      }
      optimizer.release()
      device.release(param)
      return last
    }
    const [exact, rounded] = [await train('adamw'), await train('adamw8bit')]
    // From 1 at the start.
    expect(exact).toBeLessThan(1e-3)
    expect(rounded).toBeLessThan(1e-3)
  })
})
