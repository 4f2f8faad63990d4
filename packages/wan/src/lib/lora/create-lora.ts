import { uniforms } from '@kinora/kernel-api'
import type { LoraTarget } from '../transformer/transformer.ts'

/** The two factors that join one linear: y = W x + b + scale · B (A x). */
export interface LoraModule {
  /** A, row-major [rank, inFeatures]. */
  a: Float32Array
  /** B, row-major [outFeatures, rank]. */
  b: Float32Array
  rank: number
  inFeatures: number
  outFeatures: number
  /** The scale is alpha / rank; 1 where it is absent. */
  alpha?: number
}

/** A LoRA of one expert, on the host. What lora-files reads and writes has this form too. */
export interface LoraWeights {
  /** By diffusers module name, such as `blocks.0.attn1.to_q`. */
  modules: Map<string, LoraModule>
  metadata: Record<string, string>
}

export interface CreateLoraOptions {
  rank: number
  /** The scale is alpha / rank; 1 unless given. */
  alpha?: number | undefined
  /** Integer, 0 to 2^53 − 1: the run. */
  seed: number
  /** Random stream of the first target; each further one takes the next number. */
  stream: number
}

/**
 * A LoRA that changes nothing yet: A uniform in ±1/√inFeatures (Kaiming with a = √5), B zero. It depends on the seed, the stream
 * and the order of the targets alone.
 */
export function createLora(
  targets: readonly LoraTarget[],
  { rank, alpha, seed, stream }: CreateLoraOptions,
): LoraWeights {
  const modules = new Map<string, LoraModule>()
  for (const [index, { name, inFeatures, outFeatures }] of targets.entries()) {
    const bound = 1 / Math.sqrt(inFeatures)
    const u = uniforms(seed, stream + index, rank * inFeatures)
    modules.set(name, {
      a: Float32Array.from(u, (value) => (2 * value - 1) * bound),
      b: new Float32Array(outFeatures * rank),
      rank,
      inFeatures,
      outFeatures,
      ...(alpha === undefined ? {} : { alpha }),
    })
  }
  return { modules, metadata: {} }
}
