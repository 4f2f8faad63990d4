import type { AdamWOptions, LossKind } from '../../ops.ts'
import {
  Inputs,
  rowName,
  runAndCompare,
  type Bound,
  type ConformanceCase,
} from '../conformance-case.ts'
import * as reference from '../reference.ts'
import { refArray, type RefArray } from '../reference.ts'

/** Losses, norms and updates: f32 throughout, whatever the networks compute in. */
export function trainingCases(): ConformanceCase[] {
  return [...lossCases(), ...sumSquaresCases(), ...addIntoCases(), ...adamwCases()]
}

const sumBound: Bound = {
  max: 2e-6,
  why: 'A sum of up to 20 000 positive terms in f32; any tree or a chunked order stays within some units.',
}
const stepBound: Bound = {
  max: 1e-6,
  why: 'Some f32 operations an element; a square root and a division of 2.5 units in the last place.',
}

function lossCases(): ConformanceCase[] {
  const kinds: LossKind[] = ['mse', 'mae', 'pseudo-huber']
  const shapes = [
    [1, 1],
    [3, 7],
    [2, 16, 3, 5, 7],
    [1, 16, 5, 16, 15],
  ]
  return kinds.flatMap((kind) =>
    shapes.flatMap((shape) =>
      [false, true].map((masked): ConformanceCase => {
        const name = rowName({ kind, shape, masked })
        return {
          op: 'loss and lossGrad',
          name,
          bound: sumBound,
          async run(device) {
            const inputs = new Inputs(`loss ${name}`)
            const [p, target] = [inputs.normal(shape), inputs.normal(shape)]
            const mask = masked ? inputs.normal(shape, 'f32', 0.3, 1) : undefined
            const itemScale = Array.from({ length: shape[0]! }, (_, b) => 0.5 + b)
            const expected = [
              { name: 'loss', want: reference.loss(p, target, kind, mask) },
              { name: 'gradient', want: reference.lossGrad(p, target, kind, itemScale, mask) },
            ].map((result) => ({ ...result, dtype: 'f32' as const, bound: sumBound }))
            await runAndCompare(device, expected, (ops, put) => {
              const [pT, targetT] = [put(p), put(target)]
              const options = { kind, mask: mask && put(mask) }
              return [
                ops.loss(pT, targetT, options),
                ops.lossGrad(pT, targetT, { ...options, itemScale }),
              ]
            })
          },
        }
      }),
    ),
  )
}

function sumSquaresCases(): ConformanceCase[] {
  const rows: { shapes: number[][]; size?: number; poison?: number }[] = [
    { shapes: [[1]] },
    { shapes: [[3, 5], [7], [257]] },
    {
      shapes: [
        [70, 320],
        [16, 320],
        [320, 16],
      ],
    },
    { shapes: [[33]], size: 1e-6 },
    { shapes: [[33]], size: 1e15 },
    { shapes: [[5], [129]], poison: NaN },
    { shapes: [[5], [129]], poison: Infinity },
  ]
  return rows.map(({ shapes, size = 1, poison }): ConformanceCase => {
    const name = rowName({ shapes, size, poison: poison === undefined ? undefined : `${poison}` })
    return {
      op: 'sumSquares',
      name,
      bound: sumBound,
      async run(device) {
        const inputs = new Inputs(`sumSquares ${name}`)
        const arrays = shapes.map((shape) => inputs.normal(shape, 'f32', size))
        if (poison !== undefined) {
          arrays[1]!.data[128] = poison
          const sum = device.scope(() =>
            device.ops.sumSquares(
              arrays.map(({ data, shape }) => device.upload(Float32Array.from(data), shape, 'f32')),
            ),
          )
          const value = (await device.read(sum))[0]!
          device.release(sum)
          if (Number.isFinite(value)) throw new Error(`${poison} was lost: the sum is ${value}.`)
          return
        }
        const want = refArray([1], [reference.sumSquares(arrays)])
        await runAndCompare(
          device,
          [{ name: 'sum', want, dtype: 'f32', bound: sumBound }],
          (ops, put) => [ops.sumSquares(arrays.map((array) => put(array)))],
        )
      },
    }
  })
}

function addIntoCases(): ConformanceCase[] {
  const rows: { shape: number[]; scale?: number }[] = [
    { shape: [1] },
    { shape: [7, 13], scale: -0.25 },
    { shape: [4099], scale: 3 },
  ]
  return rows.map(({ shape, scale }): ConformanceCase => {
    const name = rowName({ shape, scale })
    return {
      op: 'addInto',
      name,
      bound: stepBound,
      async run(device) {
        const inputs = new Inputs(`addInto ${name}`)
        const [target, source] = [inputs.normal(shape), inputs.normal(shape)]
        const want = reference.add(target, reference.affine(source, scale))
        await runAndCompare(
          device,
          [{ name: 'target', want, dtype: 'f32', bound: stepBound }],
          (ops, put) => {
            const tensor = put(target)
            ops.addInto(tensor, put(source), scale)
            return [tensor]
          },
        )
      },
    }
  })
}

function adamwCases(): ConformanceCase[] {
  const usual = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 1e-4 }
  const rows: { shapes: number[][]; options: Omit<AdamWOptions, 'step'> }[] = [
    { shapes: [[1]], options: { ...usual, gradScale: 1 } },
    { shapes: [[16, 65], [65, 16], [3]], options: { ...usual, gradScale: 0.37 } },
    {
      shapes: [[4099], [7, 13]],
      options: { ...usual, learningRate: 0.05, weightDecay: 0.5, eps: 1e-3, gradScale: 1 / 65536 },
    },
  ]
  return rows.map(({ shapes, options }): ConformanceCase => {
    const name = rowName({ shapes, ...options, steps: 3 })
    return {
      op: 'adamw',
      name,
      bound: stepBound,
      async run(device) {
        const inputs = new Inputs(`adamw ${name}`)
        const param = shapes.map((shape) => inputs.normal(shape))
        const grads = [1, 2, 3].map(() =>
          shapes.map((shape) => inputs.normal(shape, 'f32', 1 / options.gradScale)),
        )
        let state = param.map((p) => ({ param: p, m: refArray(p.shape), v: refArray(p.shape) }))
        grads.forEach((grad, i) => {
          state = state.map((slot, j) =>
            reference.adamw({ ...slot, grad: grad[j]! }, { ...options, step: i + 1 }),
          )
        })
        const keys = ['param', 'm', 'v'] as const
        const expected = state.flatMap((slot, j) =>
          keys.map((key) => ({
            name: `${key}${j}`,
            want: slot[key] as RefArray,
            dtype: 'f32' as const,
            bound: stepBound,
          })),
        )
        await runAndCompare(device, expected, (ops, put) => {
          const slots = param.map((p) => ({
            param: put(p),
            m: put(refArray(p.shape)),
            v: put(refArray(p.shape)),
          }))
          grads.forEach((grad, i) => {
            ops.adamw(
              slots.map((slot, j) => ({ ...slot, grad: put(grad[j]!) })),
              { ...options, step: i + 1 },
            )
          })
          return slots.flatMap((slot) => keys.map((key) => slot[key]))
        })
      },
    }
  })
}
