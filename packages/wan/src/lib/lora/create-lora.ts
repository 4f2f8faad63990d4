import { uniforms } from '@kinora/kernel-api'
import type { LoraModule, LoraWeights } from '@kinora/lora-files'
import type { LoraTarget } from '../transformer/transformer.ts'

/** Size and origin of a fresh LoRA. */
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
