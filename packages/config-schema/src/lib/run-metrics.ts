import { z } from 'zod'
import { configErrors } from './errors.ts'

// metrics.jsonl of a run: one JSON object a line, in the order of the work. Steps count from 1 and include the one at hand. Keys
// that a reader does not know are kept, so that an older reader takes a newer file.

const experts = ['high', 'low'] as const
const step = z.int().nonnegative()
const seconds = z.number().nonnegative()
/** JSON has no NaN; `JSON.stringify` writes null for it. */
const measured = z.union([z.number(), z.null().transform(() => Number.NaN)])

const stepMetricsSchema = z.looseObject({
  type: z.literal('step'),
  step: step.describe('Steps done, this one included.'),
  expert: z.enum(experts),
  expertStep: step.describe('Steps of this expert done, this one included.'),
  loss: measured.describe('Mean over the micro-batches, weights applied.'),
  unweightedLoss: measured.optional().describe('Mean of the loss before weights.'),
  preservationLoss: measured
    .optional()
    .describe('The preservation part of the loss, where the job has one.'),
  gradNorm: measured.describe("L2 norm over the expert's LoRA before clipping."),
  learningRate: measured,
  timesteps: z.array(z.number()).describe('0 to 1000, one an item.'),
  shape: z
    .array(z.int().positive())
    .optional()
    .describe('Of the noised latents: batch, channels, frames, rows, columns.'),
  lossScale: z.number(),
  seconds: z
    .looseObject({ total: seconds })
    .describe('load, data, queue and device are parts of total.'),
  memory: z.looseObject({ liveMiB: z.number(), peakMiB: z.number() }),
})

const validationMetricsSchema = z.looseObject({
  type: z.literal('validation'),
  step: step.describe('Steps done when it was measured; 0 before the first.'),
  experts: z
    .partialRecord(
      z.enum(experts),
      z.looseObject({
        loss: measured.describe('Mean over the held-out clips, on fixed noise.'),
        bands: z
          .array(
            z.looseObject({
              from: z.number().describe('Lowest timestep of the band.'),
              to: z.number().describe('Highest timestep of the band.'),
              loss: measured,
            }),
          )
          .optional(),
      }),
    )
    .describe('Losses of the experts that were measured.'),
})

/** What the camera does in a preview or in a clip, in a word and in speeds; see `motionSchema` for the units. */
export const motionSummarySchema = z.looseObject({
  camera: z.string(),
  panPerSecond: z.number(),
  tiltPerSecond: z.number(),
  zoomPerSecond: z.number(),
  rollPerSecond: z.number(),
  subject: z.number(),
})

const movementSchema = z.strictObject({ speed: z.number(), signed: z.number() })

const previewMetricsSchema = z.looseObject({
  type: z.literal('preview'),
  step,
  failed: z.string().optional().describe('Why there are none.'),
  trained: z
    .looseObject({
      numClips: z.int().positive(),
      movements: z.strictObject({
        pan: movementSchema,
        tilt: movementSchema,
        zoom: movementSchema,
        roll: movementSchema,
        subject: movementSchema,
      }),
    })
    .optional()
    .describe('Motion of the samples that were trained on, as they play at 16 fps.'),
  files: z
    .array(
      z.looseObject({
        file: z.string().describe('Relative to the folder of the run.'),
        multiplier: z
          .number()
          .optional()
          .describe('Strength of the LoRA; a preview at 0 shows the base model.'),
        motion: motionSummarySchema.nullable().optional(),
        change: z
          .number()
          .optional()
          .describe('Mean absolute difference from the first preview, in gray levels.'),
      }),
    )
    .optional(),
})

const runMetricsSchema = z.looseObject({
  type: z.literal('run'),
  step: step.describe('Steps done when the run began or went on.'),
  totalSteps: step.optional(),
})

const errorMetricsSchema = z.looseObject({
  type: z.literal('error'),
  step: step.describe('The step that failed.'),
  code: z.string(),
  message: z.string(),
})

const saveMetricsSchema = z.looseObject({ type: z.literal('save'), step })

/** One line of metrics.jsonl. */
export const metricsEntrySchema = z.discriminatedUnion('type', [
  stepMetricsSchema,
  validationMetricsSchema,
  previewMetricsSchema,
  saveMetricsSchema,
  runMetricsSchema,
  errorMetricsSchema,
])

/** One line of metrics.jsonl as it is read. */
export type MetricsEntry = z.output<typeof metricsEntrySchema>
export type StepEntry = z.output<typeof stepMetricsSchema>
export type ValidationEntry = z.output<typeof validationMetricsSchema>
export type PreviewEntry = z.output<typeof previewMetricsSchema>
export type MotionSummary = z.output<typeof motionSummarySchema>

const knownTypes = new Set<unknown>(['step', 'validation', 'preview', 'save', 'run', 'error'])

/**
 * Reads metrics.jsonl. Lines of kinds that this version does not know are left out, and so is a last line that is being written.
 *
 * @throws CodedError `CONFIG_BAD_METRICS` naming the line
 */
export function readMetrics(text: string, { fileName }: { fileName: string }): MetricsEntry[] {
  const lines = text.split('\n')
  return lines.flatMap((line, index) => {
    if (line.trim() === '') return []
    let value: unknown
    try {
      value = JSON.parse(line)
    } catch {
      // A file without a line break at its end was cut off, or is being written.
      if (index === lines.length - 1) return []
      throw configErrors.BAD_METRICS(fileName, index + 1, 'is not JSON')
    }
    if (!knownTypes.has((value as { type?: unknown } | null)?.type)) return []
    const parsed = metricsEntrySchema.safeParse(value)
    if (parsed.success) return [parsed.data]
    const { path, message } = parsed.error.issues[0]!
    throw configErrors.BAD_METRICS(
      fileName,
      index + 1,
      `has a wrong ${path.join('.')}: ${message.replace(/\.$/, '')}`,
    )
  })
}
