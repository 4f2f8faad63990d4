// Axes: N out features, K in features.
import { bytesPerElement, type PackedWeight } from '@kinora/kernel-api'

import { wgpuErrors } from '../../errors.ts'
import { computable, scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { expectFloat, expectShape } from '../../program/expect.ts'
import { withSchedules } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { elementwiseSchedule, elementwiseSchedules } from '../../tuning/elementwise-schedule.ts'
import { WEIGHT_BLOCK } from '../matmul/units/subgroup-matrix.wgsl.ts'
import { dequantizeBindings, dequantizeText, type DequantizeVariant } from './dequantize.wgsl.ts'

const floats = ['f32', 'f16'] as const

/**
 * Expands a packed weight: uint4 w = (code − zero) · scale in groups along K, float8_e4m3 w = code · scale a row.
 *
 * - `codes` [N, K/8 or K/4] u32, read · `scales` (and `zeros`) [N, groups] dtype, read · `y` [N, K] dtype, written; `blocked`
 *   as [K / 32, N, 32]
 */
export const dequantizeKernel = defineKernel<DequantizeVariant>({
  name: 'dequantize',
  bindings: dequantizeBindings,
  uniforms: {
    n: 'u32',
    words_per_row: 'u32',
    words_per_group: 'u32',
    // Rows of the weight, and the first of this dispatch, where y is blocked.
    rows: 'u32',
    first_row: 'u32',
    // Always 0: keeps the compiler from folding the NaN it is or-ed into.
    zero: 'u32',
  },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: dequantizeText,
  variants: () =>
    withSchedules(
      elementwiseSchedules,
      (['uint4', 'float8_e4m3'] as const).flatMap((format) =>
        floats.flatMap((scale) => [
          ...floats.map((y) => ({ format, scale, y, blocked: false })),
          { format, scale, y: 'f16' as const, blocked: true },
        ]),
      ),
    ),
})

/**
 * The dense [N, K] matrix of a packed weight, in `dtype`, as scratch of the surrounding scope; `blocked` in the order of
 * `blockedWeight`.
 */
export function dequantize(
  run: Runner,
  op: string,
  weight: PackedWeight,
  dtype: 'f32' | 'f16',
  blocked: boolean,
): WgpuTensor {
  const [N, K] = weight.shape
  const perWord = weight.format === 'uint4' ? 8 : 4
  const groupSize = weight.groupSize ?? K
  if (K % perWord !== 0 || K % groupSize !== 0 || groupSize % perWord !== 0) {
    throw wgpuErrors.BAD_SHAPE(
      op,
      `a ${weight.format} weight [${N}, ${K}] with groups of ${groupSize} does not fill whole words.`,
    )
  }
  const groups = weight.format === 'uint4' ? K / groupSize : 1
  expectShape(op, 'codes', weight.codes, [N, K / perWord])
  expectFloat(op, 'scales', weight.scales)
  const codes = run.own(op, weight.codes)
  const scales = computable(run, op, weight.scales)
  const zeros = weight.zeros && computable(run, op, weight.zeros)
  if (scales.numElements !== N * groups) {
    throw wgpuErrors.BAD_SHAPE(op, `scales [${scales.shape.join(', ')}] are not [${N}, ${groups}].`)
  }
  if (weight.format === 'uint4' && (!zeros || zeros.dtype !== scales.dtype)) {
    throw wgpuErrors.BAD_DTYPE(op, 'a uint4 weight needs zeros of the dtype of its scales.')
  }
  const y = run.alloc(blocked ? [K / WEIGHT_BLOCK, N, WEIGHT_BLOCK] : [N, K], dtype)
  const schedule = elementwiseSchedule(run.profile)
  const bytes: Record<string, number> = {
    codes: (K / perWord) * 4,
    scales: groups * bytesPerElement[scales.dtype],
    ...(blocked ? {} : { y: K * bytesPerElement[dtype] }),
  }
  for (const rows of run.windows(op, N, bytes)) {
    const n = (rows.end - rows.start) * (K / perWord)
    run.run(
      dequantizeKernel,
      { format: weight.format, scale: scalarOf(scales) as 'f32', y: dtype, blocked, ...schedule },
      {
        codes: run.rows(codes, rows, bytes['codes']!),
        scales: run.rows(scales, rows, bytes['scales']!),
        ...(weight.format === 'uint4' ? { zeros: run.rows(zeros!, rows, bytes['scales']!) } : {}),
        y: blocked ? y : run.rows(y, rows, bytes['y']!),
      },
      {
        n,
        words_per_row: K / perWord,
        words_per_group: groupSize / perWord,
        rows: N,
        first_row: rows.start,
        zero: 0,
      },
      Math.ceil(n / (schedule.workgroupSize * schedule.perInvocation)),
    )
  }
  return y
}
