import { loraDtypes, loraLayouts, type LoraDtype } from '@kinora/lora-files'
import { z } from 'zod'
import { workflowFormats } from './workflow/workflow-formats.ts'

const experts = ['high', 'low'] as const
const loraDtypeNames = Object.keys(loraDtypes) as [LoraDtype]
const expert = z
  .enum(experts)
  .optional()
  .describe('Which expert, for files that hold both: high or low noise.')
const deltas = z
  .enum(['refuse', 'skip'])
  .default('refuse')
  .describe(
    'What to do with full weight deltas of distilled LoRAs: refuse the file, or leave them out.',
  )

export const exportLoraOptions = z.strictObject({
  sources: z
    .array(z.string().min(1))
    .min(1)
    .describe('LoRA files of any layout. Several are merged into one.'),
  out: z.string().min(1).describe('File that receives the LoRA.'),
  layout: z
    .enum(loraLayouts)
    .default('comfyui')
    .describe("Key layout: comfyui is also AI Toolkit's; diffusers; kohya."),
  dtype: z.enum(loraDtypeNames).default('f16').describe('Number format.'),
  weights: z
    .array(z.number())
    .optional()
    .describe('Strength of each source, in their order; 1 each if not given.'),
  rank: z
    .number()
    .int()
    .positive()
    .optional()
    .describe(
      'Highest rank, reached by singular value decomposition. Not given: exact, ranks add up on merging.',
    ),
  expert,
  deltas,
  base: z
    .string()
    .min(1)
    .optional()
    .describe(
      'Checkpoint or weights file whose shapes the result is checked against before it is written.',
    ),
  name: z
    .string()
    .optional()
    .describe('ss_output_name in the metadata; that of the first source if not given.'),
  dryRun: z.boolean().default(false).describe('Say what would be written, and write nothing.'),
})
export type ExportLoraOptions = z.input<typeof exportLoraOptions>

export const verifyLoraOptions = z.strictObject({
  file: z.string().min(1).describe('LoRA file of any layout.'),
  base: z
    .string()
    .min(1)
    .optional()
    .describe(
      'Checkpoint folder, transformer folder or weights file to check against; only headers are read. Wan 2.2 I2V A14B if not given.',
    ),
  expert,
})
export type VerifyLoraOptions = z.input<typeof verifyLoraOptions>

export const mergeCheckpointOptions = z.strictObject({
  base: z
    .string()
    .min(1)
    .describe(
      'Checkpoint in the diffusers layout, a transformer folder, or a single weights file.',
    ),
  out: z
    .string()
    .min(1)
    .describe('Folder (or file, for a single weights file) that receives the merged model.'),
  high: z.string().min(1).optional().describe('LoRA of the high-noise expert.'),
  low: z.string().min(1).optional().describe('LoRA of the low-noise expert.'),
  weight: z.number().default(1).describe('Strength of the LoRAs.'),
  weightLow: z.number().optional().describe('Strength of the low-noise LoRA, where it differs.'),
  dtype: z
    .enum(['same', ...loraDtypeNames])
    .default('same')
    .describe('Number format of the weights; same keeps each tensor as it is.'),
  deltas,
})
export type MergeCheckpointOptions = z.input<typeof mergeCheckpointOptions>

export const exportWorkflowOptions = z.strictObject({
  high: z
    .string()
    .min(1)
    .optional()
    .describe('LoRA file of the high-noise expert, as ComfyUI lists it.'),
  low: z
    .string()
    .min(1)
    .optional()
    .describe('LoRA file of the low-noise expert, as ComfyUI lists it.'),
  out: z.string().min(1).describe('File that receives the workflow.'),
  format: z
    .enum(workflowFormats)
    .default('ui')
    .describe('ui opens in the editor; api is for the /prompt endpoint.'),
  strengthHigh: z.number().default(1).describe('Strength of the high-noise LoRA.'),
  strengthLow: z.number().default(1).describe('Strength of the low-noise LoRA.'),
  prompt: z.string().default('').describe('What happens in the clip.'),
  negativePrompt: z.string().default('').describe('What should not.'),
  image: z.string().default('example.png').describe("First frame, in ComfyUI's input folder."),
  width: z.number().int().multipleOf(16).positive().default(832).describe('In pixels.'),
  height: z.number().int().multipleOf(16).positive().default(480).describe('In pixels.'),
  numFrames: z
    .number()
    .int()
    .positive()
    .refine((value) => value % 4 === 1, 'Expected 4n+1 frames')
    .default(81)
    .describe('Frames, 4n+1.'),
  fps: z.number().positive().default(16).describe('Playback rate.'),
  seed: z.number().int().nonnegative().default(42).describe('Of the noise.'),
  steps: z.number().int().min(2).default(20).describe('Steps of both experts together.'),
  guidance: z.number().default(3.5).describe('Guidance scale of the high-noise expert.'),
  guidanceLow: z
    .number()
    .optional()
    .describe('Guidance scale of the low-noise expert; the same if not given.'),
  shift: z.number().positive().default(5).describe('Flow shift.'),
  boundary: z
    .number()
    .gt(0)
    .lt(1)
    .default(0.9)
    .describe('Sigma at which the experts meet; written as the step of the change.'),
  sampler: z.enum(['euler', 'uni_pc']).default('euler').describe("ComfyUI's sampler."),
  modelHigh: z
    .string()
    .default('wan2.2_i2v_high_noise_14B_fp16.safetensors')
    .describe('High-noise model file, as ComfyUI lists it.'),
  modelLow: z
    .string()
    .default('wan2.2_i2v_low_noise_14B_fp16.safetensors')
    .describe('Low-noise model file, as ComfyUI lists it.'),
  textEncoder: z
    .string()
    .default('umt5_xxl_fp8_e4m3fn_scaled.safetensors')
    .describe('Text encoder file.'),
  vae: z.string().default('wan_2.1_vae.safetensors').describe('VAE file.'),
})
export type ExportWorkflowOptions = z.input<typeof exportWorkflowOptions>

export const writeModelCardOptions = z.strictObject({
  out: z.string().min(1).default('README.md').describe('File that receives the card.'),
  high: z.string().min(1).optional().describe('LoRA file of the high-noise expert.'),
  low: z.string().min(1).optional().describe('LoRA file of the low-noise expert.'),
  job: z
    .string()
    .min(1)
    .optional()
    .describe('Train job (config.yaml of the run): recipe, trigger word and dataset.'),
  manifest: z
    .string()
    .min(1)
    .optional()
    .describe('manifest.jsonl of the clips, for a summary of the dataset.'),
  previews: z
    .array(z.string().min(1))
    .default([])
    .describe('Preview files, shown at the top; named relative to the card.'),
  baseModel: z
    .string()
    .default('Wan-AI/Wan2.2-I2V-A14B-Diffusers')
    .describe('Repository of the base model on the Hub.'),
  notes: z
    .array(z.string().min(1))
    .default([])
    .describe('Sentences on how the run went, such as those of kinora explain.'),
  license: z.string().optional().describe('License identifier of the LoRA; left out if not given.'),
  title: z.string().optional().describe('Title; the name of the job or of the file if not given.'),
})
export type WriteModelCardOptions = z.input<typeof writeModelCardOptions>

export const pushToHubOptions = z.strictObject({
  folder: z.string().min(1).describe('Folder whose files are uploaded, hidden ones left out.'),
  repo: z.string().min(1).describe('Repository on the Hub, owner/name; made if it is not there.'),
  private: z.boolean().default(false).describe('Make a new repository private.'),
  branch: z.string().min(1).default('main').describe('Branch that receives the commit.'),
  message: z
    .string()
    .min(1)
    .default('Add LoRA for Wan 2.2 I2V A14B')
    .describe('Title of the commit.'),
})
export type PushToHubOptions = z.input<typeof pushToHubOptions>
