import { parseOptions, type RunContext, type StageEvent } from '@kinora/stage'
import type { BinCommand } from '@kinora/stage/bin'
import { z } from 'zod'
import { demoIter, type DemoReport } from '../demo/demo.ts'
import { backendOptions } from '../lib/open-backend.ts'

const demoOptions = z.strictObject({
  out: z.string().min(1).default('runs/demo').describe('Folder that receives everything.'),
  fresh: z
    .boolean()
    .default(false)
    .describe('Begin anew, instead of going on from what is there and still fits.'),
  steps: z.int().positive().default(120).describe('Training steps, both experts together.'),
  rank: z.int().positive().default(16).describe('Rank of both LoRAs.'),
  learningRate: z.number().positive().default(2e-3).describe('Learning rate.'),
  turn: z
    .int()
    .positive()
    .default(10)
    .describe('Steps of one expert before the other has its turn.'),
  size: z.int().positive().multipleOf(16).default(64).describe('Pixels of a side.'),
  numFrames: z
    .int()
    .positive()
    .refine((value) => value % 4 === 1, 'must be one more than a multiple of 4')
    .default(17)
    .describe('Frames of a clip; the true clips have 17.'),
  sampleSteps: z.int().positive().default(20).describe('Denoising steps of a preview.'),
  shift: z.number().positive().default(3).describe('Flow shift, in training and in previews.'),
  seed: z.int().nonnegative().default(42).describe('Of everything random.'),
  ...backendOptions,
})

/** `kinora demo`: the main job on tiny-wan. */
export const demoCommand: BinCommand = {
  summary: 'The whole way on a tiny checkpoint, with previews before and after.',
  options: demoOptions,
  run: (
    options: z.input<typeof demoOptions>,
    context: RunContext,
  ): AsyncGenerator<StageEvent, DemoReport> =>
    demoIter(parseOptions('KINORA', demoOptions, options), context),
  report: ({ psnr: { before, after, gain }, totalSeconds, reused, settings }: DemoReport) =>
    [
      `Mean PSNR to the true clips: ${before} dB before, ${after} dB after ${settings.steps} steps (+${gain} dB).`,
      `Took ${totalSeconds} s${reused.length > 0 ? `; found done: ${reused.join(', ')}` : ''}.`,
    ].join('\n'),
}
