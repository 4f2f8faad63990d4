// Axes: N out features, K in features.
import {
  bytesPerElement,
  defaultGroupSize,
  type PackedFormat,
  type PackedWeight,
  type QuantizeOptions,
  type Tensor,
} from '@kinora/kernel-api'

import { wgpuErrors } from '../../errors.ts'
import { produce, scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { expectFloat, expectRank } from '../../program/expect.ts'
import { withSchedules } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { elementwiseSchedule, elementwiseSchedules } from '../../tuning/elementwise-schedule.ts'
import { rowSchedule, rowSchedules } from '../../tuning/row-schedule.ts'
import {
  quantizeFloat8Bindings,
  quantizeFloat8Text,
  quantizeUint4Bindings,
  quantizeUint4Text,
  type QuantizeFloat8Variant,
  type QuantizeUint4Variant,
} from './quantize.wgsl.ts'

const stored = ['f32', 'f16', 'f16-packed', 'bf16'] as const

/**
 * `Ops.quantize` for uint4: a scale and a zero for each group along K, eight codes a word.
 *
 * - `w` [N, K] dtype, read · `codes` [N, K/8] u32, written · `scales`, `zeros` [N, groups] f16, written
 */
export const quantizeUint4Kernel = defineKernel<QuantizeUint4Variant>({
  name: 'quantize-uint4',
  bindings: quantizeUint4Bindings,
  uniforms: { n: 'u32', group_size: 'u32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: quantizeUint4Text,
  variants: () =>
    withSchedules(
      elementwiseSchedules,
      stored.flatMap((w) => (['f32', 'f16'] as const).map((scale) => ({ w, scale }))),
    ),
})

/**
 * `Ops.quantize` for float8_e4m3: a scale for each row, four codes a word.
 *
 * - `w` [N, K] dtype, read · `codes` [N, K/4] u32, written · `scales` [N] f32, written
 */
export const quantizeFloat8Kernel = defineKernel<QuantizeFloat8Variant>({
  name: 'quantize-float8',
  bindings: quantizeFloat8Bindings,
  uniforms: { N: 'u32', words_per_row: 'u32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: quantizeFloat8Text,
  variants: () =>
    withSchedules(
      rowSchedules,
      stored.map((w) => ({ w })),
    ),
})

/** `Ops.quantize`. */
export function quantize(
  run: Runner,
  weight: Tensor,
  format: PackedFormat,
  { groupSize = defaultGroupSize }: QuantizeOptions = {},
): PackedWeight {
  const op = 'quantize'
  expectFloat(op, 'weight', weight)
  expectRank(op, 'weight', weight, 2)
  const w = run.own(op, weight)
  const [N, K] = w.shape as readonly [number, number]
  const isWhole = format === 'uint4' ? K % groupSize === 0 && groupSize % 8 === 0 : K % 4 === 0
  if (!isWhole) {
    const unit = format === 'uint4' ? `groups of ${groupSize}` : 'words'
    throw wgpuErrors.BAD_SHAPE(op, `a ${format} weight [${N}, ${K}] does not fill whole ${unit}.`)
  }
  return format === 'uint4' ? packUint4(run, w, groupSize) : packFloat8(run, w)
}

function storedFormat(run: Runner, { dtype }: WgpuTensor): (typeof stored)[number] {
  return dtype === 'f16' && !run.profile.f16 ? 'f16-packed' : (dtype as 'f32' | 'f16' | 'bf16')
}

function packUint4(run: Runner, w: WgpuTensor, groupSize: number): PackedWeight {
  const shape = w.shape as readonly [number, number]
  const [N, K] = shape
  const groups = K / groupSize
  const codes = run.alloc([N, K / 8], 'u32')
  let zeros: WgpuTensor | undefined
  const scales = produce(run, [N, groups], 'f16', (scales) => {
    zeros = produce(run, [N, groups], 'f16', (zeros) => {
      const schedule = elementwiseSchedule(run.profile)
      const bytes: Record<string, number> = {
        w: K * bytesPerElement[w.dtype],
        codes: K / 2,
        scales: groups * bytesPerElement[scales.dtype],
      }
      for (const rows of run.windows(quantizeUint4Kernel.name, N, bytes)) {
        const n = (rows.end - rows.start) * groups
        run.run(
          quantizeUint4Kernel,
          { w: storedFormat(run, w), scale: scalarOf(scales) as 'f32', ...schedule },
          {
            w: run.rows(w, rows, bytes['w']!),
            codes: run.rows(codes, rows, bytes['codes']!),
            scales: run.rows(scales, rows, bytes['scales']!),
            zeros: run.rows(zeros, rows, bytes['scales']!),
          },
          { n, group_size: groupSize },
          Math.ceil(n / (schedule.workgroupSize * schedule.perInvocation)),
        )
      }
    })
  })
  return { format: 'uint4', shape, codes, scales, zeros: zeros!, groupSize }
}

function packFloat8(run: Runner, w: WgpuTensor): PackedWeight {
  const shape = w.shape as readonly [number, number]
  const [N, K] = shape
  const codes = run.alloc([N, K / 4], 'u32')
  const scales = run.alloc([N], 'f32')
  const schedule = rowSchedule(run.profile, K / 4)
  const bytes = { w: K * bytesPerElement[w.dtype], codes: K, scales: 4 }
  for (const rows of run.windows(quantizeFloat8Kernel.name, N, bytes)) {
    run.run(
      quantizeFloat8Kernel,
      { w: storedFormat(run, w), ...schedule },
      {
        w: run.rows(w, rows, bytes.w),
        codes: run.rows(codes, rows, bytes.codes),
        scales: run.rows(scales, rows, bytes.scales),
      },
      { N: rows.end - rows.start, words_per_row: K / 4 },
      Math.ceil((rows.end - rows.start) / (schedule.workgroupSize / schedule.lanes)),
    )
  }
  return { format: 'float8_e4m3', shape, codes, scales }
}
