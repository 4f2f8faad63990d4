import {
  planTrainingMemory,
  type MemoryPlan,
  type MemoryPlanOptions,
} from './plan-training-memory.ts'
import { leanPlan, richerPlans, type RecomputePlan } from './recompute-plan.ts'

export interface PlanChoice {
  plan: RecomputePlan
  memory: MemoryPlan
  /** Whether it fits the device; undefined where the device's memory is not known. */
  fits: boolean | undefined
}

/** Of a device's memory, what the driver, the screen and idle buffers of the pool leave. */
const usableShare = 0.94
const reservedBytes = 512 * 2 ** 20

/** What training may take of a device. */
export function usableBytes(memoryBytes: number): number {
  return usableShare * memoryBytes - reservedBytes
}

/** Memory of a device of which so many bytes are usable. */
export function memoryForUsable(bytes: number): number {
  return (bytes + reservedBytes) / usableShare
}

/** Of the usable memory, what may be filled for the sake of speed: buffers lie idle between their uses. */
const comfortableShare = 0.92

/**
 * Chooses what is kept of each block: as much as the device has room for. Where its memory is not known, the leanest plan. Only
 * where blocks are streamed does anything go to host memory: as little as needed, or, memory unknown, as large a share of what is
 * kept as of the weights.
 *
 * @param options.leanOnly looks only whether it fits, and keeps no more than it must
 */
export async function choosePlan(
  options: Omit<MemoryPlanOptions, 'recompute'>,
  memoryBytes: number | undefined,
  { leanOnly = false }: { leanOnly?: boolean | undefined } = {},
): Promise<PlanChoice> {
  const { compute, checkpoint, streamedShare = 0 } = options
  const { numLayers } = options.transformer
  const known = new Map<RecomputePlan, MemoryPlan>()
  const memoryOf = async (plan: RecomputePlan): Promise<MemoryPlan> => {
    let memory = known.get(plan)
    if (!memory)
      known.set(plan, (memory = await planTrainingMemory({ ...options, recompute: plan })))
    return memory
  }
  const lean = leanPlan(compute)
  if (memoryBytes === undefined) {
    const plan = { ...lean, blocksInHostMemory: Math.round(streamedShare * numLayers) }
    return { plan, memory: await memoryOf(plan), fits: undefined }
  }
  const budget = usableBytes(memoryBytes)
  const fits = async (plan: RecomputePlan): Promise<boolean> =>
    (await memoryOf(plan)).totalBytes <= budget
  const choice = async (plan: RecomputePlan): Promise<PlanChoice> => ({
    plan,
    memory: await memoryOf(plan),
    fits: await fits(plan),
  })
  if (await fits(lean)) {
    if (leanOnly || !checkpoint || streamedShare > 0) return choice(lean)
    const roomy = async (plan: RecomputePlan): Promise<boolean> =>
      (await memoryOf(plan)).totalBytes <= comfortableShare * budget
    return choice(await last(richerPlans(compute), roomy))
  }
  if (streamedShare === 0 || !checkpoint) return choice(lean)
  const away = Array.from({ length: numLayers }, (_, i) => ({
    ...lean,
    blocksInHostMemory: numLayers - i,
  }))
  return choice(await last(away, fits))
}

/** The last of plans, which take more and more, that fits; the first if none does. */
async function last(
  plans: readonly RecomputePlan[],
  fits: (plan: RecomputePlan) => Promise<boolean>,
): Promise<RecomputePlan> {
  let [low, high] = [0, plans.length - 1]
  while (low < high) {
    const middle = Math.ceil((low + high) / 2)
    if (await fits(plans[middle]!)) low = middle
    else high = middle - 1
  }
  return plans[low]!
}
