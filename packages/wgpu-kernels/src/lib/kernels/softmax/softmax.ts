// Axes: B batch, H heads, N queries, M keys, rows of one block of queries.
import { defineKernel } from '../../program/define-kernel.ts'
import { withSchedules } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { rowSchedule, rowSchedules } from '../../tuning/row-schedule.ts'
import { widthOf } from '../../wgsl/float-vector.ts'
import { softmaxBindings, softmaxText, type SoftmaxVariant } from './softmax.wgsl.ts'

/**
 * In place, a block of attention's score rows. Forward: P = softmax(scores + bias + keyBias) and the rows' log-sum-exp.
 * Backward: P again from the kept log-sum-exp, and dS = scale · P ∘ (dP − Σ_j P dP) over dP.
 *
 * - `scores` [B, H, rows, M] f32, read and written · `dscores` the same, read and written (backward)
 * - `bias` [H, N, M] f32, read · `key_bias` [B, M] f32, read · `lse` [B, H, N] f32, written (backward: read)
 */
export const softmaxKernel = defineKernel<SoftmaxVariant>({
  name: 'softmax',
  bindings: softmaxBindings,
  // M counts vectors.
  uniforms: {
    R: 'u32',
    M: 'u32',
    H: 'u32',
    N: 'u32',
    rows: 'u32',
    first_row: 'u32',
    first_batch: 'u32',
    scale: 'f32',
  },
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: softmaxText,
  variants: () =>
    withSchedules(
      rowSchedules,
      (['forward', 'backward'] as const).flatMap((pass) =>
        [false, true].flatMap((bias) =>
          [false, true].flatMap((keyBias) =>
            ([1, 4] as const).map((width) => ({ pass, bias, keyBias, width })),
          ),
        ),
      ),
    ),
})

export interface SoftmaxBlock {
  readonly scores: WgpuTensor
  /** Given: the backward pass. */
  readonly dscores?: WgpuTensor
  readonly lse: WgpuTensor
  readonly bias: WgpuTensor | undefined
  readonly keyBias: WgpuTensor | undefined
  /** Batch items and rows of the block, and all queries. */
  readonly batches: number
  readonly firstBatch: number
  readonly H: number
  readonly rows: number
  readonly firstRow: number
  readonly N: number
  readonly M: number
  readonly scale: number
}

export function softmaxBlock(run: Runner, block: SoftmaxBlock): void {
  const { scores, dscores, lse, bias, keyBias, batches, H, rows, N, M } = block
  const width = widthOf(M)
  const schedule = rowSchedule(run.profile, M / width)
  const R = batches * H * rows
  run.run(
    softmaxKernel,
    {
      pass: dscores ? 'backward' : 'forward',
      bias: bias !== undefined,
      keyBias: keyBias !== undefined,
      width,
      ...schedule,
    },
    {
      scores,
      lse,
      ...(dscores ? { dscores } : {}),
      ...(bias ? { bias } : {}),
      ...(keyBias ? { key_bias: keyBias } : {}),
    },
    {
      R,
      M: M / width,
      H,
      N,
      rows,
      first_row: block.firstRow,
      first_batch: block.firstBatch,
      scale: block.scale,
    },
    Math.ceil(R / (schedule.workgroupSize / schedule.lanes)),
  )
}
