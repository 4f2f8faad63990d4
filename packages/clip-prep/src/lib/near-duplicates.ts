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

/** The bits of hashes, two words each: a few thousand clips are some hundred million comparisons. */
function bitsOf(hashes: readonly string[]): Uint32Array {
  return Uint32Array.from({ length: 2 * hashes.length }, (_, word) => {
    const from = 8 * (word & 1)
    return Number.parseInt(hashes[word >> 1]!.slice(from, from + 8), 16)
  })
}

/** Number of ones (Warren, "Hacker's Delight", 2002, section 5-1). */
function countOnes(word: number): number {
  let sum = word - ((word >>> 1) & 0x55555555)
  sum = (sum & 0x33333333) + ((sum >>> 2) & 0x33333333)
  return Math.imul((sum + (sum >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
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
  const bits = clips.map(({ hashes }) => bitsOf(hashes))
  for (let a = 0; a < clips.length; a++) {
    for (let b = a + 1; b < clips.length; b++) {
      if (root(a) !== root(b) && areAlike(bits[a]!, bits[b]!)) parent[root(b)] = root(a)
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

function areAlike(a: Uint32Array, b: Uint32Array): boolean {
  if (a.length === 0 || b.length === 0) return false
  // The shorter clip must be found in the longer: a part of a clip is a duplicate of it too.
  const [short, long] = a.length <= b.length ? [a, b] : [b, a]
  for (let at = 0; at < short.length; at += 2)
    if (!isIn(long, short[at]!, short[at + 1]!)) return false
  return true
}

function isIn(hashes: Uint32Array, high: number, low: number): boolean {
  for (let at = 0; at < hashes.length; at += 2)
    if (countOnes(hashes[at]! ^ high) + countOnes(hashes[at + 1]! ^ low) <= likeBits) return true
  return false
}
