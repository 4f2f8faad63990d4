import { z } from 'zod'

// bucket-plan.json: which frames of which clip go through the network at which size, and what was left out. Clip paths are
// relative to the plan's folder unless absolute.

/** How the frames of a sample are chosen from its clip. */
export const frameModes = ['real-time', 'uniform', 'head', 'slide', 'chunk'] as const

/** One training sample: a clip, or a window of one, at one size. */
export const planItemSchema = z.strictObject({
  clip: z.string().describe('The clip file.'),
  clipSha256: z.string().length(64).optional().describe('Of the clip file, where known.'),
  dataset: z.number().int().nonnegative().describe('Index of the dataset in the job.'),
  frameIndices: z
    .array(z.number().int().nonnegative())
    .min(1)
    .describe('Frames of the clip in decoding order, numFrames of them, never falling.'),
  speedUp: z
    .number()
    .positive()
    .describe('Clip time a second of the sample: 1 is real time, 2 is twice as fast.'),
  resize: z
    .strictObject({ width: z.number().int().positive(), height: z.number().int().positive() })
    .describe('The frame is scaled to this size, covering the bucket (crop) or inside it (pad).'),
  crop: z
    .strictObject({
      x: z.number().int(),
      y: z.number().int(),
      width: z.number().int().positive(),
      height: z.number().int().positive(),
    })
    .describe(
      'Window on the resized frame, the size of the bucket. With padding it reaches past the frame: x and y are negative, and the frame sits at -x, -y.',
    ),
  flip: z.boolean().describe('Mirrored left to right.'),
  flipVertical: z.boolean().optional().describe('Turned upside down; absent for no.'),
  weight: z.number().nonnegative().describe('Multiplies the loss.'),
  regularisation: z.boolean(),
})

export const bucketSchema = z.strictObject({
  width: z.number().int().positive().multipleOf(16),
  height: z.number().int().positive().multipleOf(16),
  numFrames: z.number().int().positive().describe('4n+1.'),
  resolution: z.number().int().positive().describe('Side of the square whose area is the budget.'),
  batchSize: z.number().int().positive(),
  items: z
    .array(planItemSchema)
    .min(1)
    .describe(
      'Sorted by dataset and clip, so that the order of the manifest does not matter; a clip with repeats stands in it as often.',
    ),
})

export const bucketPlanSchema = z.strictObject({
  version: z.literal(1),
  tool: z.string(),
  fps: z.number().positive().describe('Frame rate of the samples.'),
  options: z.record(z.string(), z.unknown()),
  buckets: z.array(bucketSchema),
  skipped: z.array(
    z.strictObject({
      clip: z.string(),
      resolution: z.number().int().positive().optional(),
      reason: z.string(),
      detail: z.string().optional(),
    }),
  ),
})

export type FrameMode = (typeof frameModes)[number]
export type PlanItem = z.output<typeof planItemSchema>
export type Bucket = z.output<typeof bucketSchema>
export type BucketPlan = z.output<typeof bucketPlanSchema>
