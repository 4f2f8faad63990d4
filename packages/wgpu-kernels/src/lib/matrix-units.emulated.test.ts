import {
  f16FromF32,
  f32FromF16,
  normals,
  numElements,
  type Conv3dOptions,
  type Tensor,
} from '@kinora/kernel-api'
import * as reference from '@kinora/kernel-api/testing'
import { describe, expect, it } from 'vitest'

import { createEmulatedGpu, emulatedAdapterInfo } from '../../test/emulated-gpu/emulated-gpu.ts'
import { createDevice } from './device/wgpu-device.ts'
import { matrixBlocks, type MatrixBlockName } from './tuning/matrix-unit.ts'

// The tensor-core kernels in an interpreter that checks bounds, barriers and races, since no software driver has subgroup
// matrices. Sizes are the smallest that reach every edge: blocks cut off on both sides, a last step, padding.

const device = createDevice(createEmulatedGpu(), emulatedAdapterInfo)
const { ops } = device
/** Tests share the processor with others, and an interpreter is slow. */
const SLOW = 120_000

interface Operand {
  readonly tensor: Tensor
  readonly values: reference.RefArray
}
let stream = 1
function put(shape: readonly number[], dtype: 'f32' | 'f16', scale = 1, on = device): Operand {
  const values = normals(7, stream++, numElements(shape)).map((x) => x * scale)
  const bits = f16FromF32(values)
  return {
    tensor: on.upload(dtype === 'f32' ? values : bits, shape, dtype),
    values: reference.refArray(shape, dtype === 'f32' ? values : f32FromF16(bits)),
  }
}

/** ‖got − want‖ / ‖want‖. */
async function distance(got: Tensor, want: reference.RefArray, on = device): Promise<number> {
  expect(got.shape).toEqual(want.shape)
  const values = await on.read(got)
  let difference = 0
  let norm = 0
  for (let i = 0; i < values.length; i++) {
    difference += (values[i]! - want.data[i]!) ** 2
    norm += want.data[i]! ** 2
  }
  return Math.sqrt(difference / norm)
}

interface ConvRow {
  readonly x: readonly number[]
  readonly O: number
  readonly kernel: readonly [number, number, number]
  readonly options: Omit<Conv3dOptions, 'bias'>
  readonly bias?: boolean
}
const causal = [
  [2, 0],
  [1, 1],
  [1, 1],
] as const
const convolutions: ConvRow[] = [
  {
    x: [1, 3, 13, 14, 32],
    O: 104,
    kernel: [2, 1, 1],
    options: {
      padding: [
        [1, 0],
        [0, 0],
        [0, 0],
      ],
    },
    bias: true,
  },
  { x: [1, 1, 23, 24, 32], O: 3, kernel: [1, 2, 1], options: {}, bias: true },
  { x: [1, 1, 23, 23, 64], O: 24, kernel: [1, 1, 1], options: {} },
  { x: [1, 3, 13, 15, 32], O: 24, kernel: [3, 1, 3], options: { padding: causal }, bias: true },
  {
    x: [1, 1, 12, 11, 32],
    O: 128,
    kernel: [1, 2, 2],
    options: {
      padding: [
        [0, 0],
        [1, 0],
        [0, 1],
      ],
      upsample: 2,
    },
  },
  {
    x: [2, 5, 12, 11, 64],
    O: 32,
    kernel: [3, 1, 1],
    options: { stride: [2, 1, 1] },
    bias: true,
  },
  {
    x: [1, 1, 47, 45, 32],
    O: 32,
    kernel: [1, 3, 3],
    options: {
      stride: [1, 2, 2],
      padding: [
        [0, 0],
        [0, 1],
        [0, 1],
      ],
    },
  },
]

describe('conv3d on subgroup matrices', () => {
  for (const dtype of ['f32', 'f16'] as const) {
    for (const { x: shape, O, kernel, options, bias: hasBias } of convolutions) {
      it(
        `${dtype}, x [${shape.join(',')}], O ${O}, kernel [${kernel.join(',')}]`,
        async () => {
          const K = shape[4]!
          const x = put(shape, dtype)
          const w = put(
            [O, ...kernel, K],
            dtype,
            1 / Math.sqrt(kernel[0] * kernel[1] * kernel[2] * K),
          )
          const bias = hasBias ? put([O], dtype) : undefined
          const y = ops.conv3d(x.tensor, w.tensor, {
            ...options,
            ...(bias ? { bias: bias.tensor } : {}),
          })
          const want = reference.conv3d(x.values, w.values, {
            ...options,
            ...(bias ? { bias: bias.values } : {}),
          })
          expect(await distance(y, want)).toBeLessThan(dtype === 'f32' ? 3e-6 : 5e-4)
        },
        SLOW,
      )
    }
  }
})

describe('linear on subgroup matrices', () => {
  it(
    'has the gradients of the reference, with an adapter',
    async () => {
      const [M, N, K, rank] = [150, 136, 256, 24] as const
      const x = put([1, M, K], 'f16')
      const w = put([N, K], 'f16', 1 / 16)
      const bias = put([N], 'f16')
      const dy = put([1, M, N], 'f16')
      const a = put([rank, K], 'f32', 1 / 16)
      const b = put([N, rank], 'f32')
      const adapters = [{ a: a.tensor, b: b.tensor, scale: 0.5 }]
      const own = [{ a: a.values, b: b.values, scale: 0.5 }]
      const y = ops.linear(x.tensor, w.tensor, { bias: bias.tensor, adapters })
      const want = reference.linear(x.values, w.values, bias.values, own)
      expect(await distance(y, want)).toBeLessThan(1e-3)
      const got = ops.linearGrad(dy.tensor, x.tensor, w.tensor, { adapters, needsX: true })
      const grads = reference.linearGrad(dy.values, x.values, w.values, own)
      expect(await distance(got.dx!, grads.dx)).toBeLessThan(1e-3)
      expect(await distance(got.adapters[0]!.da, grads.adapters[0]!.da)).toBeLessThan(1e-3)
      expect(await distance(got.adapters[0]!.db, grads.adapters[0]!.db)).toBeLessThan(1e-3)
    },
    SLOW,
  )

  for (const [format, pack] of [
    ['uint4', (w: reference.RefArray) => reference.quantizeUint4(w, 64, false)],
    ['float8_e4m3', (w: reference.RefArray) => reference.quantizeFloat8(w, false)],
  ] as const) {
    it(
      `multiplies by a weight packed as ${format}`,
      async () => {
        const x = put([136, 192], 'f16')
        const w = put([144, 192], 'f32', 1 / 8)
        const packed = ops.quantize(w.tensor, format)
        const dense = reference.dequantize(pack(w.values))
        const y = ops.linear(x.tensor, packed)
        expect(await distance(y, reference.linear(x.values, dense))).toBeLessThan(1e-3)
        const dy = put([136, 144], 'f16')
        const { dx } = ops.linearGrad(dy.tensor, x.tensor, packed, { needsX: true })
        const want = reference.linearGrad(dy.values, x.values, dense)
        expect(await distance(dx!, want.dx)).toBeLessThan(1e-3)
      },
      SLOW,
    )
  }

  /** A device of so many multiprocessors, and which of its products were computed in parts. */
  const onWaves = (overrides: { block?: MatrixBlockName; multiprocessors: number }) => {
    const labels: string[] = []
    const gpu = createEmulatedGpu({
      driver(label, code) {
        labels.push(label)
        return code
      },
    })
    return {
      on: createDevice(gpu, emulatedAdapterInfo, { overrides }),
      inParts: () => labels.filter((label) => /"parts":[234]/.test(label)),
    }
  }
  let sums: ArrayLike<number>[] | undefined
  it.each(Object.keys(matrixBlocks) as MatrixBlockName[])(
    'adds up the parts of what is left over after whole waves, the same in blocks of %s',
    async (block) => {
      // Two rows by three columns of 256 × 128 on four multiprocessors: the last column is left.
      const overrides = { block, multiprocessors: 4 } as const
      const { on, inParts } = onWaves(overrides)
      const [M, N, K, rank] = [264, 384, 128, 8] as const
      stream = 200
      const x = put([M, K], 'f16', 1, on)
      const w = put([N, K], 'f16', 1 / 8, on)
      const bias = put([N], 'f16', 1, on)
      const a = put([rank, K], 'f32', 1 / 8, on)
      const b = put([N, rank], 'f32', 1, on)
      const adapters = [{ a: a.tensor, b: b.tensor, scale: 0.5 }]
      const own = [{ a: a.values, b: b.values, scale: 0.5 }]
      const y = on.ops.linear(x.tensor, w.tensor, { bias: bias.tensor, adapters })
      const want = reference.linear(x.values, w.values, bias.values, own)
      expect(await distance(y, want, on)).toBeLessThan(1e-3)
      // The other layout: dy [M, K] by a weight [K, N], its adapter likewise.
      const dy = put([M, K], 'f16', 1, on)
      const back = put([K, N], 'f16', 1 / 8, on)
      const input = put([M, N], 'f16', 1, on)
      const down = put([rank, N], 'f32', 1 / 8, on)
      const up = put([K, rank], 'f32', 1, on)
      const { dx } = on.ops.linearGrad(dy.tensor, input.tensor, back.tensor, {
        adapters: [{ a: down.tensor, b: up.tensor, scale: 0.5 }],
        needsX: true,
      })
      const grads = reference.linearGrad(dy.values, input.values, back.values, [
        { a: down.values, b: up.values, scale: 0.5 },
      ])
      expect(await distance(dx!, grads.dx, on)).toBeLessThan(1e-3)
      const answers = [await on.read(y), await on.read(dx!)]
      sums ??= answers
      expect(answers).toEqual(sums)
      expect(inParts().map((label) => /"layout":"(..)"/.exec(label)![1])).toEqual(['nt', 'nn'])
    },
    SLOW,
  )

  it(
    'adds them up behind the first rows, where these end with part of a block',
    async () => {
      const { on, inParts } = onWaves({ multiprocessors: 10 })
      const [M, N, K] = [1288, 256, 128] as const
      const x = put([M, K], 'f16', 1, on)
      const w = put([N, K], 'f16', 1 / 8, on)
      const y = on.ops.linear(x.tensor, w.tensor)
      expect(await distance(y, reference.linear(x.values, w.values), on)).toBeLessThan(1e-3)
      expect(inParts()).toHaveLength(1)
    },
    SLOW,
  )

  let first: ArrayLike<number>[] | undefined
  for (const block of Object.keys(matrixBlocks) as MatrixBlockName[]) {
    it(
      `in blocks of ${block}, all with the same answer`,
      async () => {
        const on = createDevice(createEmulatedGpu(), emulatedAdapterInfo, { overrides: { block } })
        const [M, N, K] = [264, 192, 136] as const
        stream = 100
        const x = put([M, N], 'f16', 1, on)
        const w = put([K, N], 'f16', 1 / 8, on)
        const y = on.ops.linear(x.tensor, w.tensor)
        expect(await distance(y, reference.linear(x.values, w.values), on)).toBeLessThan(1e-3)
        // y is [264, 136] = x wᵀ; its gradient by x is y w, the other layout.
        const dy = put([M, N], 'f16', 1 / 8, on)
        const back = put([N, K], 'f16', 1, on)
        const input = put([M, K], 'f16', 1, on)
        const { dx } = on.ops.linearGrad(dy.tensor, input.tensor, back.tensor, { needsX: true })
        const want = reference.linearGrad(dy.values, input.values, back.values)
        expect(await distance(dx!, want.dx, on)).toBeLessThan(1e-3)
        const answers = [await on.read(y), await on.read(dx!)]
        first ??= answers
        expect(answers).toEqual(first)
      },
      SLOW,
    )
  }
})

describe('attention on subgroup matrices', () => {
  for (const { N, M, H, why } of [
    { N: 128, M: 160, H: 2, why: 'whole vectors' },
    { N: 150, M: 133, H: 1, why: 'rows that fill no vector' },
    { N: 200, M: 200, H: 1, why: 'among themselves' },
  ]) {
    it(
      `${N} queries, ${M} keys, ${H} heads: ${why}`,
      async () => {
        const [q, k, v, dout] = [N, M, M, N].map((rows) => put([1, rows, H, 128], 'f16')) as [
          Operand,
          Operand,
          Operand,
          Operand,
        ]
        const { out, lse } = ops.attention(q.tensor, k.tensor, v.tensor)
        const want = reference.attention(q.values, k.values, v.values)
        expect(await distance(out, want.out)).toBeLessThan(1e-3)
        expect(await distance(lse, want.lse)).toBeLessThan(1e-5)
        const saved = { q: q.tensor, k: k.tensor, v: v.tensor, out, lse }
        const got = ops.attentionGrad(dout.tensor, saved)
        const grads = reference.attentionGrad(dout.values, q.values, k.values, v.values)
        for (const name of ['dq', 'dk', 'dv'] as const) {
          expect(await distance(got[name], grads[name]), name).toBeLessThan(2e-3)
        }
      },
      SLOW,
    )
  }

  it(
    'starts again where weights overflow that were not foreseen',
    async () => {
      const q = put([1, 128, 1, 128], 'f16', 16)
      const [k, v] = [put([1, 1056, 1, 128], 'f16'), put([1, 1056, 1, 128], 'f16')]
      const { out, lse } = ops.attention(q.tensor, k.tensor, v.tensor)
      const want = reference.attention(q.values, k.values, v.values)
      expect(await distance(out, want.out)).toBeLessThan(1e-3)
      expect(await distance(lse, want.lse)).toBeLessThan(1e-5)
    },
    SLOW,
  )
})
