import { z } from 'zod'
import { schedulers, type SchedulerName } from './schedulers/schedulers.ts'

const schedulerNames = Object.keys(schedulers) as [SchedulerName, ...SchedulerName[]]

const loraObject = z.strictObject({
  file: z.string().min(1).describe('LoRA file, in the layout of ComfyUI, diffusers or kohya.'),
  expert: z.enum(['high', 'low']).optional().describe('Expert it is for; by its name if left out.'),
  weight: z.number().default(1).describe('Multiplies its own scale.'),
})

/** What `sample` takes: one clip from one image and one prompt. */
export const sampleOptions = z.strictObject({
  checkpoint: z
    .string()
    .min(1)
    .describe('Folder of a Wan 2.2 I2V checkpoint in the diffusers layout, or its Hub id.'),
  prompt: z.string().describe('What happens in the clip.'),
  image: z
    .string()
    .min(1)
    .optional()
    .describe('First frame: an image file, stretched to the size of the clip.'),
  out: z.string().min(1).default('sample.mp4').describe('File to write: .mp4, or animated .webp.'),
  negativePrompt: z.string().default('').describe('What guidance moves away from.'),
  width: z
    .int()
    .positive()
    .optional()
    .describe('Width in pixels, a multiple of 16. Without a size the image’s shape is kept.'),
  height: z.int().positive().optional().describe('Height in pixels, a multiple of 16.'),
  area: z
    .int()
    .positive()
    .default(480 * 832)
    .describe('Pixels at most where no size is given.'),
  numFrames: z.int().positive().default(81).describe('Frames: 4n + 1.'),
  fps: z.number().positive().default(16).describe('Frames a second of the file.'),
  steps: z.int().positive().default(40).describe('Solver steps.'),
  scheduler: z
    .enum(schedulerNames)
    .default('unipc')
    .describe('Solver. euler-linear goes with 4-step distillation LoRAs.'),
  shift: z.number().positive().default(5).describe('Shift of the schedule towards noise.'),
  guidance: z
    .number()
    .min(1)
    .default(3.5)
    .describe('Guidance of the high-noise expert. 1 halves the work.'),
  guidance2: z
    .number()
    .min(1)
    .optional()
    .describe('Guidance of the low-noise expert; that of the high-noise one if left out.'),
  boundary: z
    .number()
    .min(0)
    .max(1)
    .optional()
    .describe('Noise level at which the experts change; the checkpoint’s if left out.'),
  seed: z.int().min(0).max(Number.MAX_SAFE_INTEGER).default(42).describe('Seed of the noise.'),
  lora: z
    .array(z.union([z.string().min(1), loraObject]))
    .default([])
    .describe(
      'LoRA as [high:|low:]FILE[@WEIGHT]. The expert follows from a name in _high_noise or _low_noise.',
    ),
  compute: z
    .enum(['auto', 'f32', 'f16'])
    .default('auto')
    .describe('Dtype of the experts. auto is f16 where the device computes it.'),
  lowMemory: z
    .boolean()
    .default(false)
    .describe('Keep one network on the device at a time; changing experts costs a load.'),
  latents: z
    .string()
    .min(1)
    .optional()
    .describe('Safetensors file with the initial noise, tensor in.latents, instead of the seed.'),
  saveLatents: z
    .string()
    .min(1)
    .optional()
    .describe(
      'Safetensors file that receives the noise (in.latents) and the result (out.latents).',
    ),
  cacheDir: z.string().min(1).optional().describe('Where files from the Hub are kept.'),
})

/** What `sample` takes: one clip from one image and one prompt. */
export type SampleOptions = z.input<typeof sampleOptions>
/** A LoRA as `[high:|low:]FILE[@WEIGHT]`, or the same as an object. */
export type LoraOption = NonNullable<SampleOptions['lora']>[number]
