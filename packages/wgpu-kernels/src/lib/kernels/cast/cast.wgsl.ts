import type { BindingDecl, KernelText } from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import {
  codecDeclarations,
  decodeFour,
  encodeFour,
  formatElement,
  type StorageFormat,
} from '../../wgsl/storage-codec.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'

export interface CastVariant extends ElementwiseSchedule {
  readonly from: StorageFormat
  readonly to: StorageFormat
}

export function castBindings({ from, to }: CastVariant): Record<string, BindingDecl> {
  return {
    x: { access: 'read', ...formatElement(from) },
    y: { access: 'write', ...formatElement(to) },
  }
}

export function castText(variant: CastVariant): KernelText {
  const integers = (format: StorageFormat): boolean => format === 'i32' || format === 'u32'
  return {
    declarations: codecDeclarations(variant.to),
    main: forEachVector(
      variant,
      integers(variant.from) && integers(variant.to)
        ? `y[i] = y_t(x[i]);`
        : `let value = ${decodeFour(variant.from, 'x[i]')};
    y[i] = ${encodeFour(variant.to, 'value')};`,
    ),
  }
}
