import { describe, expect, test } from 'vitest'
import { normals } from '../random.ts'
import { numElements } from '../tensor.ts'
import * as reference from './reference.ts'
import { refArray, type RefArray } from './reference.ts'

let stream = 0
const random = (...shape: number[]) =>
  refArray(
    shape,
    normals(20, stream++, numElements(shape)).map((x) => x * 0.7),
  )

/**
 * Compares d(Σ weights · f(inputs)) / d input, by central differences, with what the analytic gradient says. In f64 with a
 * step of 1e-5 truncation and rounding both stay below 1e-9 for functions of order one.
 */
function expectGradient(
  f: () => RefArray,
  weights: RefArray,
  input: RefArray,
  gradient: RefArray,
): void {
  const step = 1e-5
  const objective = () => {
    const { data } = f()
    return data.reduce((sum, value, i) => sum + value * weights.data[i]!, 0)
  }
  expect(gradient.shape).toEqual(input.shape)
  for (let i = 0; i < input.data.length; i++) {
    const x = input.data[i]!
    input.data[i] = x + step
    const above = objective()
    input.data[i] = x - step
    const below = objective()
    input.data[i] = x
    expect(Math.abs((above - below) / (2 * step) - gradient.data[i]!)).toBeLessThan(1e-8)
  }
}

describe('the gradients of the references are the slopes of their forward functions', () => {
  test('linear, with two adapters', () => {
    const [x, w, bias] = [random(2, 3, 4), random(5, 4), random(5)]
    const adapters = [
      { a: random(2, 4), b: random(5, 2), scale: 0.5 },
      { a: random(3, 4), b: random(5, 3), scale: -2 },
    ]
    const dy = random(2, 3, 5)
    const forward = () => reference.linear(x, w, bias, adapters)
    const grads = reference.linearGrad(dy, x, w, adapters)
    expectGradient(forward, dy, x, grads.dx)
    adapters.forEach(({ a, b }, i) => {
      expectGradient(forward, dy, a, grads.adapters[i]!.da)
      expectGradient(forward, dy, b, grads.adapters[i]!.db)
    })
  })

  test('attention, with biases and a masked key', () => {
    const [q, k, v] = [random(2, 3, 2, 4), random(2, 5, 2, 4), random(2, 5, 2, 4)]
    const keyBias = random(2, 5)
    keyBias.data[3] = -Infinity
    const options = { scale: 0.8, bias: random(2, 3, 5), keyBias }
    const dout = random(2, 3, 2, 4)
    const forward = () => reference.attention(q, k, v, options).out
    const { dq, dk, dv } = reference.attentionGrad(dout, q, k, v, options)
    expectGradient(forward, dout, q, dq)
    expectGradient(forward, dout, k, dk)
    expectGradient(forward, dout, v, dv)
  })

  test('layerNorm, weight per channel and per item', () => {
    const [x, dy, bias] = [random(2, 3, 5), random(2, 3, 5), random(5)]
    for (const weight of [undefined, random(5), random(2, 5)]) {
      const grad = reference.layerNormGrad(dy, x, 1e-3, weight)
      expectGradient(() => reference.layerNorm(x, 1e-3, weight, bias), dy, x, grad)
    }
  })

  test('rmsNorm', () => {
    const [x, dy, w] = [random(3, 6), random(3, 6), random(6)]
    const grad = reference.rmsNormGrad(dy, x, w, 1e-3)
    expectGradient(() => reference.rmsNorm(x, w, 1e-3), dy, x, grad)
  })

  test('rope, by its inverse', () => {
    const angles = random(3, 2).data
    const cos = refArray([3, 2], angles.map(Math.cos))
    const sin = refArray([3, 2], angles.map(Math.sin))
    const [x, dy] = [random(2, 3, 2, 4), random(2, 3, 2, 4)]
    expectGradient(() => reference.rope(x, cos, sin), dy, x, reference.rope(dy, cos, sin, true))
  })

  test('gelu', () => {
    const [x, dy] = [random(40), random(40)]
    expectGradient(() => reference.gelu(x), dy, x, reference.geluGrad(dy, x))
  })

  test('gatedAdd, towards the branch', () => {
    const [x, y, gate, dx] = [random(2, 3, 4), random(2, 3, 4), random(2, 4), random(2, 3, 4)]
    const grad = reference.gatedAddGrad(dx, gate)
    expectGradient(() => reference.gatedAdd(x, y, gate), dx, y, grad)
  })

  test.each(['mse', 'mae', 'pseudo-huber'] as const)('loss %s', (kind) => {
    const [p, target] = [random(3, 4), random(3, 4)]
    const itemScale = [0.5, 2, -1]
    for (const mask of [undefined, random(3, 4)]) {
      const grad = reference.lossGrad(p, target, kind, itemScale, mask)
      const weights = refArray([3], itemScale)
      expectGradient(() => reference.loss(p, target, kind, mask), weights, p, grad)
    }
  })
})

describe('the references agree with numbers worked by hand', () => {
  test('conv3d with padding, stride and upsampling', () => {
    const x = refArray([1, 1, 1, 2, 1], [3, 5])
    const weight = refArray([1, 1, 1, 2, 1], [1, 10])
    const plain = reference.conv3d(x, weight)
    expect([...plain.data]).toEqual([53])
    const wide = reference.conv3d(x, weight, {
      upsample: 2,
      padding: [
        [0, 0],
        [0, 0],
        [1, 0],
      ],
      bias: refArray([1], [0.5]),
    })
    // The row 0 3 3 5 5, twice.
    expect(wide.shape).toEqual([1, 1, 2, 4, 1])
    expect([...wide.data]).toEqual([30.5, 33.5, 53.5, 55.5, 30.5, 33.5, 53.5, 55.5])
    const strided = reference.conv3d(x, weight, { upsample: 2, stride: [1, 2, 2] })
    expect([...strided.data]).toEqual([33, 55])
  })

  test('adamw: the first step moves by the learning rate, against the gradient', () => {
    const one = (value: number) => refArray([1], [value])
    const slots = { param: one(1), grad: one(-4), m: one(0), v: one(0) }
    const options = {
      learningRate: 0.1,
      beta1: 0.9,
      beta2: 0.99,
      eps: 0,
      weightDecay: 0.5,
      step: 1,
      gradScale: 0.5,
    }
    const { param, m, v } = reference.adamw(slots, options)
    expect(param.data[0]).toBeCloseTo(1 - 0.05 + 0.1, 14)
    expect([m.data[0], v.data[0]]).toEqual([expect.closeTo(-0.2, 14), expect.closeTo(0.04, 14)])
  })

  test('permute, slice and concat', () => {
    const x = refArray([2, 3], [1, 2, 3, 4, 5, 6])
    expect([...reference.permute(x, [1, 0]).data]).toEqual([1, 4, 2, 5, 3, 6])
    expect([...reference.slice(x, 1, 1, 3).data]).toEqual([2, 3, 5, 6])
    expect([...reference.concat([x, reference.slice(x, 1, 0, 1)], 1).data]).toEqual([
      1, 2, 3, 1, 4, 5, 6, 4,
    ])
  })

  test('uint4: groups around zero, ties to even, and bf16 as torch rounds it', () => {
    const w = [-3, -2, 0.25, 0.75, 1, 2, 3, 4.5]
    const exact = reference.quantizeUint4(refArray([1, 8], w), 8, false)
    expect([exact.scales.data[0], exact.zeros!.data[0]]).toEqual([0.5, 6])
    expect([...exact.codes.data]).toEqual([0, 2, 6, 8, 8, 10, 12, 15])
    expect([...reference.dequantize(exact).data]).toEqual([-3, -2, 0, 1, 1, 2, 3, 4.5])
    // A group of one sign keeps zero at an end; one of nothing has the smallest scale.
    const positive = reference.quantizeUint4(
      refArray([2, 8], [...w.map(Math.abs), ...Array(8).fill(0)]),
      8,
      false,
    )
    expect([...positive.zeros!.data]).toEqual([0, 0])
    expect(positive.scales.data[1]).toBe(2 ** -23)
    expect(Array.from(positive.codes.data.subarray(8))).toEqual(Array(8).fill(0))
    // 1/15 is 0x3d888889: 0x3d89 in bf16; its inverse 14.9489 is 14.9375.
    const brain = reference.quantizeUint4(refArray([1, 8], [0, 1, 0.5, 0, 0, 0, 0, 0]), 8, true)
    expect(brain.scales.data[0]).toBe(0.06689453125)
    expect([...brain.codes.data]).toEqual([0, 15, 7, 0, 0, 0, 0, 0])
  })

  test('float8: the largest of a row is 448, ties go to even, subnormals are kept', () => {
    const w = refArray(
      [2, 8],
      [448, -17, 19, 2 ** -9, -(2 ** -10), 2.5 * 2 ** -9, 450, 0.4, ...Array(8).fill(0)],
    )
    w.data[6] = -448
    const { codes, scales } = reference.quantizeFloat8(w, false)
    expect([...scales.data]).toEqual([1, 1])
    const values = [...codes.data].map(reference.e4m3)
    // Between 16 and 18, 18 and 20: the codes are 2 apart there.
    expect(values.slice(0, 8)).toEqual([448, -16, 20, 2 ** -9, -0, 2 ** -8, -448, 0.40625])
    expect(codes.data[0]).toBe(0x7e)
  })
})

test('dropout drops its share of any stream, and other elements with another', () => {
  const ones = refArray(
    [100_000],
    Float64Array.from({ length: 100_000 }, () => 1),
  )
  const drawn = [3, 4].map((stream) =>
    reference.dropout(ones, { probability: 0.2, seed: 9, stream }),
  )
  for (const { data } of drawn) {
    const dropped = data.filter((value) => value === 0).length / data.length
    expect(Math.abs(dropped - 0.2)).toBeLessThan(0.005)
    expect(data.find((value) => value !== 0)).toBe(1.25)
    // Neighbours are independent.
    const pairs = data.filter((value, i) => value === 0 && data[i + 1] === 0).length / data.length
    expect(Math.abs(pairs - 0.04)).toBeLessThan(0.003)
  }
  const both = drawn[0]!.data.filter((value, i) => value === 0 && drawn[1]!.data[i] === 0).length
  expect(Math.abs(both / 100_000 - 0.04)).toBeLessThan(0.003)
})
