import {
  reads,
  writes,
  type BindingDecl,
  type KernelText,
  type UniformType,
} from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'

/** Axes a copy may have after neighbours that move together are merged. */
export const MAX_AXES = 8

export interface StridedCopyVariant extends ElementwiseSchedule {
  /** Axes, 1 to `MAX_AXES`. */
  readonly axes: number
  /** What moves at once: words (also pairs of 16-bit elements), or single 16-bit elements. */
  readonly unit: 'u32' | 'f16'
  readonly width: 1 | 4
}

export function stridedCopyBindings({
  unit,
  width,
}: StridedCopyVariant): Record<string, BindingDecl> {
  return { src: reads(unit, width), dst: writes(unit, width) }
}

/** Extents of the inner axes, and strides of all in both tensors, counted in units of the variant. */
export function stridedCopyUniforms(): Record<string, UniformType> {
  const uniforms: Record<string, UniformType> = { n: 'u32', src_first: 'u32', dst_first: 'u32' }
  for (let axis = 0; axis < MAX_AXES; axis++) {
    uniforms[`extent${axis}`] = 'u32'
    uniforms[`src_stride${axis}`] = 'u32'
    uniforms[`dst_stride${axis}`] = 'u32'
  }
  return uniforms
}

export function stridedCopyText(variant: StridedCopyVariant): KernelText {
  const steps: string[] = []
  for (let axis = variant.axes - 1; axis > 0; axis--) {
    steps.push(`{
      let index = rest % u.extent${axis};
      rest /= u.extent${axis};
      src_at += index * u.src_stride${axis};
      dst_at += index * u.dst_stride${axis};
    }`)
  }
  return {
    main: forEachVector(
      variant,
      `var rest = i;
    var src_at = u.src_first;
    var dst_at = u.dst_first;
    ${steps.join('\n    ')}
    dst[dst_at + rest * u.dst_stride0] = src[src_at + rest * u.src_stride0];`,
    ),
  }
}
