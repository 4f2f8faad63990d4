import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { parseOptions, type RunContext, type StageEvent } from '@kinora/stage'
import type { BinCommand } from '@kinora/stage/bin'
import { calibrateIter } from '@kinora/trainer-core'
import { quantizeCheckpointIter, quantizeOptions, type QuantizeResult } from '@kinora/wan'
import { z } from 'zod'
import { backendOptions, openBackendIter } from '../lib/open-backend.ts'
import { readJob } from '../lib/read-job.ts'
import { cacheJobIter, jobFolders, planJobIter } from '../lib/run-job.ts'

const options = z.strictObject({
  ...quantizeOptions.shape,
  calibrate: z
    .string()
    .min(1)
    .optional()
    .describe(
      'Job file whose clips and captions show the experts what they will see: the statistics are measured on them and kept beside the weights.',
    ),
  ...backendOptions,
})

/** `kinora quantize`: wan's packing, with statistics from trainer-core where a job is given. */
export const quantizeCommand: BinCommand = {
  summary: 'Packs a checkpoint to 4 or 8 bits, into a folder that loads without the original.',
  options,
  positionals: ['checkpoint'],
  async *run(
    given: z.input<typeof options>,
    { signal }: RunContext,
  ): AsyncGenerator<StageEvent, QuantizeResult> {
    const { calibrate, backend, adapter, ...asked } = parseOptions('KINORA', options, given)
    const jobFile = calibrate === undefined ? undefined : await readJob(calibrate)
    const device = yield* openBackendIter({ backend, adapter })
    try {
      let { statistics } = asked
      if (jobFile) {
        yield* planJobIter(jobFile, { signal })
        yield* cacheJobIter(jobFile, { device, signal })
        const { plan, cacheDir } = jobFolders(jobFile.job)
        await mkdir(asked.out, { recursive: true })
        statistics = join(asked.out, 'activation-sizes.safetensors')
        const { job } = jobFile
        yield* calibrateIter({ job, plan, cacheDir, out: statistics }, { device, signal })
      }
      return yield* quantizeCheckpointIter({ ...asked, statistics }, { device, signal })
    } finally {
      device.destroy()
    }
  },
  report: ({ out, scheme, bytes, recovered }: QuantizeResult) => {
    const gib = (count: number): string => `${(count / 2 ** 30).toFixed(2)} GiB`
    const shares = Object.values(recovered).map((share) => `${(100 * share).toFixed(1)} %`)
    return [
      `${out}: ${scheme}, ${gib(bytes.before)} became ${gib(bytes.after)}.`,
      ...(shares.length > 0
        ? [`The adapters take away ${shares.join(' and ')} of the packing error's energy.`]
        : []),
      `Train on it with model.name_or_path: ${JSON.stringify(out)}.`,
    ].join('\n')
  },
}
