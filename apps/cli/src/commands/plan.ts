import {
  planBucketsIter,
  planBucketsOptions,
  formatReport,
  type PlannedBuckets,
  type PlanBucketsOptions,
} from '@kinora/bucketer'
import { probe } from '@kinora/media'
import type { BinCommand } from '@kinora/stage/bin'
import { isJobFile, planJobFileIter, type PlannedJob } from '../plan/plan-job-file.ts'

/** `kinora plan`: bucketer; of a job file also the timesteps that will be drawn. */
export const planCommand: BinCommand = {
  summary: 'Plans which frames of which clip are trained at which size, and prints the table.',
  options: planBucketsOptions,
  positionals: ['source'],
  run: ({ source, ...options }: PlanBucketsOptions, context) =>
    isJobFile(source)
      ? planJobFileIter(source, options, context)
      : planBucketsIter({ source, ...options }, { ...context, probe }),
  report: (planned: PlannedBuckets | PlannedJob) =>
    'timesteps' in planned
      ? `${formatReport(planned.report)}\n\n${planned.timesteps.drawing}`
      : formatReport(planned.report),
}
