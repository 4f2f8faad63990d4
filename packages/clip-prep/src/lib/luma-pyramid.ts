/** One size of a gray picture: `width` × `height` values 0 to 255, rows from the top. */
export interface LumaLevel {
  width: number
  height: number
  data: Float32Array
}

/** A gray picture at its own size, half, a quarter… Level 0 is the largest. */
export type LumaPyramid = readonly LumaLevel[]

/** Smallest side a level may have: flow windows of 9 pixels need some picture around them. */
const minSide = 12

/** Builds the pyramid of an 8-bit gray picture; each level averages 2×2 pixels of the one below. */
export function buildPyramid(luma: Uint8Array, width: number, height: number): LumaPyramid {
  const base = new Float32Array(width * height)
  for (let at = 0; at < base.length; at++) base[at] = luma[at]!
  const levels: LumaLevel[] = [{ width, height, data: base }]
  while (levels.length < 4) {
    const below = levels.at(-1)!
    const half = { width: below.width >> 1, height: below.height >> 1 }
    if (Math.min(half.width, half.height) < minSide) break
    const data = new Float32Array(half.width * half.height)
    for (let y = 0, at = 0; y < half.height; y++) {
      let above = 2 * y * below.width
      let under = above + below.width
      for (let x = 0; x < half.width; x++, above += 2, under += 2) {
        data[at++] =
          (below.data[above]! +
            below.data[above + 1]! +
            below.data[under]! +
            below.data[under + 1]!) *
          0.25
      }
    }
    levels.push({ ...half, data })
  }
  return levels
}
