/** The two matrices of one adapted linear: y = W x + b + scale · B (A x). */
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
}

/** The LoRA of one expert, whatever file it came from. */
export interface LoraWeights {
  /** By diffusers module name, such as `blocks.0.attn1.to_q`. */
  modules: Map<string, LoraModule>
  /** The file's header metadata, values as they stand there. */
  metadata: Record<string, string>
}

/** The two experts of Wan 2.2: `high` noise is `transformer`, `low` noise is `transformer_2`. */
export type Expert = 'high' | 'low'

/** alpha / rank, or 1 where no alpha is given. */
export function loraScale(module: Pick<LoraModule, 'alpha' | 'rank'>): number {
  return module.alpha === undefined ? 1 : module.alpha / module.rank
}
