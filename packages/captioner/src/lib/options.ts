import { z } from 'zod'
import { captionProviders, type ProviderName } from './providers/caption-providers.ts'

/** What the LoRA is to learn, which decides what its captions must and must not say. */
export const captionGoals = ['motion', 'style', 'character'] as const

export type CaptionGoal = (typeof captionGoals)[number]

const source = z
  .string()
  .min(1)
  .describe('A manifest.jsonl, the folder that holds one, or a folder of clips.')
const goal = z
  .enum(captionGoals)
  .default('motion')
  .describe('What the LoRA is to learn. It decides what a caption must and must not say.')
const trigger = z
  .string()
  .trim()
  .min(1)
  .describe('The trigger word. Without one, [trigger] is left for the trainer to fill in.')
const extension = z
  .string()
  .regex(/^\.?[\w.-]+$/, 'an extension looks like .txt')
  .default('.txt')
  .transform((text) => (text.startsWith('.') ? text : `.${text}`))
  .describe('Extension of caption files.')

const visionOptions = z.strictObject({
  url: z
    .url({ protocol: /^https?$/ })
    .refine(
      (text) => !/^https?:\/\/[^/]*@/.test(text),
      'a key belongs in the environment, not in the address',
    )
    .optional()
    .describe('Base address of an OpenAI-compatible server, such as http://127.0.0.1:11434/v1.'),
  model: z.string().min(1).optional().describe('Name of the model, as the server knows it.'),
  apiKeyEnv: z
    .string()
    .regex(/^[A-Za-z_]\w*$/, 'it is the name of a variable, not a key')
    .optional()
    .describe('Environment variable that holds the key. Not set: no key is sent.'),
  frames: z
    .number()
    .int()
    .min(1)
    .max(64)
    .default(6)
    .describe('Frames shown to the model, spread over the clip with both ends.'),
  frameSize: z
    .number()
    .int()
    .min(32)
    .max(2048)
    .default(512)
    .describe('Longer side of these frames, in pixels; never enlarged.'),
  prompt: z.string().min(1).optional().describe('Instruction to the model, instead of the goal’s.'),
  extraPrompt: z.string().min(1).optional().describe('Added to the instruction.'),
  maxWords: z
    .number()
    .int()
    .min(3)
    .max(400)
    .default(60)
    .describe('Words asked for at most; twice as many are refused.'),
  script: z
    .enum(['latin', 'any'])
    .default('latin')
    .describe('latin refuses answers mostly in other letters.'),
  temperature: z.number().min(0).max(2).default(0.2).describe('Of the sampling.'),
  maxTokens: z.number().int().min(16).default(400).describe('Longest answer, in tokens.'),
  extraBody: z
    .record(z.string(), z.json())
    .default({})
    .describe('More fields of the request; null takes one out, for servers that refuse it.'),
  concurrency: z.number().int().min(1).max(64).default(4).describe('Requests at once.'),
  timeoutMs: z
    .number()
    .int()
    .min(1)
    .default(120_000)
    .describe('Longest wait for one answer, in milliseconds.'),
  retries: z
    .number()
    .int()
    .min(0)
    .max(20)
    .default(4)
    .describe('Further tries after a failure that may pass.'),
  retryBaseMs: z
    .number()
    .int()
    .min(1)
    .default(500)
    .describe(
      'Wait before the first further try, in milliseconds; it doubles each time, up to 30 s, less a random part.',
    ),
  maxWaitMs: z
    .number()
    .int()
    .min(0)
    .default(120_000)
    .describe('Longest Retry-After that is waited for, in milliseconds.'),
  maxFailures: z
    .number()
    .int()
    .min(1)
    .default(5)
    .describe('Clips in a row that may fail at the endpoint before the run ends.'),
  maxRequests: z
    .number()
    .int()
    .min(0)
    .optional()
    .describe('Budget: requests of this run, further tries included.'),
  maxTotalTokens: z
    .number()
    .int()
    .min(0)
    .optional()
    .describe('Budget: tokens of this run, in and out.'),
  maxCost: z
    .number()
    .min(0)
    .optional()
    .describe('Budget: cost of this run, in the currency of the prices.'),
  inputPrice: z.number().min(0).default(0).describe('Price of a million tokens in.'),
  outputPrice: z.number().min(0).default(0).describe('Price of a million tokens out.'),
  cacheDir: z
    .string()
    .min(1)
    .optional()
    .describe('Where answers are kept. Default: .captioner-cache in the dataset.'),
})

export const captionClipsOptions = z.strictObject({
  source,
  provider: z
    .enum(Object.keys(captionProviders) as [ProviderName, ...ProviderName[]])
    .default('template')
    .describe(
      'template writes what is known of a clip; vision asks a model that looks at its frames.',
    ),
  goal,
  trigger: trigger.optional(),
  className: z.string().min(1).optional().describe('What the character is: woman, robot, dog.'),
  motionName: z
    .string()
    .min(1)
    .optional()
    .describe('Words for the motion, instead of what clip-prep measured.'),
  look: z.string().min(1).optional().describe('Words for the look of a style.'),
  defaultCaption: z
    .string()
    .min(1)
    .optional()
    .describe(
      'Caption of every clip without one; may hold [trigger], [motion], [look] and [class].',
    ),
  prefix: z.string().default('').describe('Put before every caption.'),
  suffix: z.string().default('').describe('Put after every caption.'),
  shuffle: z
    .boolean()
    .default(false)
    .describe('Shuffle the comma-separated tags, by seed and clip.'),
  keepTokens: z
    .number()
    .int()
    .min(0)
    .default(1)
    .describe('First tags that shuffling leaves in place.'),
  seed: z.number().int().nonnegative().default(42).describe('Of the shuffling.'),
  extension,
  review: z
    .boolean()
    .default(false)
    .describe(
      'Write drafts (.draft.txt) beside the clips instead of captions; captioner accept takes them over.',
    ),
  maxSkipped: z
    .number()
    .int()
    .nonnegative()
    .optional()
    .describe(
      'Most clips that may stay without a caption; with more of them the run fails at its end.',
    ),
  dryRun: z
    .boolean()
    .default(false)
    .describe('Print what would be written and asked, and do neither.'),
  vision: visionOptions.prefault({}).describe('For the provider vision.'),
})

export const lintCaptionsOptions = z.strictObject({
  source,
  goal,
  trigger: trigger.optional(),
  extension,
  tokenizer: z
    .string()
    .min(1)
    .optional()
    .describe('A tokenizer.json, to count tokens and find characters it drops.'),
  textLength: z
    .number()
    .int()
    .min(1)
    .default(512)
    .describe('Tokens that the model reads; the rest of a caption is cut off.'),
  similarity: z
    .number()
    .min(0)
    .max(1)
    .default(0.9)
    .describe('Share of words in common from which on two captions count as near-identical.'),
  flipX: z.boolean().default(false).describe('Clips are mirrored left to right in training.'),
  flipY: z.boolean().default(false).describe('Clips are turned upside down in training.'),
  plan: z
    .string()
    .min(1)
    .optional()
    .describe('A bucket-plan.json, to see which clips are flipped.'),
  allow: z.array(z.string()).default([]).describe('Words that no rule minds.'),
  fix: z
    .boolean()
    .default(false)
    .describe('Mend what is safe to mend: blank space, and a missing trigger put in front.'),
  dryRun: z.boolean().default(false).describe('Say what fix would write, and write nothing.'),
})

export const acceptDraftsOptions = z.strictObject({
  source,
  extension,
  replace: z
    .boolean()
    .default(false)
    .describe('Take a draft over where a person has written a caption, too.'),
  dryRun: z.boolean().default(false).describe('Say what would be taken over, and write nothing.'),
})

export type CaptionClipsOptions = z.input<typeof captionClipsOptions>
export type LintCaptionsOptions = z.input<typeof lintCaptionsOptions>
export type AcceptDraftsOptions = z.input<typeof acceptDraftsOptions>

/** Options of captioning after defaults. */
export type CaptionSettings = z.output<typeof captionClipsOptions>
export type VisionSettings = CaptionSettings['vision']
export type LintSettings = z.output<typeof lintCaptionsOptions>
