import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import type { ElementwiseSchedule } from '../../tuning/elementwise-schedule.ts'
import { forEachVector } from '../../wgsl/flat-range.ts'
import { decodeFour, formatElement, type StorageFormat } from '../../wgsl/storage-codec.ts'

export interface EmbeddingVariant extends ElementwiseSchedule {
  readonly table: StorageFormat
  readonly y: 'f32' | 'f16'
  readonly width: 1 | 4
}

export function embeddingBindings({
  table,
  y,
  width,
}: EmbeddingVariant): Record<string, BindingDecl> {
  const element =
    width === 4 ? formatElement(table) : { scalar: formatElement(table).scalar, width: 1 as const }
  return { ids: reads('u32'), table: { access: 'read', ...element }, y: writes(y, width) }
}

/** One element as f32, from a buffer of words where the dtype has no scalar of its own. */
function decodeOne(format: StorageFormat): string {
  switch (format) {
    case 'bf16':
      return 'bitcast<f32>(select(table[at / 2u] << 16u, table[at / 2u] & 0xffff0000u, (at & 1u) == 1u))'
    case 'f16-packed':
      return 'unpack2x16float(table[at / 2u])[at & 1u]'
    default:
      return 'f32(table[at])'
  }
}

export function embeddingText(variant: EmbeddingVariant): KernelText {
  const value =
    variant.width === 4 ? decodeFour(variant.table, 'table[at]') : decodeOne(variant.table)
  return {
    main: forEachVector(
      variant,
      // Rows outside the window of the table belong to another dispatch; ids past the end read the last row.
      `let e = u.start + i;
    let id = min(ids[e / u.C], u.V - 1u);
    if (id >= u.first_id && id < u.end_id) {
      let at = (id - u.first_id) * u.C + e % u.C;
      y[i] = y_t(${value});
    }`,
    ),
  }
}
