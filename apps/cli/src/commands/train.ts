import { parseOptions, type RunContext, type StageEvent } from '@kinora/stage'
import type { BinCommand } from '@kinora/stage/bin'
import { trainIter, type TrainResult } from '@kinora/trainer-core'
import { z } from 'zod'
import { explainRun } from '@kinora/run-log'
import { exportRunIter } from '../export/export-run.ts'
import { openOutlets, watchRun } from '../metrics/open-outlets.ts'
import { readRun } from '../metrics/read-run.ts'
import { makePreview } from '../lib/make-preview.ts'
import { backendOptions, openBackendIter, vramOption } from '../lib/open-backend.ts'
import { refuseJobThatWillNotFit } from '../plan/estimate-job.ts'
import { readJob } from '../lib/read-job.ts'
import { cacheJobIter, checkJobIter, jobFolders, planJobIter, tellSkipped } from '../lib/run-job.ts'

const trainOptions = z.strictObject({
  job: z.string().min(1).describe('Job file in AI Toolkit’s dialect, YAML or JSON.'),
  name: z.string().min(1).optional().describe("In place of the job's own name."),
  resume: z
    .union([z.enum(['latest', 'best', 'never']), z.int().nonnegative()])
    .default('latest')
    .describe(
      'Where to go on: the newest state, the one validation liked best, a saved step, or never: begin anew.',
    ),
  vram: vramOption,
  ...backendOptions,
  tune: z
    .boolean()
    .default(false)
    .describe(
      'Find out first which kernels for tensor cores are fastest on this adapter: up to a minute, once for a driver and version.',
    ),
})

/** `kinora train`: plan, cache, train, with previews through sampler. */
export const trainCommand: BinCommand = {
  summary: 'Trains both experts from a job file in AI Toolkit’s dialect.',
  options: trainOptions,
  positionals: ['job'],
  async *run(
    options: z.input<typeof trainOptions>,
    { signal }: RunContext,
  ): AsyncGenerator<StageEvent, TrainResult> {
    const {
      job: file,
      name,
      resume,
      vram,
      ...backend
    } = parseOptions('KINORA', trainOptions, options)
    const jobFile = await readJob(file, name)
    const { job } = jobFile
    yield* checkJobIter(jobFile, { signal })
    const device = yield* openBackendIter(backend)
    try {
      const unreadable = yield* planJobIter(jobFile, { signal })
      const memoryBytes = vram === undefined ? undefined : 2 ** 30 * vram
      await refuseJobThatWillNotFit(job, device, { memoryBytes, signal })
      const { skipped } = yield* cacheJobIter(jobFile, { device, signal })
      const { out, plan, cacheDir } = jobFolders(job)
      const outlet = openOutlets(job)
      const result = yield* watchRun(
        trainIter(
          { job, plan, cacheDir, out, resume, memoryBytes },
          { device, signal, preview: makePreview({ job, device, plan }), metrics: outlet },
        ),
        outlet,
      )
      const { experts, motion } = explainRun(await readRun(out))
      for (const { sentence } of experts) yield { type: 'note', message: sentence }
      if (motion) yield { type: 'note', message: `Motion: ${motion.sentence}` }
      yield* tellSkipped(unreadable.length + skipped.length)
      const { save } = job.config.process[0]
      if (save.push_to_hub) {
        const push = { push: save.hf_repo_id!, private: save.hf_private }
        const dtype = ({ fp32: 'f32', fp16: 'f16', bf16: 'bf16' } as const)[save.dtype]
        yield* exportRunIter(
          { run: out, choice: 'latest', layout: 'comfyui', dtype, ...push },
          { signal },
        )
      }
      return result
    } finally {
      device.destroy()
    }
  },
  report: ({ step, files, losses }: TrainResult) => {
    const last = Object.entries(losses).map(([expert, loss]) => `${expert} ${loss.toPrecision(4)}`)
    return [
      `${step} steps${last.length > 0 ? `; last losses ${last.join(', ')}` : ', done before'}.`,
      ...new Set(Object.values(files)),
    ].join('\n')
  },
}
