import { bytesPerElement } from '@kinora/kernel-api'

import type { WgpuTensor } from '../tensor/wgpu-tensor.ts'
import { elementwiseSchedule, type ElementwiseSchedule } from '../tuning/elementwise-schedule.ts'
import type { Kernel } from './define-kernel.ts'
import type { Bound, Runner } from './runner.ts'

export interface FlatRun {
  /** Tensors walked together, by binding name: all of one element count. */
  readonly tensors: Readonly<Record<string, WgpuTensor>>
  /** Tensors every part sees whole. */
  readonly whole?: Readonly<Record<string, WgpuTensor>>
  readonly uniforms?: Readonly<Record<string, number>>
  /** Elements an index covers: 4 unless given. Buffers are padded, so the last vector may pass the end. */
  readonly width?: 1 | 2 | 4
}

/**
 * Runs a kernel over the elements of equally shaped tensors, in as many parts as the binding limit asks for. Beyond `uniforms`
 * the kernel gets `n`, the vectors of the part, and `start`, the index of its first.
 */
export function runFlat<Variant extends ElementwiseSchedule>(
  run: Runner,
  kernel: Kernel<Variant>,
  variant: Omit<Variant, keyof ElementwiseSchedule>,
  { tensors, whole = {}, uniforms = {}, width = 4 }: FlatRun,
): void {
  const schedule = elementwiseSchedule(run.profile)
  const entries = Object.entries(tensors)
  const vectors = Math.ceil(entries[0]![1].numElements / width)
  const bytes = Object.fromEntries(
    entries.map(([name, tensor]) => [name, width * bytesPerElement[tensor.dtype]]),
  )
  for (const window of run.windows(kernel.name, vectors, bytes)) {
    const bindings: Record<string, Bound> = { ...whole }
    for (const [name, tensor] of entries) bindings[name] = run.rows(tensor, window, bytes[name]!)
    const n = window.end - window.start
    run.run(
      kernel,
      { ...variant, ...schedule } as unknown as Variant,
      bindings,
      { ...uniforms, n, start: window.start },
      Math.ceil(n / (schedule.workgroupSize * schedule.perInvocation)),
    )
  }
}

/** Each of the given variants with every schedule: what a compile test builds. */
export function withSchedules<Variant, Schedule>(
  schedules: Readonly<Record<string, Schedule>>,
  variants: readonly Variant[],
): (Variant & Schedule)[] {
  return Object.values(schedules).flatMap((schedule) =>
    variants.map((variant) => ({ ...variant, ...schedule })),
  )
}
