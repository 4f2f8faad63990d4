import type { BinDefinition } from '@kinora/stage/bin'
import { formatReport } from './bucket-report.ts'
import { planBucketsOptions, type PlanBucketsOptions } from './options.ts'
import type { ReadContext } from './read-clips.ts'
import { planBucketsIter, type PlannedBuckets } from './write-plan.ts'

/**
 * The commands of the bin.
 *
 * @param context what the program has beyond the options: a probe, where there is one
 */
export function bucketerCommands(context: Pick<ReadContext, 'probe'>): BinDefinition {
  return {
    name: 'bucketer',
    summary: 'Sorts clips into buckets of one size and length, for training.',
    options: {
      plan: {
        summary: 'Plans which frames of which clip are used at which size, and prints the table.',
        options: planBucketsOptions,
        positionals: ['source'],
        run: (options: PlanBucketsOptions, { signal }) =>
          planBucketsIter(options, { ...context, signal }),
        report: ({ report }: PlannedBuckets) => formatReport(report),
      },
    },
  }
}
