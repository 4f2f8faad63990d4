import {
  planBucketsIter,
  planBucketsOptions,
  formatReport,
  type PlannedBuckets,
} from '@kinora/bucketer'
import { probe } from '@kinora/media'
import type { BinCommand } from '@kinora/stage/bin'
import { z } from 'zod'
import { backendOptions, vramOption } from '../lib/open-backend.ts'
import { formatEstimate } from '../plan/estimate-job.ts'
import { isJobFile, planJobFileIter, type PlannedJob } from '../plan/plan-job-file.ts'

const planOptions = z.strictObject({
  ...planBucketsOptions.shape,
  ...backendOptions,
  vram: vramOption,
})

/** `kinora plan`: bucketer; of a job file also the timesteps that will be drawn, and what it will take of the device. */
export const planCommand: BinCommand = {
  summary:
    'Plans which frames of which clip are trained at which size, and prints the table; of a job also memory and time on this device.',
  options: planOptions,
  positionals: ['source'],
  run(input: z.input<typeof planOptions>, context) {
    const { backend, adapter, vram, ...options } = input
    const { source, ...others } = options
    return isJobFile(source)
      ? planJobFileIter(source, others, { backend, adapter, vram }, context)
      : planBucketsIter(options, { ...context, probe })
  },
  report: (planned: PlannedBuckets | PlannedJob) =>
    'timesteps' in planned
      ? [
          formatReport(planned.report),
          planned.timesteps.drawing,
          ...(planned.estimate ? [formatEstimate(planned.estimate)] : []),
        ].join('\n\n')
      : formatReport(planned.report),
}
