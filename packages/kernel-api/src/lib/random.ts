// Counter-based random numbers: element i of a stream depends on (seed, stream, i) and nothing else, so a resumed run draws
// what the uninterrupted one would have, on any device. The generator is Philox 4x32-10 (Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3"), drawn on the host: latents are small, and the host's bytes are the same on every adapter.

const M0 = 0xd2511f53
const M1 = 0xcd9e8d57
const W0 = 0x9e3779b9
const W1 = 0xbb67ae85

/** High and low half of a 32 × 32 bit product. */
function mulHiLo(a: number, b: number, out: Uint32Array): void {
  const aLo = a & 0xffff
  const aHi = a >>> 16
  const bLo = b & 0xffff
  const bHi = b >>> 16
  const low = aLo * bLo
  const mid1 = aHi * bLo + (low >>> 16)
  const mid2 = aLo * bHi + (mid1 & 0xffff)
  out[0] = aHi * bHi + Math.floor(mid1 / 0x10000) + Math.floor(mid2 / 0x10000)
  out[1] = Math.imul(a, b)
}

const product0 = new Uint32Array(2)
const product1 = new Uint32Array(2)

/** Ten Philox rounds on the counter in `c`, in place. Exported for its known-answer test. */
export function philox4x32(c: Uint32Array, key0: number, key1: number): void {
  let k0 = key0 >>> 0
  let k1 = key1 >>> 0
  for (let round = 0; round < 10; round++) {
    mulHiLo(c[0]!, M0, product0)
    mulHiLo(c[2]!, M1, product1)
    const c1 = c[1]!
    const c3 = c[3]!
    c[0] = product1[0]! ^ c1 ^ k0
    c[1] = product1[1]!
    c[2] = product0[0]! ^ c3 ^ k1
    c[3] = product0[1]!
    k0 = (k0 + W0) >>> 0
    k1 = (k1 + W1) >>> 0
  }
}

function* words(seed: number, stream: number, firstBlock: number): Generator<Uint32Array> {
  const c = new Uint32Array(4)
  for (let block = firstBlock; ; block++) {
    c[0] = block >>> 0
    c[1] = Math.floor(block / 2 ** 32)
    c[2] = stream >>> 0
    c[3] = Math.floor(stream / 2 ** 32)
    philox4x32(c, seed >>> 0, Math.floor(seed / 2 ** 32))
    yield c
  }
}

/**
 * Uniform numbers in (0, 1), 53 bits each.
 *
 * @param seed integer, 0 to 2^53 − 1: the run
 * @param stream integer, 0 to 2^53 − 1: what the numbers are for
 * @param count how many
 */
export function uniforms(seed: number, stream: number, count: number): Float64Array {
  const out = new Float64Array(count)
  const source = words(seed, stream, 0)
  for (let i = 0; i < count; i += 2) {
    const w = source.next().value as Uint32Array
    out[i] = ((w[0]! >>> 5) * 2 ** 26 + (w[1]! >>> 6) + 0.5) / 2 ** 53
    if (i + 1 < count) out[i + 1] = ((w[2]! >>> 5) * 2 ** 26 + (w[3]! >>> 6) + 0.5) / 2 ** 53
  }
  return out
}

/** Standard normal numbers (Box and Muller 1958) from the same counters; parameters as in `uniforms`. */
export function normals(seed: number, stream: number, count: number): Float32Array {
  const u = uniforms(seed, stream, count + (count % 2))
  const out = new Float32Array(count)
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(u[i]!))
    const angle = 2 * Math.PI * u[i + 1]!
    out[i] = radius * Math.cos(angle)
    if (i + 1 < count) out[i + 1] = radius * Math.sin(angle)
  }
  return out
}
