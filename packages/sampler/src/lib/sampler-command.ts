import type { BinDefinition } from '@kinora/stage/bin'
import type { RunContext, StageEvent } from '@kinora/stage'
import { z } from 'zod'
import { loadBackend } from './open-backend.ts'
import { sampleOptions } from './options.ts'
import { sampleIter, type SampleResult } from './sample.ts'

const commandOptions = z.strictObject({
  ...sampleOptions.shape,
  backend: z
    .string()
    .min(1)
    .default('@kinora/wgpu-kernels/node')
    .describe('Package whose kernels compute; @kinora/cpu-kernels needs no adapter.'),
  adapter: z
    .string()
    .min(1)
    .optional()
    .describe('Part of an adapter’s name, to choose among several.'),
})

async function* run(
  options: z.input<typeof commandOptions>,
  context: RunContext,
): AsyncGenerator<StageEvent, SampleResult> {
  const { backend, adapter, ...sampling } = commandOptions.parse(options)
  const openDevice = await loadBackend(backend)
  const device = await openDevice({ adapter })
  try {
    const { info } = device
    yield { type: 'note', message: `Computing on ${info.adapter}. ${info.reason}` }
    return yield* sampleIter(sampling, { ...context, device })
  } finally {
    device.destroy()
  }
}

/** The bin: one command. */
export const samplerCommand: BinDefinition = {
  name: 'sampler',
  summary: 'Generates a clip from an image and a prompt, with or without LoRA files.',
  options: commandOptions,
  positionals: ['checkpoint'],
  run,
  report: ({ file, width, height, numFrames }: SampleResult) =>
    `${file}: ${width}×${height}, ${numFrames} frames`,
}
