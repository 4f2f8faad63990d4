export {
  conformanceCases,
  runConformance,
  type ConformanceOptions,
} from './lib/testing/run-conformance.ts'
export type { Bound, ComputeDType, ConformanceCase } from './lib/testing/conformance-case.ts'
export * as reference from './lib/testing/reference.ts'
export type { RefArray } from './lib/testing/reference.ts'
