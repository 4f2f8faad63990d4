import { openDevice, type CpuDevice } from '@kinora/cpu-kernels'
import type { Device, Ops, Tensor } from '@kinora/kernel-api'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { gradientErrors, randomTensor } from '../../../test/finite-differences.ts'
import { createTape } from './tape.ts'

let device: CpuDevice
beforeEach(async () => {
  device = await openDevice({ precision: 'f64' })
})
afterEach(() => {
  // Nothing is left behind by any test: what it made it owned through scopes.
  expect(device.memory().liveBytes).toBe(0)
  device.destroy()
})

let seed = 0
const random = (...shape: number[]): Tensor => randomTensor(device, ++seed, shape)
const positive = (...shape: number[]): Tensor =>
  device.ops.affine(random(...shape), { scale: 0.2, offset: 1 })

interface Case {
  name: string
  /** Makes the inputs, and says how they are used. */
  make: () => { wanted: Tensor[]; fn: (ops: Ops) => Tensor }
}

const cases: Case[] = [
  {
    name: 'linear: its input',
    make() {
      const [x, w, bias] = [random(2, 3, 5), random(4, 5), random(4)]
      return { wanted: [x], fn: (ops) => ops.linear(x, w, { bias }) }
    },
  },
  {
    name: 'linear: its input and two adapters',
    make() {
      const [x, w] = [random(2, 3, 5), random(4, 5)]
      const adapters = [
        { a: random(2, 5), b: random(4, 2), scale: 0.7 },
        { a: random(3, 5), b: random(4, 3), scale: 1.3 },
      ]
      return {
        wanted: [x, ...adapters.flatMap(({ a, b }) => [a, b])],
        fn: (ops) => ops.linear(x, w, { adapters }),
      }
    },
  },
  {
    name: 'linear: adapters alone',
    make() {
      const [x, w] = [random(3, 5), random(4, 5)]
      const adapter = { a: random(2, 5), b: random(4, 2), scale: 1 }
      return {
        wanted: [adapter.a, adapter.b],
        fn: (ops) => ops.linear(x, w, { adapters: [adapter] }),
      }
    },
  },
  ...[
    [3, 5],
    [6, 5],
  ].map(([o, k]) => ({
    name: `linear: a trained weight [${o}, ${k}] beside an adapter`,
    make() {
      const [x, w] = [random(2, 3, k!), random(o!, k!)]
      const adapter = { a: random(2, k!), b: random(o!, 2), scale: 0.7 }
      return {
        wanted: [x, w, adapter.a],
        fn: (ops: Ops) => ops.linear(x, w, { adapters: [adapter] }),
      }
    },
  })),
  {
    name: 'dropout',
    make() {
      const x = random(5, 7)
      return {
        wanted: [x],
        fn: (ops) => ops.dropout(x, { probability: 0.3, seed: 1, stream: 2 }),
      }
    },
  },
  {
    name: 'attention',
    make() {
      const [q, k, v] = [random(2, 3, 2, 4), random(2, 5, 2, 4), random(2, 5, 2, 4)]
      return { wanted: [q, k, v], fn: (ops) => ops.attention(q, k, v).out }
    },
  },
  {
    name: 'attention with a scale and biases',
    make() {
      const [q, k, v] = [random(2, 3, 2, 4), random(2, 5, 2, 4), random(2, 5, 2, 4)]
      const [bias, keyBias] = [random(2, 3, 5), random(2, 5)]
      return {
        wanted: [q, k, v],
        fn: (ops) => ops.attention(q, k, v, { scale: 0.3, bias, keyBias }).out,
      }
    },
  },
  {
    name: 'layerNorm',
    make() {
      const x = random(2, 3, 6)
      return { wanted: [x], fn: (ops) => ops.layerNorm(x, { eps: 1e-6 }) }
    },
  },
  {
    name: 'layerNorm with a weight and a bias a batch item',
    make() {
      const [x, weight, bias] = [random(2, 3, 6), random(2, 6), random(2, 6)]
      return { wanted: [x], fn: (ops) => ops.layerNorm(x, { eps: 1e-6, weight, bias }) }
    },
  },
  {
    name: 'rmsNorm',
    make() {
      const [x, weight] = [random(2, 3, 6), random(6)]
      return { wanted: [x], fn: (ops) => ops.rmsNorm(x, weight, { eps: 1e-6 }) }
    },
  },
  ...[false, true].map((inverse) => ({
    name: `rope ${inverse ? 'backwards' : 'forwards'}`,
    make() {
      const [x, angle] = [random(2, 3, 2, 4), device.readF64(random(3, 2))]
      const cos = device.upload(angle.map(Math.cos), [3, 2], 'f32')
      const sin = device.upload(angle.map(Math.sin), [3, 2], 'f32')
      return { wanted: [x], fn: (ops: Ops) => ops.rope(x, cos, sin, { inverse }) }
    },
  })),
  {
    name: 'gelu',
    make() {
      const x = random(3, 4)
      return { wanted: [x], fn: (ops) => ops.gelu(x) }
    },
  },
  {
    name: 'add',
    make() {
      const [a, b] = [random(2, 3), random(2, 3)]
      return { wanted: [a, b], fn: (ops) => ops.add(a, b) }
    },
  },
  {
    name: 'add of a bias',
    make() {
      const [a, b] = [random(2, 3), random(3)]
      return { wanted: [a], fn: (ops) => ops.add(a, b) }
    },
  },
  {
    name: 'add of a tensor to itself',
    make() {
      const a = random(2, 3)
      return { wanted: [a], fn: (ops) => ops.add(a, a) }
    },
  },
  {
    name: 'mul',
    make() {
      const [a, b] = [random(2, 3), random(2, 3)]
      return { wanted: [a, b], fn: (ops) => ops.mul(a, b) }
    },
  },
  {
    name: 'mul by a row',
    make() {
      const [a, b] = [random(4, 2, 3), random(2, 3)]
      return { wanted: [a, b], fn: (ops) => ops.mul(a, b) }
    },
  },
  {
    name: 'affine',
    make() {
      const x = random(2, 3)
      return { wanted: [x], fn: (ops) => ops.affine(x, { scale: -2.5, offset: 3 }) }
    },
  },
  {
    name: 'gatedAdd',
    make() {
      const [x, y, gate] = [random(2, 3, 4), random(2, 3, 4), random(2, 4)]
      return { wanted: [x, y], fn: (ops) => ops.gatedAdd(x, y, gate) }
    },
  },
  {
    name: 'gatedAdd without a gate',
    make() {
      const [x, y] = [random(2, 3, 4), random(2, 3, 4)]
      return { wanted: [x, y], fn: (ops) => ops.gatedAdd(x, y) }
    },
  },
  {
    name: 'reshape, permute and back',
    make() {
      const x = random(2, 3, 4)
      return { wanted: [x], fn: (ops) => ops.permute(ops.reshape(x, [6, 2, 2]), [2, 0, 1]) }
    },
  },
  ...[
    [0, 2],
    [1, 4],
    [0, 4],
    [3, 4],
  ].map(([start, end]) => ({
    name: `slice ${start} to ${end} of 4`,
    make() {
      const x = random(2, 4, 3)
      return { wanted: [x], fn: (ops: Ops) => ops.slice(x, 1, start!, end!) }
    },
  })),
  {
    name: 'concat',
    make() {
      const [a, b] = [random(2, 1, 3), random(2, 4, 3)]
      return { wanted: [a, b], fn: (ops) => ops.concat([a, b, a], 1) }
    },
  },
  {
    name: 'a tensor used by several ops, of which some hand their gradient on',
    make() {
      const [x, w, y] = [random(2, 4), random(4, 4), random(2, 4)]
      return {
        wanted: [x, y],
        fn(ops) {
          const h = ops.add(x, y)
          const residual = ops.gatedAdd(ops.gatedAdd(h, ops.linear(h, w)), ops.gelu(h))
          return ops.add(ops.reshape(residual, [2, 4]), ops.add(h, h))
        },
      }
    },
  },
  {
    name: 'a tensor that the result does not depend on',
    make() {
      const [x, y] = [random(2, 4), random(2, 4)]
      return {
        wanted: [x, y],
        fn(ops) {
          ops.gelu(y)
          return ops.gelu(x)
        },
      }
    },
  },
]

const structures: Record<string, (ops: Ops, fn: (ops: Ops) => Tensor) => Tensor> = {
  plain: (ops, fn) => fn(ops),
  'in a scope': (ops, fn) => ops.scope(() => fn(ops)),
}

describe.each(Object.entries(structures))('gradients by finite differences, %s', (_, wrap) => {
  it.each(cases)('$name', ({ make }) => {
    device.scope(() => {
      const { wanted, fn } = make()
      for (const error of gradientErrors(device, (ops) => wrap(ops, fn), wanted)) {
        expect(error).toBeLessThan(1e-8)
      }
    })
  })
})

/** One pre-norm block with everything a checkpoint has to get right: scopes, a residual, kept attention, outside constants. */
function block(ops: Ops, x: Tensor, w: ReturnType<typeof blockWeights>): Tensor {
  const scale = ops.affine(w.gate, { offset: 1 })
  const y = ops.layerNorm(x, { eps: 1e-6, weight: scale })
  const q = ops.reshape(ops.linear(y, w.q, { adapters: [w.adapter] }), [2, 3, 2, 2])
  const { out } = ops.scope(() =>
    ops.attention(q, ops.rmsNorm(q, w.two, { eps: 1e-6 }), q, { name: 'self' }),
  )
  const h = ops.gatedAdd(x, ops.linear(ops.reshape(out, [2, 3, 4]), w.q), w.gate)
  return ops.gatedAdd(h, ops.linear(ops.gelu(h), w.q, { adapters: [w.adapter2] }), w.gate)
}

const blockWeights = () => ({
  q: random(4, 4),
  two: positive(2),
  gate: random(2, 4),
  adapter: { a: random(2, 4), b: random(4, 2), scale: 1 },
  adapter2: { a: random(2, 4), b: random(4, 2), scale: 0.5 },
})

/** The device, with the names of the ops it is asked for. */
function countCalls<T extends Device>(target: T, calls: string[]): T {
  const counted = new Proxy(target.ops, {
    get(ops, name: keyof Ops) {
      const value: unknown = ops[name]
      if (typeof value !== 'function') return value
      return (...args: unknown[]) => {
        calls.push(name)
        return (value as (...args: unknown[]) => unknown).apply(ops, args)
      }
    },
  })
  return new Proxy(target, {
    get: (of, name) => {
      if (name === 'ops') return counted
      const value: unknown = Reflect.get(of, name, of)
      return typeof value === 'function' ? value.bind(of) : value
    },
  })
}

const tensorsOfBlock = ({
  adapter,
  adapter2,
  ...others
}: ReturnType<typeof blockWeights>): Tensor[] => [
  ...Object.values(others),
  ...[adapter, adapter2].flatMap(({ a, b }) => [a, b]),
]

describe('checkpoint', () => {
  const options = [
    { name: 'whole', keep: undefined, checkpoint: true },
    { name: 'keeping attention', keep: ['self'], checkpoint: true },
    { name: 'switched off', keep: ['self'], checkpoint: false },
  ]

  it.each(options)(
    '$name: gradients by finite differences through two blocks',
    ({ keep, checkpoint }) => {
      device.scope(() => {
        const [w1, w2, x] = [blockWeights(), blockWeights(), random(2, 3, 4)]
        const fn = (ops: Ops): Tensor => {
          const h = ops.checkpoint((inner, input) => block(inner, input, w1), [x], { keep })
          return ops.checkpoint((inner, input) => block(inner, input, w2), [h], { keep })
        }
        const wanted = [
          x,
          ...[w1, w2].flatMap((w) => [w.adapter, w.adapter2]).flatMap(({ a, b }) => [a, b]),
        ]
        for (const error of gradientErrors(device, fn, wanted, { checkpoint })) {
          expect(error).toBeLessThan(1e-7)
        }
      })
    },
  )

  it('gives the same gradients to the last bit with and without', () => {
    device.scope(() => {
      const [w, x, c] = [blockWeights(), random(2, 3, 4), random(2, 3, 4)]
      const wanted = [x, w.adapter.a, w.adapter.b, w.adapter2.a, w.adapter2.b]
      const [first, ...others] = options.map(({ keep, checkpoint }) => {
        const tape = createTape(device, { watch: wanted, checkpoint })
        const out = tape.ops.checkpoint((ops, input) => block(ops, input, w), [x], { keep })
        const grads = tape.backward([{ tensor: out, grad: c }], wanted)
        const values = wanted.map((tensor) => device.readF64(grads.get(tensor)!))
        tape.dispose()
        return values
      })
      for (const other of others) expect(other).toEqual(first)
    })
  })

  it('keeps the first input rounded where asked: gradients close to the exact ones, not equal', () => {
    device.scope(() => {
      const [w, start, c] = [blockWeights(), random(2, 3, 4), random(2, 3, 4)]
      const wanted = [start, w.adapter.a, w.adapter.b]
      const run = (firstInputAs: 'f16' | undefined) => {
        const tape = createTape(device, { watch: wanted })
        const out = device.scope(() => {
          const x = tape.ops.affine(start, { scale: 1.1 })
          return tape.ops.checkpoint((ops, input) => block(ops, input, w), [x], { firstInputAs })
        })
        const grads = tape.backward([{ tensor: out, grad: c }], wanted)
        const values = wanted.map((tensor) => [...device.readF64(grads.get(tensor)!)])
        tape.dispose()
        return values
      }
      const [exact, rounded] = [run(undefined), run('f16')]
      exact.forEach((value, i) => {
        const size = Math.hypot(...value)
        const error = Math.hypot(...value.map((v, j) => v - rounded[i]![j]!)) / size
        expect(error).toBeGreaterThan(0)
        expect(error).toBeLessThan(2e-3)
      })
    })
  })

  it('hands on the gradient of a block that adds its two inputs', () => {
    device.scope(() => {
      const [a, b] = [random(2, 3), random(2, 3)]
      const fn = (ops: Ops): Tensor => {
        const sum = ops.checkpoint((inner, x, y) => inner.add(x, y), [a, b])
        return ops.add(ops.add(sum, ops.gelu(a)), ops.gelu(b))
      }
      for (const error of gradientErrors(device, fn, [a, b])) expect(error).toBeLessThan(1e-8)
    })
  })

  it('runs neither kept attention nor a last linear again', () => {
    device.scope(() => {
      const [w, x, c] = [blockWeights(), random(2, 3, 4), random(2, 3, 4)]
      const calls: string[] = []
      const counting = countCalls(device, calls)
      const wanted = [w.adapter.a, w.adapter2.a]
      const tape = createTape(counting, { watch: wanted })
      const out = tape.ops.checkpoint((ops, input) => block(ops, input, w), [x], { keep: ['self'] })
      const forward = calls.length
      const count = (name: string, from: number): number =>
        calls.slice(from).filter((call) => call === name).length
      expect(count('linear', 0)).toBe(3)
      expect(count('attention', 0)).toBe(1)
      tape.backward([{ tensor: out, grad: c }], wanted)
      expect(count('linear', forward)).toBe(2)
      expect(count('attention', forward)).toBe(0)
      expect(count('attentionGrad', forward)).toBe(1)
      tape.dispose()
    })
  })

  /** The same block with both its parts as checkpoints of their own. */
  const inParts = (ops: Ops, x: Tensor, w: ReturnType<typeof blockWeights>, keep?: string[]) => {
    const attended = ops.checkpoint(
      (inner, input) => {
        const scale = inner.affine(w.gate, { offset: 1 })
        const y = inner.layerNorm(input, { eps: 1e-6, weight: scale })
        const q = inner.reshape(
          inner.linear(y, w.q, { adapters: [w.adapter], name: 'q' }),
          [2, 3, 2, 2],
        )
        const k = inner.rmsNorm(q, w.two, { eps: 1e-6 })
        const { out } = inner.scope(() => inner.attention(q, k, q, { name: 'self' }))
        return inner.linear(inner.reshape(out, [2, 3, 4]), w.q)
      },
      [x],
      { keep },
    )
    const h = ops.gatedAdd(x, attended, w.gate)
    const fed = ops.checkpoint(
      (inner, input) => inner.linear(inner.gelu(input), w.q, { adapters: [w.adapter2] }),
      [h],
    )
    return ops.gatedAdd(h, fed, w.gate)
  }

  it.each([
    // Of the last part nothing is run for its result; of the first what its result needs, and then what its gradients need.
    { name: 'nothing kept', keep: [], inner: [], linears: 2 + 1, attentions: 2 },
    { name: 'attention kept', keep: ['self'], inner: [], linears: 1 + 1, attentions: 0 },
    {
      name: 'attention kept in its part',
      keep: [],
      inner: ['self'],
      linears: 2 + 1,
      attentions: 1,
    },
    { name: 'all kept in its part', keep: [], inner: ['self', 'q'], linears: 2, attentions: 1 },
  ])(
    'goes back through a block part by part, to the same bits: $name',
    ({ keep, inner, linears, attentions }) => {
      device.scope(() => {
        const [w, x, c] = [blockWeights(), random(2, 3, 4), random(2, 3, 4)]
        const wanted = [x, w.adapter.a, w.adapter.b, w.adapter2.a, w.adapter2.b]
        const calls: string[] = []
        const counting = countCalls(device, calls)
        const run = (
          fn: (ops: Ops, input: Tensor) => Tensor,
          firstInputAs: 'f16' | undefined,
        ): Float64Array[] => {
          const tape = createTape(counting, { watch: wanted })
          const out = tape.ops.checkpoint(fn, [x], { keep, firstInputAs })
          calls.length = 0
          const grads = tape.backward([{ tensor: out, grad: c }], wanted)
          const values = wanted.map((tensor) => device.readF64(grads.get(tensor)!))
          tape.dispose()
          device.release(out)
          return values
        }
        for (const firstInputAs of [undefined, 'f16'] as const) {
          const whole = run((ops, input) => block(ops, input, w), firstInputAs)
          const live = device.memory().liveBytes
          const parts = run((ops, input) => inParts(ops, input, w, inner), firstInputAs)
          expect(parts).toEqual(whole)
          expect(device.memory().liveBytes).toBe(live)
        }
        expect(calls.filter((call) => call === 'linear')).toHaveLength(linears)
        expect(calls.filter((call) => call === 'attention')).toHaveLength(attentions)
      })
    },
  )

  it.each([undefined, 'f16'] as const)(
    'keeps in host memory what is kept, to the same bits, first inputs as %s',
    async (firstInputAs) => {
      const [weights, start, c] = device.scope(
        () =>
          [
            [blockWeights(), blockWeights(), blockWeights()],
            random(2, 3, 4),
            random(2, 3, 4),
          ] as const,
      )
      const wanted = [start, ...weights.flatMap(({ adapter }) => [adapter.a, adapter.b])]
      const before = device.memory()
      const run = async (numAway: number): Promise<Float64Array[]> => {
        const tape = createTape(device, { watch: wanted })
        const out = device.scope(() => {
          let x = tape.ops.affine(start, { scale: 1.1 })
          for (const [n, w] of weights.entries()) {
            x = tape.ops.checkpoint((ops, input) => block(ops, input, w), [x], {
              keep: ['self'],
              firstInputAs,
              inHostMemory: n < numAway,
            })
          }
          return x
        })
        await tape.settle()
        expect(device.memory().parkedBytes > before.parkedBytes).toBe(numAway > 0)
        const grads = tape.backward([{ tensor: out, grad: c }], wanted)
        const values = wanted.map((tensor) => device.readF64(grads.get(tensor)!))
        tape.dispose()
        device.release(out)
        expect(device.memory().liveBytes).toBe(before.liveBytes)
        expect(device.memory().parkedBytes).toBe(before.parkedBytes)
        return values
      }
      const here = await run(0)
      for (const numAway of [1, 2, 3]) expect(await run(numAway)).toEqual(here)
      for (const tensor of [c, start, ...weights.flatMap(tensorsOfBlock)]) device.release(tensor)
    },
  )

  it('says so when what goes to host memory was not waited for, and leaves nothing there', async () => {
    const before = device.memory()
    const [w, x, c] = device.scope(
      () => [blockWeights(), random(2, 3, 4), random(2, 3, 4)] as const,
    )
    const tape = createTape(device, { watch: [x] })
    const out = tape.ops.checkpoint((ops, input) => block(ops, input, w), [x], {
      inHostMemory: true,
    })
    expect(() => tape.backward([{ tensor: out, grad: c }], [x])).toThrow(
      /on their way to host memory/,
    )
    tape.dispose()
    await Promise.resolve()
    await new Promise(setImmediate)
    expect(device.memory().parkedBytes).toBe(before.parkedBytes)
    for (const tensor of [out, x, c, ...tensorsOfBlock(w)]) device.release(tensor)
  })

  it('says so when the block does something else the second time', () => {
    device.scope(() => {
      const [x, c] = [random(2, 3), random(2, 3)]
      let times = 0
      const tape = createTape(device)
      const out = tape.ops.checkpoint(
        (ops, input) => (times++ ? ops.gelu(input) : ops.affine(input, { scale: 2 })),
        [x],
      )
      expect(() => tape.backward([{ tensor: out, grad: c }], [x])).toThrow(
        /op 0 was "affine", then "gelu"/,
      )
      tape.dispose()
    })
  })
})

describe('what the tape refuses', () => {
  const gradient = (fn: (ops: Ops, x: Tensor) => Tensor, x: Tensor): unknown => {
    const tape = createTape(device, { watch: [x] })
    try {
      const out = fn(tape.ops, x)
      return tape.backward([{ tensor: out, grad: device.zeros(out.shape, 'f32') }], [x])
    } finally {
      tape.dispose()
    }
  }
  const refused: Record<string, (ops: Ops, x: Tensor) => Tensor> = {
    silu: (ops, x) => ops.silu(x),
    rsqrt: (ops, x) => ops.rsqrt(x),
    sumSquares: (ops, x) => ops.sumSquares([x]),
    'the scales of a packed weight': (ops, x) =>
      ops.linear(device.zeros([2, 8], 'f32'), {
        format: 'float8_e4m3',
        shape: [16, 8],
        codes: device.zeros([16, 2], 'u32'),
        scales: ops.reshape(x, [16]),
      }),
    'the weight of a norm': (ops, x) =>
      ops.rmsNorm(device.zeros([2, 4], 'f32'), ops.reshape(ops.slice(x, 0, 0, 1), [4]), { eps: 1 }),
    'a bias that is added': (ops, x) => ops.add(device.zeros([2, 4, 4], 'f32'), x),
    'the log-sum-exp of attention': (ops, x) => {
      const q = ops.reshape(x, [1, 4, 1, 4])
      return ops.attention(q, q, q).lse
    },
    'the target of a loss': (ops, x) => ops.loss(device.zeros([4, 4], 'f32'), x, { kind: 'mse' }),
    'a gradient of a gradient': (ops, x) => ops.geluGrad(x, x),
  }

  it.each(Object.entries(refused))('%s has no gradient', (_, fn) => {
    device.scope(() => {
      const x = random(4, 4)
      expect(() => gradient(fn, x)).toThrow(
        expect.objectContaining({ code: 'TRAINER_NO_GRADIENT' }),
      )
    })
  })

  it('in-place ops, unwatched tensors and a second way back', () => {
    device.scope(() => {
      const [x, y] = [random(2, 2), random(2, 2)]
      const tape = createTape(device, { watch: [x] })
      expect(() => tape.ops.addInto(x, y)).toThrow(
        expect.objectContaining({ code: 'TRAINER_IN_PLACE' }),
      )
      const out = tape.ops.gelu(x)
      const roots = [{ tensor: out, grad: y }]
      expect(() => createTape(device, { watch: [x] }).backward(roots, [y])).toThrow(
        expect.objectContaining({ code: 'TRAINER_NOT_WATCHED' }),
      )
      tape.backward(roots, [x])
      expect(() => tape.backward(roots, [x])).toThrow(
        expect.objectContaining({ code: 'TRAINER_ALREADY_BACK' }),
      )
      tape.dispose()
    })
  })
})

describe('cast', () => {
  it('hands its gradient on in the dtype of its input, and is nothing to the same dtype', () => {
    device.scope(() => {
      const [x, c] = [random(2, 3), random(2, 3)]
      const tape = createTape(device, { watch: [x] })
      expect(tape.ops.cast(x, 'f32')).toBe(x)
      const out = tape.ops.cast(tape.ops.cast(x, 'f16'), 'f32')
      const grad = tape.backward([{ tensor: out, grad: c }], [x]).get(x)!
      expect(grad.dtype).toBe('f32')
      const expected = device.readF64(device.ops.cast(device.ops.cast(c, 'f16'), 'f32'))
      expect(device.readF64(grad)).toEqual(expected)
      tape.dispose()
    })
  })
})

describe('loss', () => {
  it.each(['mse', 'mae', 'pseudo-huber'] as const)('%s: gradient by finite differences', (kind) => {
    device.scope(() => {
      const [x, target] = [random(2, 3, 4), random(2, 3, 4)]
      const itemScale = [0.7, -1.3]
      const tape = createTape(device, { watch: [x] })
      const out = tape.ops.loss(x, target, { kind })
      const grad = device.readF64(tape.backward([{ tensor: out, grad: itemScale }], [x]).get(x)!)
      const at = device.readF64(x)
      const value = (by: number): number => {
        device.write(
          x,
          at.map((v, i) => v + by * Math.sin(i)),
        )
        const items = device.readF64(device.ops.loss(x, target, { kind }))
        return items[0]! * itemScale[0]! + items[1]! * itemScale[1]!
      }
      const expected = (value(1e-6) - value(-1e-6)) / 2e-6
      const found = grad.reduce((sum, g, i) => sum + g * Math.sin(i), 0)
      expect(Math.abs(found - expected)).toBeLessThan(1e-7)
      tape.dispose()
    })
  })
})

describe('memory', () => {
  it('falls on the way back, and remembers nothing that no watched tensor reaches', () => {
    device.scope(() => {
      const w = random(64, 64)
      const x = random(64, 64)
      const bytes = 64 * 64 * 8
      const before = device.memory().liveBytes
      const tape = createTape(device, { watch: [x] })
      const out = device.scope(() => {
        let frozen = w
        for (let i = 0; i < 10; i++) frozen = tape.ops.gelu(frozen)
        let h = tape.ops.mul(x, frozen)
        for (let i = 0; i < 4; i++) h = tape.ops.gelu(h)
        return h
      })
      // mul keeps the frozen factor, each gelu its input; the last result is ours.
      expect(device.memory().liveBytes - before).toBe((1 + 4 + 1) * bytes)
      device.resetPeak()
      const live = device.memory().liveBytes
      const grads = tape.backward([{ tensor: out, grad: w }], [x])
      expect(grads.size).toBe(1)
      // Going back adds a gradient before it drops what that gradient read: never more than two.
      expect(device.memory().peakBytes - live).toBeLessThanOrEqual(2 * bytes)
      expect(device.memory().liveBytes - before).toBe(2 * bytes)
      tape.dispose()
      expect(device.memory().liveBytes - before).toBe(bytes)
    })
  })

  it('is given back by a pass that is never gone back', () => {
    device.scope(() => {
      const x = random(8, 8)
      const before = device.memory().liveBytes
      const tape = createTape(device)
      device.scope(() => {
        tape.ops.checkpoint(
          (ops, input) =>
            ops.gelu(
              ops.attention(
                ops.reshape(input, [1, 8, 1, 8]),
                ops.reshape(input, [1, 8, 1, 8]),
                ops.reshape(input, [1, 8, 1, 8]),
                { name: 'self' },
              ).out,
            ),
          [x],
          { keep: ['self'] },
        )
        return undefined
      })
      expect(device.memory().liveBytes).toBeGreaterThan(before)
      tape.dispose()
      expect(device.memory().liveBytes).toBe(before)
    })
  })
})
