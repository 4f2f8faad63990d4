/**
 * A picture's perceptual hash: the signs of its 8×8 lowest frequencies (but the mean) against their median, after the usual
 * pHash (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010). 16 hexadecimal digits.
 */
export function hashPicture(luma: ArrayLike<number>, width: number, height: number): string {
  const side = 32
  const small = new Float64Array(side * side)
  for (let y = 0; y < side; y++) {
    const y0 = Math.floor((y * height) / side)
    const y1 = Math.max(y0 + 1, Math.floor(((y + 1) * height) / side))
    for (let x = 0; x < side; x++) {
      const x0 = Math.floor((x * width) / side)
      const x1 = Math.max(x0 + 1, Math.floor(((x + 1) * width) / side))
      let sum = 0
      for (let yy = y0; yy < y1; yy++)
        for (let xx = x0; xx < x1; xx++) sum += luma[yy * width + xx]!
      small[y * side + x] = sum / ((y1 - y0) * (x1 - x0))
    }
  }
  const frequencies: number[] = []
  for (let v = 0; v < 8; v++) {
    for (let u = 0; u < 8; u++) {
      let sum = 0
      for (let y = 0; y < side; y++) {
        const row = Math.cos(((2 * y + 1) * v * Math.PI) / (2 * side))
        for (let x = 0; x < side; x++)
          sum += small[y * side + x]! * row * Math.cos(((2 * x + 1) * u * Math.PI) / (2 * side))
      }
      frequencies.push(sum)
    }
  }
  const middle = frequencies.slice(1).toSorted((a, b) => a - b)[31]!
  let hash = ''
  for (let digit = 0; digit < 16; digit++) {
    let value = 0
    for (let bit = 0; bit < 4; bit++) {
      const index = 4 * digit + bit
      value = 2 * value + (index > 0 && frequencies[index]! > middle ? 1 : 0)
    }
    hash += value.toString(16)
  }
  return hash
}

const bits = Uint8Array.from(
  { length: 16 },
  (_, value) => (value & 1) + ((value >> 1) & 1) + ((value >> 2) & 1) + (value >> 3),
)

function distance(a: string, b: string): number {
  let sum = 0
  for (let digit = 0; digit < 16; digit++)
    sum += bits[Number.parseInt(a[digit]!, 16) ^ Number.parseInt(b[digit]!, 16)]!
  return sum
}

/**
 * Of 63 bits, unrelated pictures differ in 31 ± 4 and re-encoded or slightly shifted ones in up to 8. Every picture of a clip
 * must find a like one in the other, so that two shots of one place that only begin alike are not taken for one.
 */
const likeBits = 8

export interface HashedClip {
  id: string
  /** Hashes of some of its pictures, evenly over the clip. */
  hashes: readonly string[]
  /** Higher is better: of like clips the best is kept. */
  quality: number
}

/** Groups of near-duplicates by union-find, best first; clips without any are in none. */
export function groupNearDuplicates(clips: readonly HashedClip[]): string[][] {
  const parent = clips.map((_, index) => index)
  const root = (index: number): number => {
    while (parent[index] !== index) {
      parent[index] = parent[parent[index]!]!
      index = parent[index]!
    }
    return index
  }
  for (let a = 0; a < clips.length; a++) {
    for (let b = a + 1; b < clips.length; b++) {
      if (root(a) !== root(b) && areAlike(clips[a]!.hashes, clips[b]!.hashes))
        parent[root(b)] = root(a)
    }
  }
  const groups = new Map<number, HashedClip[]>()
  for (const [index, clip] of clips.entries()) {
    const key = root(index)
    groups.set(key, [...(groups.get(key) ?? []), clip])
  }
  return Array.from(groups.values())
    .filter((group) => group.length > 1)
    .map((group) =>
      group.toSorted((x, y) => y.quality - x.quality || (x.id < y.id ? -1 : 1)).map(({ id }) => id),
    )
}

function areAlike(a: readonly string[], b: readonly string[]): boolean {
  if (a.length === 0 || b.length === 0) return false
  // The shorter clip must be found in the longer: a part of a clip is a duplicate of it too.
  const [short, long] = a.length <= b.length ? [a, b] : [b, a]
  return short.every((hash) => long.some((other) => distance(hash, other) <= likeBits))
}
