#!/usr/bin/env node
import { runBin } from '@kinora/stage/bin'
import { formatReport } from './lib/bucket-report.ts'
import { planBucketsOptions, type PlanBucketsOptions } from './lib/options.ts'
import type { ProbeClip } from './lib/read-clips.ts'
import { planBucketsIter, type PlannedBuckets } from './lib/write-plan.ts'

// Only a folder without a manifest needs to look into video files; @kinora/media is used for it where it is installed.
const media = await import('@kinora/media').catch(() => undefined)
const probe: ProbeClip | undefined = media?.probe

process.exitCode = await runBin({
  name: 'bucketer',
  summary: 'Sorts clips into buckets of one size and length, for training.',
  options: {
    plan: {
      summary: 'Plans which frames of which clip are used at which size, and prints the table.',
      options: planBucketsOptions,
      positionals: ['source'],
      run: (options: PlanBucketsOptions, context) =>
        planBucketsIter(options, { ...context, probe }),
      report: ({ report }: PlannedBuckets) => formatReport(report),
    },
  },
})
