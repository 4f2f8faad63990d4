import { z } from 'zod'
import { clipFlags, type ClipFlag } from './clip-flags.ts'
import { shotDetectors, type ShotDetector } from './detect-shots.ts'

const keysOf = <Key extends string>(record: Record<Key, unknown>) =>
  Object.keys(record) as [Key, ...Key[]]

/** `NAME=START-END`, in seconds of the footage. */
export const rangeEdit = /^(.+)=(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)$/

export const prepareClipsOptions = z.strictObject({
  source: z.string().min(1).describe('Folder of footage, read recursively, or one video file.'),
  out: z
    .string()
    .min(1)
    .describe('Folder that receives clips, contact strips, manifest.jsonl and report.html.'),
  fps: z.number().positive().max(240).default(16).describe('Frames a second of the clips.'),
  speed: z
    .number()
    .min(0.1)
    .max(10)
    .default(1)
    .describe(
      'Seconds of footage a second of clip. 1 keeps real time; 2 shows everything twice as fast.',
    ),
  detector: z
    .enum(keysOf<ShotDetector>(shotDetectors))
    .default('color-structure')
    .describe(
      'How shots are told apart. color-structure also finds dissolves and fades; content and adaptive are those of PySceneDetect.',
    ),
  threshold: z
    .number()
    .positive()
    .optional()
    .describe('Threshold of the detector in its own unit; its default where not set.'),
  cutMargin: z
    .number()
    .min(0)
    .max(5)
    .default(0.04)
    .describe('Seconds dropped on each side of a cut, dissolve or fade.'),
  trim: z
    .boolean()
    .default(true)
    .describe('Trim stillness off the start and end of each shot, so that motion starts at once.'),
  trimPad: z
    .number()
    .min(0)
    .max(5)
    .default(0.04)
    .describe('Seconds of stillness left before and after the motion.'),
  untrim: z
    .array(z.string().min(1))
    .default([])
    .describe('Undo the trim of these clips, by name as in the report; each keeps its whole shot.'),
  range: z
    .array(
      z
        .string()
        .regex(rangeEdit, 'a range looks like take_001=1.20-4.80')
        .refine((text) => {
          const [, , start, end] = rangeEdit.exec(text) ?? []
          return Number(start) < Number(end)
        }, 'a range ends after it starts'),
    )
    .default([])
    .describe(
      'Keep this range of a clip instead, as take_001=1.20-4.80, in seconds of its footage; it stays inside the shot.',
    ),
  keepStill: z
    .boolean()
    .default(false)
    .describe('Keep shots in which nothing moves; they are listed as dropped otherwise.'),
  minDuration: z.number().min(0).default(1).describe('Shortest clip kept, in seconds of clip.'),
  maxDuration: z
    .number()
    .positive()
    .optional()
    .describe('Longest clip, in seconds of clip: longer shots are cut into equal parts.'),
  crop: z
    .string()
    .regex(/^(bars|none|\d+x\d+\+\d+\+\d+)$/, 'bars, none, or WIDTHxHEIGHT+X+Y')
    .default('bars')
    .describe(
      'bars cuts black bars off, none keeps the whole picture, 1280x720+0+60 keeps that part of the picture as shown.',
    ),
  maxSide: z
    .number()
    .int()
    .min(16)
    .optional()
    .describe('Longest side of the clips in pixels; larger pictures are scaled down.'),
  crf: z
    .number()
    .int()
    .min(0)
    .max(51)
    .default(14)
    .describe('Quality of the clips: 0 is lossless, 14 shows no loss, 51 is worst.'),
  preset: z
    .enum(['ultrafast', 'superfast', 'veryfast', 'faster', 'fast', 'medium', 'slow'])
    .default('ultrafast')
    .describe('Speed of the encoder at the same quality: slower makes smaller files.'),
  drop: z
    .array(z.enum(keysOf<ClipFlag>(clipFlags)))
    .default([])
    .describe('Leave clips with these flags out; each is listed with its reason.'),
  salvage: z
    .boolean()
    .default(false)
    .describe('Use the readable part of files that break off, instead of leaving them out.'),
  strips: z.boolean().default(true).describe('Write a contact strip for each clip.'),
  report: z.boolean().default(true).describe('Write report.html.'),
  jobs: z
    .number()
    .int()
    .min(1)
    .max(256)
    .optional()
    .describe(
      'Videos worked on at once; where not set, the number of processor cores, and half of it where large pictures are cut.',
    ),
  shard: z
    .string()
    .regex(/^\d+\/\d+$/, 'a shard looks like 2/8')
    .refine((text) => {
      const [index, count] = text.split('/').map(Number)
      return index! >= 1 && index! <= count!
    }, 'a shard goes from 1/n to n/n')
    .optional()
    .describe('Do only this part of the files, as 2/8; join the parts with clip-prep merge.'),
  maxSkipped: z
    .number()
    .int()
    .min(0)
    .optional()
    .describe('Fail at the end when more files than this were left out.'),
  dryRun: z.boolean().default(false).describe('Analyse and print the plan; write nothing.'),
})

export type PrepareClipsOptions = z.input<typeof prepareClipsOptions>
export type PrepareClipsSettings = z.output<typeof prepareClipsOptions>

export const mergeShardsOptions = z.strictObject({
  out: z.string().min(1).describe('Output folder that the shards share.'),
  report: z.boolean().default(true).describe('Write report.html over all shards.'),
  dryRun: z.boolean().default(false).describe('Join and print the manifest; write nothing.'),
})

export type MergeShardsOptions = z.input<typeof mergeShardsOptions>
