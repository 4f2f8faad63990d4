import type { TransformerConfig, TransformerRun } from '@kinora/wan'
import { z } from 'zod'

// What of a block is kept for the way back is a trade of memory for time. The input of each block must be kept. Beside it the
// result of self-attention is kept always: it is the dearest to compute and no larger than the input. Linears follow by choice:
// each costs 2·K operations for each of its numbers, so all but those of the text are worth the same a byte, and the order below
// is by what else running them again would need.

/** What is kept of each block between the passes; the rest is computed again on the way back. */
export const recomputePlanSchema = z.strictObject({
  keep: z
    .array(z.string())
    .readonly()
    .describe('Attention results and linears whose result is kept, by their name in the block.'),
  blockInputs: z.enum(['f16', 'f32']).describe('What the input of each block is kept in.'),
  blocksInHostMemory: z
    .int()
    .nonnegative()
    .describe('How many blocks, the first ones, keep all this in host memory.'),
})

export type RecomputePlan = z.output<typeof recomputePlanSchema>

/** In the order in which they are kept as memory allows. `ffn.net.2` is never run again. */
const worthKeeping = [
  'attn2.to_k',
  'attn2.to_v',
  'attn1.to_out.0',
  'attn2.to_out.0',
  'attn1.to_v',
  'attn1.to_q',
  'attn1.to_k',
  'attn2.to_q',
  'ffn.net.0.proj',
  'attn2',
] as const

/** The plan that takes the least memory of the device without moving anything to the host. f32 stays exact. */
export function leanPlan(compute: 'f32' | 'f16'): RecomputePlan {
  return { keep: ['attn1'], blockInputs: compute, blocksInHostMemory: 0 }
}

/** Plans that keep more and more, from the leanest to all there is to keep. */
export function richerPlans(compute: 'f32' | 'f16'): RecomputePlan[] {
  const lean = leanPlan(compute)
  // Those of the text are small; they come with the first step.
  const steps = worthKeeping.slice(2).map((_, i) => worthKeeping.slice(0, i + 3))
  return [lean, ...steps.map((names) => ({ ...lean, keep: [...lean.keep, ...names] }))]
}

/** How the network runs under a plan. */
export function runOptions(
  plan: RecomputePlan,
): Pick<TransformerRun, 'keep' | 'blockInputsAs' | 'blocksInHostMemory'> {
  const { keep, blockInputs, blocksInHostMemory } = plan
  return { keep, blockInputsAs: blockInputs === 'f16' ? 'f16' : undefined, blocksInHostMemory }
}

/** A plan in a few words. */
export function describePlan(
  { keep, blockInputs, blocksInHostMemory }: RecomputePlan,
  { numLayers }: Pick<TransformerConfig, 'numLayers'>,
): string {
  const linears = keep.filter((name) => name.includes('.'))
  const kept = [
    `block inputs in ${blockInputs}`,
    keep.includes('attn2') ? 'both attentions' : 'self-attention',
    ...(linears.length === 0
      ? []
      : [linears.length === worthKeeping.length - 1 ? 'all linears' : linears.join(', ')]),
  ]
  const away =
    blocksInHostMemory > 0 ? `, ${blocksInHostMemory} of ${numLayers} blocks on the host` : ''
  return `keeps ${kept.join(', ')}${away}`
}
