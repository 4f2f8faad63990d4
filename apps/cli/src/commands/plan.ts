import {
  planBucketsIter,
  planBucketsOptions,
  formatReport,
  type PlannedBuckets,
  type PlanBucketsOptions,
} from '@kinora/bucketer'
import { probe } from '@kinora/media'
import type { BinCommand } from '@kinora/stage/bin'

/** `kinora plan`: bucketer. */
export const planCommand: BinCommand = {
  summary: 'Plans which frames of which clip are trained at which size, and prints the table.',
  options: planBucketsOptions,
  positionals: ['source'],
  run: (options: PlanBucketsOptions, context) => planBucketsIter(options, { ...context, probe }),
  report: ({ report }: PlannedBuckets) => formatReport(report),
}
