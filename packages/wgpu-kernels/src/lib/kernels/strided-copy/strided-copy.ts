import { bytesPerElement, numElements, type DType } from '@kinora/kernel-api'

import { wgpuErrors } from '../../errors.ts'
import { defineKernel } from '../../program/define-kernel.ts'
import { withSchedules } from '../../program/flat-run.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { elementwiseSchedule, elementwiseSchedules } from '../../tuning/elementwise-schedule.ts'
import { castTo } from '../cast/cast.ts'
import {
  MAX_AXES,
  stridedCopyBindings,
  stridedCopyText,
  stridedCopyUniforms,
  type StridedCopyVariant,
} from './strided-copy.wgsl.ts'

/**
 * Moves a block of elements between two strided places, bit by bit: permute, slice and concat.
 *
 * - `src` any dtype, read · `dst` the same dtype, written
 */
export const stridedCopy = defineKernel<StridedCopyVariant>({
  name: 'strided-copy',
  bindings: stridedCopyBindings,
  uniforms: stridedCopyUniforms(),
  workgroupSize: ({ workgroupSize }) => workgroupSize,
  wgsl: stridedCopyText,
  variants: () =>
    withSchedules(
      elementwiseSchedules,
      Array.from({ length: MAX_AXES }, (_, i) => i + 1).flatMap((axes) => [
        { axes, unit: 'u32' as const, width: 1 as const },
        { axes, unit: 'u32' as const, width: 4 as const },
        { axes, unit: 'f16' as const, width: 1 as const },
      ]),
    ),
})

/** One axis of a copy; strides count elements. */
interface CopyAxis {
  readonly extent: number
  readonly src: number
  readonly dst: number
}

/** A block to copy: axes from the outermost in, and where it starts in both tensors, in elements. */
interface CopyBlock {
  readonly axes: readonly CopyAxis[]
  readonly srcFirst: number
  readonly dstFirst: number
}

/** Row-major strides. */
function stridesOf(shape: readonly number[]): number[] {
  const strides = shape.map(() => 1)
  let stride = 1
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride
    stride *= shape[axis]!
  }
  return strides
}

/** Drops axes of extent 1 and joins neighbours that lie behind one another in both tensors. */
export function mergeAxes(axes: readonly CopyAxis[]): CopyAxis[] {
  const merged: CopyAxis[] = []
  for (const axis of axes) {
    if (axis.extent === 1) continue
    const outer = merged.at(-1)
    if (outer && outer.src === axis.extent * axis.src && outer.dst === axis.extent * axis.dst) {
      merged[merged.length - 1] = { ...axis, extent: outer.extent * axis.extent }
    } else {
      merged.push(axis)
    }
  }
  return merged.length > 0 ? merged : [{ extent: 1, src: 1, dst: 1 }]
}

/** Elements from a block's first to its last, inclusive. */
function spanOf({ axes }: CopyBlock, side: 'src' | 'dst'): number {
  return axes.reduce((span, axis) => span + (axis.extent - 1) * axis[side], 1)
}

/** Largest number of elements out of `choices` that every run of the block is made of. */
function runLength({ axes, srcFirst, dstFirst }: CopyBlock, choices: readonly number[]): number {
  const inner = axes.at(-1)!
  if (inner.src !== 1 || inner.dst !== 1) return 1
  const numbers = [
    inner.extent,
    srcFirst,
    dstFirst,
    ...axes.slice(0, -1).flatMap(({ src, dst }) => [src, dst]),
  ]
  return choices.find((length) => numbers.every((number) => number % length === 0)) ?? 1
}

/** Copies a block, in as many parts as the binding limit asks for. */
function copyBlock(run: Runner, src: WgpuTensor, dst: WgpuTensor, block: CopyBlock): void {
  if (block.axes.some(({ extent }) => extent === 0)) return
  const element = bytesPerElement[src.dtype]
  const room = run.profile.limits.maxBindingBytes - run.profile.limits.storageAlignment
  const fits = (tensor: WgpuTensor, span: number): boolean =>
    tensor.sizeBytes <= room || span * element + 16 <= room
  const srcSpan = spanOf(block, 'src')
  const dstSpan = spanOf(block, 'dst')
  if (!fits(src, srcSpan) || !fits(dst, dstSpan)) {
    for (const half of halves(block)) copyBlock(run, src, dst, half)
    return
  }
  const from = run.span('strided-copy', src, block.srcFirst, srcSpan)
  const to = run.span('strided-copy', dst, block.dstFirst, dstSpan)
  const bound = { ...block, srcFirst: from.first, dstFirst: to.first }
  const length = runLength(bound, element === 4 ? [4] : [8, 2])
  const bytes = length * element
  const inner = bound.axes.length - 1
  const axes = bound.axes.map(({ extent, src: s, dst: d }, axis) =>
    axis === inner
      ? { extent: extent / length, src: length === 1 ? s : 1, dst: length === 1 ? d : 1 }
      : { extent, src: s / length, dst: d / length },
  )
  const uniforms: Record<string, number> = {
    n: numElements(axes.map(({ extent }) => extent)),
    src_first: bound.srcFirst / length,
    dst_first: bound.dstFirst / length,
  }
  for (let axis = 0; axis < MAX_AXES; axis++) {
    const { extent, src: s, dst: d } = axes[axis] ?? { extent: 1, src: 0, dst: 0 }
    uniforms[`extent${axis}`] = extent
    uniforms[`src_stride${axis}`] = s
    uniforms[`dst_stride${axis}`] = d
  }
  const schedule = elementwiseSchedule(run.profile)
  run.run(
    stridedCopy,
    {
      axes: axes.length,
      unit: bytes === 2 ? 'f16' : 'u32',
      width: bytes === 16 ? 4 : 1,
      ...schedule,
    },
    { src: from.bound, dst: to.bound },
    uniforms,
    Math.ceil(uniforms['n']! / (schedule.workgroupSize * schedule.perInvocation)),
  )
}

/** A block cut in two along its outermost axis longer than 1. */
function halves(block: CopyBlock): CopyBlock[] {
  const at = block.axes.findIndex(({ extent }) => extent > 1)
  const axis = block.axes[at]!
  const middle = Math.ceil(axis.extent / 2)
  const withExtent = (extent: number): CopyAxis[] =>
    block.axes.map((other, i) => (i === at ? { ...other, extent } : other))
  return [
    { ...block, axes: withExtent(middle) },
    {
      axes: withExtent(axis.extent - middle),
      srcFirst: block.srcFirst + middle * axis.src,
      dstFirst: block.dstFirst + middle * axis.dst,
    },
  ]
}

/**
 * The dtype a copy moves elements in. 16-bit elements that do not pair up need f16 in the shader; an adapter without it moves
 * them as f32.
 */
function movable(run: Runner, dtype: DType): boolean {
  return bytesPerElement[dtype] === 4 || run.profile.f16
}

/** Runs a copy of a whole result, widening 16-bit elements where the adapter cannot move them alone. */
function copyAll(
  run: Runner,
  sources: readonly WgpuTensor[],
  shape: readonly number[],
  dtype: DType,
  blocks: readonly CopyBlock[],
): WgpuTensor {
  const pairs = blocks.every((block) => runLength(block, [2]) === 2)
  if (!movable(run, dtype) && !pairs) {
    const wide = sources.map((source) => castTo(run, source, 'f32'))
    return castTo(run, copyAll(run, wide, shape, 'f32', blocks), dtype)
  }
  const y = run.alloc(shape, dtype)
  blocks.forEach((block, i) => copyBlock(run, sources[i]!, y, block))
  return y
}

/** `Ops.permute`. */
export function permute(run: Runner, x: WgpuTensor, order: readonly number[]): WgpuTensor {
  if (
    order.length !== x.shape.length ||
    order.toSorted((a, b) => a - b).some((axis, i) => axis !== i)
  ) {
    throw wgpuErrors.BAD_SHAPE(
      'permute',
      `axes [${order.join(', ')}] are no order of the ${x.shape.length} axes of x.`,
    )
  }
  const shape = order.map((axis) => x.shape[axis]!)
  const from = stridesOf(x.shape)
  const to = stridesOf(shape)
  const axes = mergeAxes(
    order.map((axis, i) => ({ extent: shape[i]!, src: from[axis]!, dst: to[i]! })),
  )
  if (axes.length > MAX_AXES) {
    throw wgpuErrors.BAD_SHAPE('permute', `${axes.length} axes move apart; ${MAX_AXES} can.`)
  }
  return copyAll(run, [x], shape, x.dtype, [{ axes, srcFirst: 0, dstFirst: 0 }])
}

/** Elements before, along and after an axis. */
function aroundAxis(shape: readonly number[], axis: number): [number, number, number] {
  return [numElements(shape.slice(0, axis)), shape[axis]!, numElements(shape.slice(axis + 1))]
}

function expectAxis(op: string, shape: readonly number[], axis: number): void {
  if (!Number.isInteger(axis) || axis < 0 || axis >= shape.length) {
    throw wgpuErrors.BAD_SHAPE(op, `[${shape.join(', ')}] has no axis ${axis}.`)
  }
}

/** `Ops.slice`. */
export function slice(
  run: Runner,
  x: WgpuTensor,
  axis: number,
  start: number,
  end: number,
): WgpuTensor {
  expectAxis('slice', x.shape, axis)
  const [outer, along, inner] = aroundAxis(x.shape, axis)
  if (start < 0 || end < start || end > along) {
    throw wgpuErrors.BAD_SHAPE(
      'slice',
      `${start} to ${end} is no range of the ${along} along axis ${axis}.`,
    )
  }
  const count = end - start
  const axes = mergeAxes([
    { extent: outer, src: along * inner, dst: count * inner },
    { extent: count * inner, src: 1, dst: 1 },
  ])
  const shape = x.shape.map((extent, i) => (i === axis ? count : extent))
  return copyAll(run, [x], shape, x.dtype, [{ axes, srcFirst: start * inner, dstFirst: 0 }])
}

/** `Ops.concat`. */
export function concat(run: Runner, parts: readonly WgpuTensor[], axis: number): WgpuTensor {
  const [first] = parts
  if (!first) throw wgpuErrors.BAD_SHAPE('concat', 'there are no parts.')
  expectAxis('concat', first.shape, axis)
  for (const part of parts) {
    const fits =
      part.shape.length === first.shape.length &&
      part.shape.every((extent, i) => i === axis || extent === first.shape[i])
    if (!fits) {
      throw wgpuErrors.BAD_SHAPE(
        'concat',
        `[${part.shape.join(', ')}] and [${first.shape.join(', ')}] differ beside axis ${axis}.`,
      )
    }
    if (part.dtype !== first.dtype) {
      throw wgpuErrors.BAD_DTYPE('concat', `the parts are ${first.dtype} and ${part.dtype}.`)
    }
  }
  const total = parts.reduce((sum, part) => sum + part.shape[axis]!, 0)
  let dstFirst = 0
  const blocks = parts.map((part) => {
    const [outer, along, inner] = aroundAxis(part.shape, axis)
    const block: CopyBlock = {
      axes: mergeAxes([
        { extent: outer, src: along * inner, dst: total * inner },
        { extent: along * inner, src: 1, dst: 1 },
      ]),
      srcFirst: 0,
      dstFirst,
    }
    dstFirst += along * inner
    return block
  })
  const shape = first.shape.map((extent, i) => (i === axis ? total : extent))
  return copyAll(run, parts, shape, first.dtype, blocks)
}
