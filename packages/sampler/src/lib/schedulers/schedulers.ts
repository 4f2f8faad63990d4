import { createEuler, createEulerLinear } from './euler.ts'
import type { CreateSolver } from './scheduler.ts'
import { createUniPC } from './unipc.ts'

/**
 * By the name that options use: `unipc` (the release's own), `euler` (diffusers' FlowMatchEuler), `euler-linear` (evenly
 * spaced, for 4-step distillation LoRAs).
 */
export const schedulers = {
  unipc: createUniPC,
  euler: createEuler,
  'euler-linear': createEulerLinear,
} as const satisfies Record<string, CreateSolver>

export type SchedulerName = keyof typeof schedulers
