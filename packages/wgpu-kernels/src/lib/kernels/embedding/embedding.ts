// Axes: V vocabulary, C channels.
import { bytesPerElement, type DType, type Tensor } from '@kinora/kernel-api'

import { wgpuErrors } from '../../errors.ts'
import { produce, scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { expectFloat, expectRank } from '../../program/expect.ts'
import { withSchedules } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import { describeTensor, type WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { elementwiseSchedule, elementwiseSchedules } from '../../tuning/elementwise-schedule.ts'
import { widthOf } from '../../wgsl/float-vector.ts'
import type { StorageFormat } from '../../wgsl/storage-codec.ts'
import { embeddingBindings, embeddingText, type EmbeddingVariant } from './embedding.wgsl.ts'

/**
 * Rows of a table: y[…, c] = table[ids[…], c].
 *
 * - `ids` […] i32 or u32, read · `table` [V, C] any float, read · `y` […, C] dtype, written
 */
export const embeddingKernel = defineKernel<EmbeddingVariant>({
  name: 'embedding',
  bindings: embeddingBindings,
  // C counts vectors.
  uniforms: { n: 'u32', start: 'u32', C: 'u32', V: 'u32', first_id: 'u32', end_id: 'u32' },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: embeddingText,
  variants: () =>
    withSchedules(
      elementwiseSchedules,
      (['f32', 'f16', 'f16-packed', 'bf16'] as const).flatMap((table) =>
        (['f32', 'f16'] as const).flatMap((y) =>
          ([1, 4] as const).map((width) => ({ table, y, width })),
        ),
      ),
    ),
})

/** `Ops.embedding`. */
export function embedding(
  run: Runner,
  table: Tensor,
  ids: Tensor,
  { dtype = table.dtype }: { dtype?: DType } = {},
): WgpuTensor {
  expectFloat('embedding', 'table', table)
  expectRank('embedding', 'table', table, 2)
  if (ids.dtype !== 'i32' && ids.dtype !== 'u32') {
    throw wgpuErrors.BAD_DTYPE('embedding', `ids ${describeTensor(ids)} must be integers.`)
  }
  const [V, C] = table.shape as [number, number]
  const own = run.own('embedding', table)
  const format: StorageFormat =
    table.dtype === 'f16' && !run.profile.f16 ? 'f16-packed' : table.dtype
  const width = widthOf(C)
  const schedule = elementwiseSchedule(run.profile)
  const rowBytes = C * bytesPerElement[table.dtype]
  return produce(run, [...ids.shape, C], dtype, (y) => {
    const perVector = width * bytesPerElement[y.dtype]
    for (const part of run.windows('embedding', y.numElements / width, { y: perVector })) {
      const n = part.end - part.start
      // A vocabulary may well be larger than a binding.
      for (const rows of run.windows('embedding', V, { table: rowBytes })) {
        run.run(
          embeddingKernel,
          { table: format, y: scalarOf(y) as 'f32', width, ...schedule },
          {
            ids: run.own('embedding', ids),
            table: run.rows(own, rows, rowBytes),
            y: run.rows(y, part, perVector),
          },
          { n, start: part.start, C: C / width, V, first_id: rows.start, end_id: rows.end },
          Math.ceil(n / (schedule.workgroupSize * schedule.perInvocation)),
        )
      }
    }
  })
}
