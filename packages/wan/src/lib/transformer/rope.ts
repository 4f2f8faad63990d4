import type { TransformerConfig } from '../checkpoint/configs.ts'
import { wanErrors } from '../errors.ts'

const theta = 10_000

/**
 * Angles of the rotary embedding over three axes: of the headDim / 2 pairs of a head, the first turn with the latent frame, the
 * next with the row, the last with the column. Rows and columns take 2⌊headDim / 6⌋ channels each, the frame the rest.
 * Pair j of an axis with d channels turns by position · 10000^(−2j/d). Computed in f64.
 *
 * @param grid [frames, rows, columns] of patches
 * @returns cos and sin, row-major [frames · rows · columns, headDim / 2]
 */
export function ropeTables(
  { headDim, ropeMaxLength }: Pick<TransformerConfig, 'headDim' | 'ropeMaxLength'>,
  grid: readonly [number, number, number],
): { cos: Float32Array; sin: Float32Array } {
  const spatial = 2 * Math.floor(headDim / 6)
  const channels = [headDim - 2 * spatial, spatial, spatial] as const
  for (const [axis, name] of (['frame', 'row', 'column'] as const).entries()) {
    if (grid[axis]! > ropeMaxLength) throw wanErrors.TOO_LONG(name, grid[axis]!, ropeMaxLength)
  }
  const frequencies = channels.map((d) =>
    Float64Array.from({ length: d / 2 }, (_, j) => theta ** ((-2 * j) / d)),
  )
  const [frames, rows, columns] = grid
  const cos = new Float32Array(frames * rows * columns * (headDim / 2))
  const sin = new Float32Array(cos.length)
  let at = 0
  const position = [0, 0, 0] as [number, number, number]
  for (position[0] = 0; position[0] < frames; position[0]++) {
    for (position[1] = 0; position[1] < rows; position[1]++) {
      for (position[2] = 0; position[2] < columns; position[2]++) {
        for (const [axis, axisFrequencies] of frequencies.entries()) {
          for (const frequency of axisFrequencies) {
            const angle = position[axis]! * frequency
            cos[at] = Math.cos(angle)
            sin[at++] = Math.sin(angle)
          }
        }
      }
    }
  }
  return { cos, sin }
}
