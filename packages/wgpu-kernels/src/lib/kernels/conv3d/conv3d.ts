// Axes: B batch, T frames, Y rows, X columns, K channels in, O channels out.
import { bytesPerElement, type Conv3dOptions, type Tensor } from '@kinora/kernel-api'

import { wgpuErrors } from '../../errors.ts'
import { computable, produce, scalarOf } from '../../program/compute-dtype.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { expectFloat, expectRank, expectShape } from '../../program/expect.ts'
import type { Bound, Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { chooseMatmulSchedule, generalSchedules } from '../../tuning/matmul-schedule.ts'
import { chooseConvMatrix } from '../../tuning/conv3d-schedule.ts'
import { widthOf } from '../../wgsl/float-vector.ts'
import { blockOf, workgroupSizeOf, type MatmulSchedule } from '../matmul/matmul-variant.ts'
import { conv3dBindings, conv3dText, type Conv3dVariant } from './conv3d.wgsl.ts'
import { convUniforms } from './geometry.wgsl.ts'
import { convMatrixKernel, packConvWeight } from './matrix/matrix.ts'
import { CONV_MATRIX_BLOCK_M, type ConvMatrixVariant } from './matrix/matrix.wgsl.ts'

const floats = ['f32', 'f16'] as const
const widths = [1, 4] as const

/**
 * Channels-last 3-D convolution as an implicit product of matrices: strides, zeros before and after, nearest upsampling of
 * rows and columns before it. Sums in f32 over taps in memory order, then channels.
 *
 * - `x` [B, T, Y, X, K], `weight` [O, kT, kY, kX, K], `bias` [O] dtype, read · `y` [B, T', Y', X', O] dtype, written
 */
export const conv3dKernel = defineKernel<Conv3dVariant>({
  name: 'conv3d',
  bindings: conv3dBindings,
  uniforms: { ...convUniforms, tiles_m: 'u32', tiles: 'u32' },
  workgroupSize: ({ schedule }) => workgroupSizeOf(schedule),
  wgsl: conv3dText,
  variants: () =>
    generalSchedules.filter(ownsRows).flatMap((schedule) =>
      floats.flatMap((x) =>
        floats.flatMap((weight) =>
          widths.flatMap((kWidth) =>
            widths.map((oWidth) => ({
              x,
              weight,
              bias: weight,
              y: x,
              kWidth,
              oWidth,
              schedule,
            })),
          ),
        ),
      ),
    ),
})

/** True if a schedule serves a convolution: lanes may own pixels, not channels. */
function ownsRows(schedule: MatmulSchedule): boolean {
  return schedule.unit !== 'broadcast' || schedule.owner === 'a'
}

/** A range of frames of the result, and the frames of x under its taps. */
interface FramePart {
  readonly batch: number
  /** Frames of the result, end exclusive. */
  readonly start: number
  readonly end: number
  /** Frames of x, end exclusive, inside the clip. */
  readonly from: number
  readonly to: number
}

/** Runs one part of a convolution: all bindings but the weight's, and the uniforms of `convUniforms`, for M pixels. */
type ConvDispatch = (
  bindings: Readonly<Record<string, Bound>>,
  uniforms: Readonly<Record<string, number>>,
  M: number,
) => void

interface GeneralConv {
  readonly x: WgpuTensor
  readonly w: WgpuTensor
  readonly b: WgpuTensor | undefined
  readonly y: WgpuTensor
  readonly O: number
  readonly K: number
  readonly depth: number
  readonly pixels: number
}

function generalDispatch(
  run: Runner,
  { x, w, b, y, O, K, depth, pixels }: GeneralConv,
): ConvDispatch {
  const schedule = chooseMatmulSchedule(run.profile, {
    layout: 'nt',
    // At least as many pixels as make lanes own pixels.
    M: Math.max(4, pixels),
    N: O,
    K: depth,
    products: 1,
  })
  const block = blockOf(schedule)
  const variant: Conv3dVariant = {
    x: scalarOf(x) as 'f32',
    weight: scalarOf(w) as 'f32',
    bias: b ? (scalarOf(b) as 'f32') : 'none',
    y: scalarOf(y) as 'f32',
    kWidth: widthOf(K),
    oWidth: widthOf(O),
    schedule,
  }
  return (bindings, uniforms, M) => {
    const tilesM = Math.ceil(M / block.M)
    const tiles = tilesM * Math.ceil(O / block.N)
    run.run(
      conv3dKernel,
      variant,
      { ...bindings, weight: w },
      { ...uniforms, tiles_m: tilesM, tiles },
      schedule.unit === 'direct' ? Math.ceil(tiles / schedule.workgroupSize) : tiles,
    )
  }
}

function matrixDispatch(
  run: Runner,
  variant: ConvMatrixVariant,
  w: WgpuTensor,
  O: number,
  depth: number,
): ConvDispatch {
  const { packed, depthVectors } = packConvWeight(run, w, O, depth, variant.dtype)
  return (bindings, uniforms, M) =>
    run.run(
      convMatrixKernel,
      variant,
      { ...bindings, weight: packed },
      { ...uniforms, depth_vectors: depthVectors },
      Math.ceil(M / CONV_MATRIX_BLOCK_M) * Math.ceil(O / variant.blockN),
    )
}

/** `Ops.conv3d`. */
export function conv3d(
  run: Runner,
  input: Tensor,
  kernel: Tensor,
  { bias, stride = [1, 1, 1], padding, upsample = 1 }: Conv3dOptions = {},
): WgpuTensor {
  const op = 'conv3d'
  for (const [name, tensor] of Object.entries({ x: input, weight: kernel })) {
    expectFloat(op, name, tensor)
    expectRank(op, name, tensor, 5)
  }
  const [B, T, Y, X, K] = input.shape as [number, number, number, number, number]
  const [O, kT, kY, kX] = kernel.shape as [number, number, number, number]
  expectShape(op, 'weight', kernel, [O, kT, kY, kX, K])
  if (bias) expectShape(op, 'bias', bias, [O])
  const pads = padding ?? [
    [0, 0],
    [0, 0],
    [0, 0],
  ]
  const extents = [T, Y * upsample, X * upsample]
  const [To, Yo, Xo] = [kT, kY, kX].map(
    (taps, axis) =>
      Math.floor((extents[axis]! + pads[axis]![0] + pads[axis]![1] - taps) / stride[axis]!) + 1,
  ) as [number, number, number]
  if (To < 1 || Yo < 1 || Xo < 1) {
    throw wgpuErrors.BAD_SHAPE(
      op,
      `x [${input.shape.join(', ')}] with its padding is smaller than the kernel [${kernel.shape.join(', ')}].`,
    )
  }
  const x = computable(run, op, input)
  const w = computable(run, op, kernel)
  const b = bias && computable(run, op, bias)

  return produce(run, [B, To, Yo, Xo, O], input.dtype, (y) => {
    const { maxBindingBytes, storageAlignment } = run.profile.limits
    const room = maxBindingBytes - storageAlignment
    const whole = x.sizeBytes <= room && y.sizeBytes <= room
    const inFrame = Y * X * K
    const outFrame = Yo * Xo * O
    const pixels = B * To * Yo * Xo
    const depth = kT * kY * kX * K
    const matrix = chooseConvMatrix(run.profile, {
      M: pixels,
      O,
      K,
      dtype: scalarOf(x) as 'f32',
      bias: b ? (scalarOf(b) as 'f32') : 'none',
    })
    const dispatch = matrix
      ? matrixDispatch(run, matrix, w, O, depth)
      : generalDispatch(run, { x, w, b, y, O, K, depth, pixels })
    const launch = ({ batch, start, end, from, to }: FramePart, batches: number): void => {
      const M = batches * (end - start) * Yo * Xo
      const source = run.span(op, x, (batch * T + from) * inFrame, batches * (to - from) * inFrame)
      const result = run.span(
        op,
        y,
        (batch * To + start) * outFrame,
        batches * (end - start) * outFrame,
      )
      dispatch(
        { x: source.bound, ...(b ? { bias: b } : {}), y: result.bound },
        {
          M,
          frames: end - start,
          first_t: start,
          Yo,
          Xo,
          O,
          T,
          Y,
          X,
          K,
          kT,
          kY,
          kX,
          sT: stride[0],
          sY: stride[1],
          sX: stride[2],
          pT: pads[0]![0],
          pY: pads[1]![0],
          pX: pads[2]![0],
          upsample,
          first_frame: from,
          x_first: source.first,
          y_first: result.first,
        },
        M,
      )
    }
    if (whole) {
      launch({ batch: 0, start: 0, end: To, from: 0, to: T }, B)
      return
    }
    const under = (start: number, end: number): { from: number; to: number } => ({
      from: Math.min(T - 1, Math.max(0, start * stride[0] - pads[0]![0])),
      to: Math.max(1, Math.min(T, (end - 1) * stride[0] - pads[0]![0] + kT)),
    })
    const fits = (start: number, end: number): boolean => {
      const { from, to } = under(start, end)
      return (
        (to - from) * inFrame * bytesPerElement[x.dtype] <= room &&
        (end - start) * outFrame * bytesPerElement[y.dtype] <= room
      )
    }
    for (let batch = 0; batch < B; batch++) {
      for (let start = 0; start < To;) {
        let end = start + 1
        while (end < To && fits(start, end + 1)) end++
        launch({ batch, start, end, ...under(start, end) }, 1)
        start = end
      }
    }
  })
}
