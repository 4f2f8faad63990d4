import type { AdamWOptions, LossKind } from '../../ops.ts'
import {
  compare,
  Inputs,
  rowName,
  runAndCompare,
  upload,
  type Bound,
  type ConformanceCase,
} from '../conformance-case.ts'
import * as reference from '../reference.ts'
import { refArray, type RefArray, type RefBlockState } from '../reference.ts'
import type { Device } from '../../device.ts'
import type { BlockState } from '../../ops.ts'
import { stateBlockSize } from '../../block-state.ts'

/** Losses, norms and updates: f32 throughout, whatever the networks compute in. */
export function trainingCases(): ConformanceCase[] {
  return [
    ...lossCases(),
    ...sumSquaresCases(),
    ...addIntoCases(),
    ...adamwCases(),
    ...adamw8bitCases(),
  ]
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

const codeBound: Bound = {
  max: 2e-3,
  why: 'A number within f32 rounding of a tie may take the code beside it, a hundredth of the largest at most.',
}
const quantizedStepBound: Bound = {
  max: 1e-5,
  why: 'Those of adamw, and where a code fell to the other side, a hundredth of one update.',
}

function adamw8bitCases(): ConformanceCase[] {
  const usual = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-6, weightDecay: 1e-2 }
  const rows: { shapes: number[][]; numbers: string; gradScale: number }[] = [
    { shapes: [[1], [3]], numbers: 'normal', gradScale: 1 },
    { shapes: [[256], [257], [255]], numbers: 'normal', gradScale: 0.37 },
    {
      shapes: [
        [16, 320],
        [321, 7],
      ],
      numbers: 'normal',
      gradScale: 1 / 65536,
    },
    { shapes: [[33, 129]], numbers: 'over ten decades', gradScale: 1 },
    { shapes: [[1024], [5, 100]], numbers: 'mostly zeros', gradScale: 1 },
  ]
  return rows.map(({ shapes, numbers, gradScale }): ConformanceCase => {
    const name = rowName({ shapes, numbers, gradScale, steps: 4 })
    return {
      op: 'adamw8bit',
      name,
      bound: quantizedStepBound,
      async run(device) {
        const inputs = new Inputs(`adamw8bit ${name}`)
        const gradient = (shape: readonly number[]): RefArray => {
          const grad = inputs.normal(shape, 'f32', 1 / gradScale)
          if (numbers === 'normal') return grad
          const sizes = inputs.normal(shape)
          return refArray(
            shape,
            Float32Array.from(grad.data, (value, i) =>
              numbers === 'mostly zeros'
                ? sizes.data[i]! > 1
                  ? value
                  : 0
                : value * 10 ** (2.5 * sizes.data[i]!),
            ),
          )
        }
        const options = (step: number): AdamWOptions => ({ ...usual, gradScale, step })
        for (const shape of shapes) {
          const param = inputs.normal(shape)
          const grads = [1, 2, 3, 4].map(() => gradient(shape))
          const n = param.data.length
          const empty: RefBlockState = {
            codes: Array<number>(n).fill(0),
            scales: Array<number>(Math.ceil(n / stateBlockSize)).fill(0),
          }
          let want = { param, m: empty, v: empty }
          grads.forEach((grad, i) => {
            want = reference.adamw8bit({ ...want, grad }, options(i + 1))
          })

          const tensors = {
            param: upload(device, param),
            m: zeroState(device, n),
            v: zeroState(device, n),
          }
          device.scope(() => {
            grads.forEach((grad, i) =>
              device.ops.adamw8bit([{ ...tensors, grad: upload(device, grad) }], options(i + 1)),
            )
          })
          try {
            compare('param', await device.read(tensors.param), want.param, quantizedStepBound)
            for (const [key, kind] of [
              ['m', 'signed'],
              ['v', 'unsigned'],
            ] as const) {
              const got = await readState(device, tensors[key], n)
              const values = (state: RefBlockState): RefArray =>
                refArray([n], reference.dequantizeState(state, kind))
              compare(key, values(got).data, values(want[key]), codeBound)
            }
          } finally {
            const { m, v } = tensors
            for (const tensor of [tensors.param, m.codes, m.scales, v.codes, v.scales]) {
              device.release(tensor)
            }
          }
        }
      },
    }
  })
}

function zeroState(device: Device, n: number): BlockState {
  return {
    codes: device.zeros([Math.ceil(n / 4)], 'u32'),
    scales: device.zeros([Math.ceil(n / stateBlockSize)], 'f32'),
  }
}

async function readState(
  device: Device,
  { codes, scales }: BlockState,
  n: number,
): Promise<RefBlockState> {
  const words = await device.read(codes)
  return {
    codes: Array.from({ length: n }, (_, i) => (words[i >> 2]! >>> (8 * (i & 3))) & 0xff),
    scales: Array.from(await device.read(scales)),
  }
}
