import { sampleIter, sampleOptions, type SampleResult } from '@kinora/sampler'
import { parseOptions, type RunContext, type StageEvent } from '@kinora/stage'
import type { BinCommand } from '@kinora/stage/bin'
import { z } from 'zod'
import { backendOptions, openBackendIter } from '../lib/open-backend.ts'

const options = z.strictObject({ ...sampleOptions.shape, ...backendOptions })

/** `kinora sample`: sampler. */
export const sampleCommand: BinCommand = {
  summary: 'Generates a clip from an image and a prompt, with or without LoRA files.',
  options,
  positionals: ['checkpoint'],
  async *run(
    input: z.input<typeof options>,
    { signal }: RunContext,
  ): AsyncGenerator<StageEvent, SampleResult> {
    const { backend, adapter, ...sampling } = parseOptions('KINORA', options, input)
    const device = yield* openBackendIter({ backend, adapter })
    try {
      return yield* sampleIter(sampling, { device, signal })
    } finally {
      device.destroy()
    }
  },
  report: ({ file, width, height, numFrames, seed }: SampleResult) =>
    `${file}: ${width}×${height}, ${numFrames} frames, seed ${seed}.`,
}
