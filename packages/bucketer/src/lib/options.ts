import { frameModes, type FrameMode } from '@kinora/config-schema'
import { z } from 'zod'

/** Sizes by name: `area` is ours, `ai-toolkit` repeats that program's arithmetic. */
export const bucketRules = ['area', 'ai-toolkit'] as const

/** Frames by name, likewise. */
const frameRules = ['by-time', 'ai-toolkit'] as const

// The fields a dataset may set for itself; the same ones at the top are the defaults of every dataset.
const sampling = {
  resolutions: z
    .array(z.number().int().min(32).max(8192))
    .min(1)
    .describe(
      'Area budgets, each as the side of a square in pixels: 512 allows 512×512 pixels in any shape. Every clip is used once at each.',
    ),
  sizes: z
    .array(z.string().regex(/^\d+x\d+$/, 'a size looks like 832x480'))
    .min(1)
    .describe(
      'Exact bucket sizes such as 832x480, instead of resolutions; a clip goes to the one that cuts least off it.',
    ),
  numFrames: z
    .union([z.number().int().positive(), z.array(z.number().int().positive()).min(1)])
    .describe(
      'Frames of a sample, one more than a multiple of 4. Of several, the longest that the clip holds.',
    ),
  autoNumFrames: z
    .boolean()
    .describe('Ignore numFrames and take as many frames as each clip holds.'),
  frameMode: z
    .enum(frameModes)
    .describe(
      'real-time: one window at the true speed. uniform: the whole clip squeezed into the sample. head: a window from the start. slide: overlapping windows. chunk: windows one after another. Not set: real-time, or uniform with the rule ai-toolkit.',
    ),
  frameRule: z
    .enum(frameRules)
    .describe(
      'by-time takes the frame nearest to each moment. ai-toolkit steps over whole frames, and slows a clip down that is too short. Not set: as the rule says; slide and chunk are always by-time.',
    ),
  windowStart: z
    .enum(['random', 'start', 'centre'])
    .describe(
      'Where a real-time window sits in a clip that is longer; random is drawn from the seed, anew for each repeat.',
    ),
  slideStride: z
    .number()
    .int()
    .positive()
    .describe(
      'Distance of two sliding windows, in frames of the sample. Half a window if not set.',
    ),
  shortClips: z
    .enum(['snap', 'skip', 'stretch'])
    .describe(
      'A clip too short for numFrames: snap takes as many frames as it holds, skip leaves it out, stretch slows it down.',
    ),
  minNumFrames: z
    .number()
    .int()
    .positive()
    .describe('Fewest frames that snap and autoNumFrames may come down to.'),
  fit: z
    .enum(['crop', 'pad'])
    .describe('crop fills the bucket and cuts the rest off, pad shows all of the frame with bars.'),
  cropPosition: z
    .enum(['centre', 'random'])
    .describe('Which part of the frame a crop keeps; random is drawn from the seed.'),
  divisor: z
    .union([z.literal(16), z.literal(32)])
    .describe('Both sides of a bucket are multiples of it.'),
  upscale: z.boolean().describe('Allow buckets larger than the clip.'),
  repeats: z.number().int().min(1).max(10_000).describe('Times a clip stands in an epoch.'),
  weight: z.number().nonnegative().describe('Multiplies the loss of every sample.'),
  regularisation: z
    .boolean()
    .describe('A regularisation set: its samples never share a batch with others.'),
  flipX: z.boolean().describe('Add a copy of every sample mirrored left to right.'),
  flipY: z.boolean().describe('Add a copy of every sample turned upside down.'),
  batchSize: z.number().int().min(1).max(1024).describe('Samples of a batch.'),
  images: z
    .boolean()
    .describe(
      'Take the still pictures of a folder without a manifest as clips of one frame. They are used only where numFrames allows 1.',
    ),
}

const datasetFields = z.strictObject(sampling).partial()

/** One dataset of a job: its clips, and whatever it sets otherwise than the job. */
export const datasetOptions = z.strictObject({
  source: z
    .string()
    .min(1)
    .describe('A manifest.jsonl, a folder that holds one, or a folder of clips.'),
  ...datasetFields.shape,
})

export const planBucketsOptions = z.strictObject({
  source: z
    .string()
    .min(1)
    .optional()
    .describe(
      'A manifest.jsonl, a folder that holds one, or a folder of clips. For several, use datasets.',
    ),
  datasets: z
    .array(datasetOptions)
    .optional()
    .describe('Several datasets, each with its settings.'),
  out: z
    .string()
    .min(1)
    .default('bucket-plan.json')
    .describe('File that receives the plan; clips are named relative to its folder.'),
  dryRun: z.boolean().default(false).describe('Print the plan and write nothing.'),
  maxSkipped: z
    .number()
    .int()
    .nonnegative()
    .optional()
    .describe('Most files that may be missing or unreadable; with more of them the run fails.'),
  fps: z.number().positive().default(16).describe('Frame rate of the samples, frames a second.'),
  rule: z
    .enum(bucketRules)
    .default('area')
    .describe(
      'How sizes and, unless frameRule says otherwise, frames are computed; ai-toolkit gives that program’s own numbers.',
    ),
  seed: z.number().int().nonnegative().default(42).describe('Of window and crop positions.'),
  strict: z
    .boolean()
    .default(false)
    .describe('Refuse a numFrames that is not 4n+1, where it would be snapped down.'),
  lastBatch: z
    .enum(['repeat', 'short', 'drop'])
    .default('repeat')
    .describe(
      'What becomes of samples that do not fill a batch: repeat fills it with others of its bucket, short leaves it short, drop leaves the samples out.',
    ),
  resolutions: sampling.resolutions.default([512]),
  sizes: sampling.sizes.optional(),
  numFrames: sampling.numFrames.default(81),
  autoNumFrames: sampling.autoNumFrames.default(false),
  frameMode: sampling.frameMode.optional(),
  frameRule: sampling.frameRule.optional(),
  windowStart: sampling.windowStart.default('random'),
  slideStride: sampling.slideStride.optional(),
  shortClips: sampling.shortClips.default('snap'),
  minNumFrames: sampling.minNumFrames.default(5),
  fit: sampling.fit.default('crop'),
  cropPosition: sampling.cropPosition.default('centre'),
  divisor: sampling.divisor.default(16),
  upscale: sampling.upscale.default(false),
  repeats: sampling.repeats.default(1),
  weight: sampling.weight.default(1),
  regularisation: sampling.regularisation.default(false),
  flipX: sampling.flipX.default(false),
  flipY: sampling.flipY.default(false),
  batchSize: sampling.batchSize.default(1),
  images: sampling.images.optional(),
})

export type PlanBucketsOptions = z.input<typeof planBucketsOptions>
export type DatasetOptions = z.input<typeof datasetOptions>

/** Options after defaults. */
export type ResolvedOptions = z.output<typeof planBucketsOptions>

/** What holds for one dataset once its own settings lie over the job's. */
export type DatasetSettings = Omit<
  ResolvedOptions,
  'source' | 'datasets' | 'out' | 'dryRun' | 'maxSkipped' | 'numFrames' | 'frameMode' | 'frameRule'
> & {
  frameMode: FrameMode
  frameRule: (typeof frameRules)[number]
  /** Allowed lengths, each 4n+1, longest first. */
  numFrames: readonly number[]
  /** The lengths as they were written. */
  askedNumFrames: readonly number[]
}
