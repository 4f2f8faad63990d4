import { z } from 'zod'

// manifest.jsonl: one JSON object a line. The first is the header; then one line a clip that was kept and one a piece of
// footage that was not. Paths are relative to the manifest's folder, with forward slashes. Times are in seconds.

const seconds = z.number().nonnegative()
const pixels = z.number().int().nonnegative()

/** A rectangle in pixels of the picture as shown (after rotation), origin at the top left. */
export const rectangleSchema = z.strictObject({
  x: pixels,
  y: pixels,
  width: pixels.positive(),
  height: pixels.positive(),
})

/** What the camera does in a clip; `subject` is a camera that stands still. */
export const cameraMotions = [
  'static',
  'pan-left',
  'pan-right',
  'tilt-up',
  'tilt-down',
  'roll',
  'zoom-in',
  'zoom-out',
  'orbit',
  'mixed',
  'subject',
] as const

/** What moves in a clip, measured. `subject`: the camera stands still and the subject moves. */
export const motionSchema = z.strictObject({
  camera: z.enum(cameraMotions).describe('Dominant motion of the clip.'),
  confidence: z
    .number()
    .min(0)
    .max(1)
    .describe('Share of the motion that the class explains, 0 to 1.'),
  panPerSecond: z
    .number()
    .describe('Mean horizontal camera speed in picture widths a second; positive to the right.'),
  tiltPerSecond: z
    .number()
    .describe('Mean vertical camera speed in picture heights a second; positive upwards.'),
  zoomPerSecond: z
    .number()
    .describe(
      'Mean growth of the picture a second, as a natural logarithm of scale; positive moves in.',
    ),
  rollPerSecond: z
    .number()
    .describe('Mean turn of the picture in degrees a second; positive is clockwise.'),
  parallax: z
    .number()
    .min(0)
    .describe('Motion that no single similarity explains, as a share of all motion.'),
  subject: z
    .number()
    .min(0)
    .describe('Mean motion left after the camera is taken out, in picture widths a second.'),
  curve: z
    .array(z.number())
    .describe('Motion energy of each frame of the clip, in picture widths a second.'),
})

export const clipRecordSchema = z.strictObject({
  type: z.literal('clip'),
  id: z.string().describe('Stable name: from the source, its bytes, the range and the settings.'),
  file: z.string().describe('The clip, relative to the manifest.'),
  sha256: z.string().length(64).describe('Of the clip file.'),
  width: pixels.positive(),
  height: pixels.positive(),
  fps: z.number().positive(),
  numFrames: z.number().int().positive(),
  duration: seconds.describe('numFrames / fps.'),
  source: z.strictObject({
    file: z.string().describe('The footage, relative to the source folder.'),
    sha256: z.string().length(64),
    start: seconds.describe('First moment kept, in the time of the footage.'),
    end: seconds.describe('End of the range kept, exclusive.'),
    width: pixels.positive(),
    height: pixels.positive(),
    fps: z.number().positive().describe('Mean frame rate of the footage.'),
    shot: z.strictObject({ index: z.number().int().nonnegative(), start: seconds, end: seconds }),
  }),
  trim: z.strictObject({
    head: seconds.describe('Stillness removed at the start.'),
    tail: seconds.describe('Stillness removed at the end.'),
    reason: z.string().describe('Why the range begins and ends where it does, in one sentence.'),
    threshold: z
      .number()
      .nonnegative()
      .describe('Motion energy above which a frame counts as moving.'),
  }),
  speed: z.number().positive().describe('1 keeps real time.'),
  crop: rectangleSchema.nullable().describe('Part of the footage kept, null for all of it.'),
  motion: motionSchema.nullable().describe('Null when motion was not analysed.'),
  scores: z
    .record(z.string(), z.number())
    .describe('Measured qualities; their names and units are in the README of clip-prep.'),
  flags: z.array(z.string()).describe('Warnings about this clip: permanent words.'),
  strip: z.string().optional().describe('Contact strip picture, relative to the manifest.'),
})

export const droppedRecordSchema = z.strictObject({
  type: z.literal('dropped'),
  file: z.string().describe('The footage, relative to the source folder.'),
  start: seconds.optional(),
  end: seconds.optional(),
  reason: z.string().describe('Permanent word for why it was left out.'),
  detail: z.string().optional(),
})

export const manifestHeaderSchema = z.strictObject({
  type: z.literal('manifest'),
  version: z.literal(1),
  tool: z.string().describe('Name and version of the program that wrote it.'),
  source: z.string().describe('The footage folder as it was given.'),
  options: z.record(z.string(), z.unknown()),
})

export const manifestRecordSchema = z.discriminatedUnion('type', [
  manifestHeaderSchema,
  clipRecordSchema,
  droppedRecordSchema,
])

export type Rectangle = z.output<typeof rectangleSchema>
export type CameraMotion = (typeof cameraMotions)[number]
export type ClipMotion = z.output<typeof motionSchema>
export type ClipRecord = z.output<typeof clipRecordSchema>
export type DroppedRecord = z.output<typeof droppedRecordSchema>
export type ManifestHeader = z.output<typeof manifestHeaderSchema>
export type ManifestRecord = z.output<typeof manifestRecordSchema>

/** A whole manifest in memory. */
export interface DatasetManifest {
  header: ManifestHeader
  clips: ClipRecord[]
  dropped: DroppedRecord[]
}
