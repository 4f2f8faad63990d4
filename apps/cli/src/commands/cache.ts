import { parseOptions, type RunContext, type StageEvent } from '@kinora/stage'
import type { BinCommand } from '@kinora/stage/bin'
import type { CacheDatasetResult } from '@kinora/trainer-core'
import { z } from 'zod'
import { backendOptions, openBackendIter } from '../lib/open-backend.ts'
import { readJob } from '../lib/read-job.ts'
import { cacheJobIter, checkJobIter, planJobIter, tellSkipped } from '../lib/run-job.ts'

const cacheOptions = z.strictObject({
  job: z.string().min(1).describe('Job file in AI Toolkit’s dialect, YAML or JSON.'),
  name: z.string().min(1).optional().describe("In place of the job's own name."),
  ...backendOptions,
})

/** `kinora cache`: the first half of `kinora train`. */
export const cacheCommand: BinCommand = {
  summary: "Encodes a job's clips and captions once, so that training needs neither again.",
  options: cacheOptions,
  positionals: ['job'],
  async *run(
    options: z.input<typeof cacheOptions>,
    { signal }: RunContext,
  ): AsyncGenerator<StageEvent, CacheDatasetResult> {
    const { job: file, name, ...backend } = parseOptions('KINORA', cacheOptions, options)
    const job = await readJob(file, name)
    yield* checkJobIter(job, { signal })
    const device = yield* openBackendIter(backend)
    try {
      const unreadable = yield* planJobIter(job, { signal })
      const result = yield* cacheJobIter(job, { device, signal })
      yield* tellSkipped(unreadable.length + result.skipped.length)
      return result
    } finally {
      device.destroy()
    }
  },
  report: ({ latents, texts, skipped }: CacheDatasetResult) =>
    `${latents.made} samples and ${texts.made} texts encoded, ${latents.found} and ${texts.found} found in the cache${
      skipped.length > 0 ? `, ${skipped.length} clips skipped` : ''
    }.`,
}
