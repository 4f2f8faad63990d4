import { adamw } from './adamw.ts'
import type { OptimizerFactory } from './optimizer.ts'

/** Every optimiser by the name it has in a job. */
export const optimizersByName = {
  adamw,
  // The same rule; block-wise 8-bit states would save memory only.
  adamw8bit: adamw,
} satisfies Record<string, OptimizerFactory>
