/**
 * The two matrices of one adapted linear: y = W x + b + scale · B (A x). With a `magnitude` it is a DoRA: each column k of
 * V = W + scale · B A is brought to a length of its own, y = Σ_k (magnitude[k] / ‖V[:, k]‖) V[:, k] x[k] + b.
 */
export interface LoraModule {
  /** Down projection A, row-major [rank, inFeatures]. */
  a: Float32Array
  /** Up projection B, row-major [outFeatures, rank]. */
  b: Float32Array
  rank: number
  inFeatures: number
  outFeatures: number
  /** The scale is alpha / rank; absent means a scale of 1. */
  alpha?: number
  /** DoRA: lengths of the columns, [inFeatures]. */
  magnitude?: Float32Array
}

/**
 * A LoKr of one adapted linear: y = W x + b + scale · (w1 ⊗ w2) x. Row (p, q) and column (i, j) of the product, p and i the slow
 * ones, hold w1[p, i] · w2[q, j].
 */
export interface LokrModule {
  /** Row-major [o1, i1]. */
  w1: Float32Array
  /** Row-major [o2, i2], or as the product of a [o2, rank] and b [rank, i2]. */
  w2: Float32Array | { a: Float32Array; b: Float32Array }
  /** [o1, i1]. */
  shape1: readonly [number, number]
  /** [o2, i2]. */
  shape2: readonly [number, number]
  /** Of the two factors of w2; absent where w2 is whole. */
  rank?: number
  /** i1 · i2. */
  inFeatures: number
  /** o1 · o2. */
  outFeatures: number
  /** With a rank: the scale is alpha / rank. Else it is 1. */
  alpha?: number
}

/** What a module may be: `dora` is a `lora` with a magnitude. */
export const adapterKinds = ['lora', 'dora', 'lokr'] as const
export type AdapterKind = (typeof adapterKinds)[number]
/** As messages name them. */
export const kindNames: Readonly<Record<AdapterKind, string>> = {
  lora: 'LoRA',
  dora: 'DoRA',
  lokr: 'LoKr',
}

/** The LoRA of one expert, whatever file it came from. */
export interface LoraWeights {
  /** By diffusers module name, such as `blocks.0.attn1.to_q`. */
  modules: Map<string, LoraModule>
  /** Those that are LoKr, by name. A reader that did not ask for them gets none. */
  kronecker?: Map<string, LokrModule>
  /** The file's header metadata, values as they stand there. */
  metadata: Record<string, string>
}

/** The two experts of Wan 2.2: `high` noise is `transformer`, `low` noise is `transformer_2`. */
export type Expert = 'high' | 'low'

/** alpha / rank, or 1 where no alpha is given. */
export function loraScale(module: { alpha?: number; rank?: number }): number {
  return module.alpha === undefined || module.rank === undefined ? 1 : module.alpha / module.rank
}
