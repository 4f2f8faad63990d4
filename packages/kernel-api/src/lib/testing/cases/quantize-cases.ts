import type { PackedFormat } from '../../tensor.ts'
import {
  Inputs,
  rounded,
  rowName,
  upload,
  type Bound,
  type ConformanceCase,
} from '../conformance-case.ts'
import {
  dequantize,
  quantizeFloat8,
  quantizeUint4,
  refArray,
  type RefArray,
  type RefPackedWeight,
} from '../reference.ts'

interface QuantizeRow {
  format: PackedFormat
  N: number
  K: number
  groupSize?: number
  dtype: 'f32' | 'f16' | 'bf16'
  /** What the numbers are like. */
  numbers: 'normal' | 'positive' | 'outliers' | 'sparse'
  size?: number
}

// One row and one group, primes, past a workgroup, and the proportions of the real model's linears at a sixteenth.
const sizes = [
  { N: 1, K: 64 },
  { N: 67, K: 192 },
  { N: 5, K: 832 },
  { N: 320, K: 320 },
]

const rows: QuantizeRow[] = [
  ...(['bf16', 'f32', 'f16'] as const).flatMap((dtype) =>
    sizes.slice(0, dtype === 'bf16' ? 4 : 3).flatMap((size) =>
      (['uint4', 'float8_e4m3'] as const).map((format) => ({
        format,
        ...size,
        dtype,
        numbers: 'normal' as const,
      })),
    ),
  ),
  ...(['bf16', 'f32'] as const).flatMap((dtype) =>
    (['positive', 'outliers', 'sparse'] as const).flatMap((numbers) =>
      (['uint4', 'float8_e4m3'] as const).map((format) => ({
        format,
        N: 31,
        K: 256,
        dtype,
        numbers,
      })),
    ),
  ),
  { format: 'uint4', N: 19, K: 96, groupSize: 32, dtype: 'bf16', numbers: 'normal' },
  { format: 'float8_e4m3', N: 3, K: 4, dtype: 'f32', numbers: 'normal' },
  { format: 'float8_e4m3', N: 31, K: 256, dtype: 'f32', numbers: 'normal', size: 1e6 },
]

const bound: Bound = {
  max: 2e-3,
  why: 'Division in WGSL may be off by 2.5 units in the last place, so a number on a tie may take the code beside it: at most one in a thousand numbers by one code, one scale in a hundred by one unit of its dtype.',
}

function draw(inputs: Inputs, { N, K, dtype, numbers, size = 0.05 }: QuantizeRow): RefArray {
  const w = inputs.normal([N, K], 'f32', size)
  w.data.forEach((value, i) => {
    if (numbers === 'positive') w.data[i] = Math.abs(value)
    // Whole groups and rows of zeros, and groups of one number.
    if (numbers === 'sparse' && (i % 97 !== 5 || i < 2 * K)) w.data[i] = 0
    if (numbers === 'outliers' && i % 61 === 7) w.data[i] = value * 300
  })
  return refArray(w.shape, rounded(w.data, dtype))
}

/** Rows of `Ops.quantize`, in every dtype that a checkpoint has. */
export function quantizeCases(): ConformanceCase[] {
  return rows.map((row) => {
    const name = rowName(row)
    return {
      op: 'quantize',
      name,
      bound,
      async run(device) {
        const w = draw(new Inputs(`quantize ${name}`), row)
        const isBf16 = row.dtype === 'bf16'
        const want =
          row.format === 'uint4'
            ? quantizeUint4(w, row.groupSize ?? 64, isBf16)
            : quantizeFloat8(w, isBf16)
        const packed = device.scope(() =>
          device.ops.quantize(
            upload(device, w, row.dtype),
            row.format,
            row.groupSize ? { groupSize: row.groupSize } : {},
          ),
        )
        const { codes, scales, zeros } = packed
        try {
          const perWord = row.format === 'uint4' ? 8 : 4
          const groupSize = row.format === 'uint4' ? (row.groupSize ?? 64) : undefined
          expectEqual('format', packed.format, row.format)
          expectEqual('shape', packed.shape, w.shape)
          expectEqual('groupSize', packed.groupSize, groupSize)
          expectEqual('codes', [...codes.shape, codes.dtype], [row.N, row.K / perWord, 'u32'])
          const scaleDtype = row.format === 'uint4' ? 'f16' : 'f32'
          expectEqual('scales', [...scales.shape, scales.dtype], [...want.scales.shape, scaleDtype])
          expectEqual(
            'zeros',
            zeros && [...zeros.shape, zeros.dtype],
            want.zeros && [...want.zeros.shape, 'f16'],
          )
          const words = (await device.read(codes)) as Uint32Array
          const got: RefPackedWeight = {
            codes: refArray(
              w.shape,
              Array.from(w.data, (_, i) => {
                const word = words[Math.floor(i / perWord)]!
                return (word >>> ((32 / perWord) * (i % perWord))) & (2 ** (32 / perWord) - 1)
              }),
            ),
            scales: refArray(want.scales.shape, await device.read(scales)),
            ...(zeros ? { zeros: refArray(want.zeros!.shape, await device.read(zeros)) } : {}),
          }
          comparePacked(got, want)
        } finally {
          for (const tensor of [codes, scales, ...(zeros ? [zeros] : [])]) device.release(tensor)
        }
      },
    }
  })
}

function expectEqual(name: string, got: unknown, want: unknown): void {
  if (JSON.stringify(got) !== JSON.stringify(want)) {
    throw new Error(`${name} is ${JSON.stringify(got)}, but should be ${JSON.stringify(want)}.`)
  }
}

/** Scales, zeros and numbers that differ, each counted, and how far the worst is off. */
function comparePacked(got: RefPackedWeight, want: RefPackedWeight): void {
  const differing = (
    name: string,
    a: RefArray,
    b: RefArray,
    most: number,
    far: (x: number, y: number) => boolean,
  ) => {
    let count = 0
    for (let i = 0; i < b.data.length; i++) {
      const [x, y] = [a.data[i]!, b.data[i]!]
      if (Object.is(x, y) || x === y) continue
      count++
      if (!Number.isFinite(x) || far(x, y))
        throw new Error(`${name}[${i}] is ${x}, but should be ${y}.`)
    }
    if (count > most * b.data.length) {
      throw new Error(
        `${count} of ${b.data.length} ${name} differ (allowed ${most}). The bound's reason: ${bound.why}`,
      )
    }
  }
  differing(
    'scales',
    got.scales,
    want.scales,
    0.01,
    (x, y) => Math.abs(x - y) > 2 ** -7 * Math.abs(y),
  )
  if (want.zeros) differing('zeros', got.zeros!, want.zeros, 0.01, (x, y) => Math.abs(x - y) > 1)
  // A zero that differs moves all codes of its group: what counts is the number that a code stands for.
  const [a, b] = [dequantize(got), dequantize(want)]
  const perScale = b.data.length / want.scales.data.length
  let count = 0
  b.data.forEach((number, i) => {
    if (a.data[i] === number) return
    count++
    const scale = want.scales.data[Math.floor(i / perScale)]!
    const step = want.zeros ? 1.1 * scale : Math.max(Math.abs(number) / 7, scale * 2 ** -8)
    if (!(Math.abs(a.data[i]! - number) <= step)) {
      throw new Error(`Number ${i} is ${a.data[i]}, but should be ${number}.`)
    }
  })
  if (count > 0.001 * b.data.length + excusedNumbers(got, want)) {
    throw new Error(`${count} of ${b.data.length} numbers differ. The bound's reason: ${bound.why}`)
  }
}

/** How many numbers are in groups whose scale or zero differs: all of them may. */
function excusedNumbers(got: RefPackedWeight, want: RefPackedWeight): number {
  const perScale = want.codes.data.length / want.scales.data.length
  return want.scales.data.reduce(
    (sum, scale, i) =>
      scale === got.scales.data[i] && want.zeros?.data[i] === got.zeros?.data[i]
        ? sum
        : sum + perScale,
    0,
  )
}
