import { z } from 'zod'
import { frameModes } from './bucket-plan.ts'
import { splitPromptFlags } from './prompt-flags.ts'

// The train job: AI Toolkit's dialect for wan22_14b_i2v, same nesting and key names, read strictly. Defaults are AI
// Toolkit's code defaults (not those of its web form), so that a file means here what it means there; where Kinora's own
// default differs the description says so. Kinora's additions are all under `config.process[0].kinora`.

const dtypeSpellings = {
  fp32: 'fp32',
  float32: 'fp32',
  float: 'fp32',
  single: 'fp32',
  fp16: 'fp16',
  float16: 'fp16',
  half: 'fp16',
  bf16: 'bf16',
  bfloat16: 'bf16',
} as const

/** Number formats of weights, by AI Toolkit's short names. */
export type TrainDtype = (typeof dtypeSpellings)[keyof typeof dtypeSpellings]

const dtype = z
  .enum(Object.keys(dtypeSpellings) as [keyof typeof dtypeSpellings])
  .transform((spelling): TrainDtype => dtypeSpellings[spelling])

const optionalText = z
  .string()
  .nullable()
  .default(null)
  .transform((text) => (text === null || text.trim() === '' ? null : text))
const count = z.number().int().positive()
const countOrZero = z.number().int().nonnegative()
const share = z.number().min(0).max(1)
const factor = z.number().nonnegative()

const networkSchema = z
  .strictObject({
    type: z
      .enum(['lora', 'lokr', 'dora'])
      .default('lora')
      .describe(
        'Kind of adapter on each of the ten linears of a block: lora two factors, lokr a Kronecker product (fewer numbers), dora a LoRA that also learns the lengths of the columns.',
      ),
    linear: count.optional().describe('Rank. Default 4.'),
    rank: count
      .optional()
      .meta({ deprecated: true })
      .describe('Older name of linear; wins over it.'),
    linear_alpha: z
      .number()
      .positive()
      .optional()
      .describe(
        'Default linear. Read but without effect, as in AI Toolkit: the scale is 1. With kinora.use_alpha it is linear_alpha / linear.',
      ),
    alpha: z
      .number()
      .positive()
      .optional()
      .meta({ deprecated: true })
      .describe('Fallback for linear_alpha.'),
    dropout: z
      .number()
      .min(0)
      .lt(1)
      .nullable()
      .default(null)
      .describe(
        'Type lora: probability with which each element between the two factors is dropped while training; the others make up for it.',
      ),
    network_kwargs: z
      .strictObject({
        ignore_if_contains: z
          .array(z.string().min(1))
          .default([])
          .describe(
            'Layers whose diffusers name (transformer.transformer_1.blocks.0.attn1.to_q) contains one of these stay untouched; wins over only_if_contains.',
          ),
        only_if_contains: z
          .array(z.string().min(1))
          .nullable()
          .default(null)
          .describe('Only layers whose diffusers name contains one of these are adapted.'),
        rank_dropout: z
          .number()
          .min(0)
          .lt(1)
          .nullable()
          .default(null)
          .describe(
            'Type lora: probability with which each rank is dropped for a micro-batch; the others make up for it.',
          ),
        module_dropout: z
          .number()
          .min(0)
          .lt(1)
          .nullable()
          .default(null)
          .describe('Probability with which a whole module is left out of a micro-batch.'),
      })
      .prefault({}),
    lokr_full_rank: z
      .boolean()
      .default(true)
      .describe(
        'LoKr: both factors are whole matrices; false keeps the large one as two of rank linear.',
      ),
    lokr_factor: z
      .number()
      .int()
      .refine(
        (value) => value === -1 || value > 0,
        'Expected -1 (closest to square) or a positive factor',
      )
      .default(-1)
      .describe('LoKr: size of the small factor; -1 takes the pair closest to square.'),
    split_multistage_loras: z
      .boolean()
      .default(true)
      .describe(
        'One file an expert (true), or one combined file that only AI Toolkit and Kinora read.',
      ),
    pretrained_lora_path: optionalText.describe(
      'LoRA file to start from when there is no checkpoint to resume; any of the three layouts.',
    ),
  })
  .transform(({ rank, alpha, linear, linear_alpha, ...rest }) => ({
    ...rest,
    linear: rank ?? linear ?? 4,
    linear_alpha: linear_alpha ?? alpha ?? rank ?? linear ?? 4,
  }))

const saveSchema = z.strictObject({
  dtype: dtype.default('fp16').describe('Number format of the LoRA files.'),
  save_every: countOrZero.default(1000).describe('Steps between saves; 0 saves only at the end.'),
  max_step_saves_to_keep: countOrZero
    .default(5)
    .describe(
      'Saves kept for each expert, oldest removed first; 0 keeps all. The final files never count.',
    ),
  save_format: z
    .enum(['safetensors', 'diffusers'])
    .default('safetensors')
    .describe('Both mean a LoRA in safetensors, as in AI Toolkit.'),
  push_to_hub: z
    .boolean()
    .default(false)
    .describe(
      'At the end upload the finished LoRAs with a model card and a workflow; the token comes from HF_TOKEN alone.',
    ),
  hf_repo_id: optionalText.describe('Repository on the Hub for push_to_hub, owner/name.'),
  hf_private: z.boolean().default(false).describe('Whether that repository is made private.'),
})

const datasetSchema = z
  .strictObject({
    folder_path: z
      .string()
      .min(1)
      .describe(
        'Folder of clips (with a manifest.jsonl where clip-prep made it), read recursively.',
      ),
    dataset_path: z
      .string()
      .min(1)
      .refine((path) => !path.endsWith('.json'), {
        message: 'Captions in a JSON file are not supported yet',
        params: { fix: 'Write a caption file beside each clip.' },
      })
      .optional()
      .describe('Folder of clips or a manifest.jsonl; default folder_path.'),
    type: z.literal('image').default('image').describe('Historical name; clips use it too.'),
    batch_size: count
      .nullable()
      .default(null)
      .describe("Overrides train.batch_size for this set's buckets."),
    caption_ext: z.string().min(1).optional().describe('Extension of caption files; default .txt.'),
    caption_type: z
      .string()
      .min(1)
      .optional()
      .meta({ deprecated: true })
      .describe('Older name of caption_ext; wins over it.'),
    default_caption: optionalText.describe('Used where the caption file is missing or blank.'),
    trigger_word: optionalText.describe("Overrides the job's trigger word for this set."),
    caption_dropout_rate: share
      .default(0)
      .describe(
        'Probability that a caption is replaced by the empty one (the trigger word stays).',
      ),
    token_dropout_rate: share
      .default(0)
      .describe('Probability that each comma-separated part is dropped.'),
    keep_tokens: countOrZero
      .default(0)
      .describe('First comma-separated parts that token dropout spares; shuffling does not.'),
    shuffle_tokens: z.boolean().default(false).describe('Shuffle the comma-separated parts.'),
    random_triggers: z
      .array(z.string().min(1))
      .default([])
      .describe('Words of which some are appended to the caption at random.'),
    random_triggers_max: count
      .default(1)
      .describe('Most random triggers a caption; above 1 their number is drawn from 0 to it.'),
    resolution: z
      .union([count, z.array(count).min(1)])
      .default(512)
      .transform((value) => (typeof value === 'number' ? [value] : value))
      .describe(
        'Side of the square whose area is the budget; each value of a list is one more copy of the set.',
      ),
    buckets: z.literal(true).default(true).describe('Clips are always bucketed by aspect.'),
    square_crop: z.boolean().default(false).describe('Crop every clip to a square.'),
    random_crop: z
      .boolean()
      .default(false)
      .describe('Crop at a random place, chosen once, instead of the centre.'),
    num_frames: count
      .default(1)
      .describe(
        'Frames of a sample, snapped down to 4n+1. 1 is image mode: still pictures are taken too, and no motion is taught.',
      ),
    shrink_video_to_frames: z
      .boolean()
      .default(true)
      .describe(
        'Spread the frames over the whole clip, whatever its length (motion is sped up); false reads them at fps from a random start.',
      ),
    fps: z
      .number()
      .positive()
      .default(24)
      .describe(
        'Frame rate of the samples; only where shrink_video_to_frames is false or auto_frame_count is true.',
      ),
    auto_frame_count: z
      .boolean()
      .default(false)
      .describe("As many frames as the clip's duration gives at fps."),
    trim_auto_frame_count_tail: z
      .boolean()
      .default(true)
      .describe(
        'With auto_frame_count: drop the tail past 4n+1 frames instead of squeezing the clip.',
      ),
    num_repeats: count.default(1).describe('Times the list of files is repeated.'),
    flip_x: z.boolean().default(false).describe('Add mirrored copies, left to right.'),
    flip_y: z.boolean().default(false).describe('Add copies turned upside down.'),
    is_reg: z
      .boolean()
      .default(false)
      .describe('A regularisation set: no trigger word, loss times train.reg_weight.'),
    prior_reg: z
      .boolean()
      .default(false)
      .describe('Regularise towards the base model, not towards the clips.'),
    network_weight: z
      .number()
      .default(1)
      .describe("Multiplies the LoRA's output for this set (not its loss)."),
    loss_multiplier: factor.default(1).describe("Multiplies this set's loss."),
    cache_latents: z
      .boolean()
      .default(false)
      .describe('Kinora always caches latents on disk; either value is met.'),
    cache_latents_to_disk: z
      .boolean()
      .default(false)
      .describe('Kinora always caches latents on disk; either value is met.'),
    cache_text_embeddings: z
      .boolean()
      .default(false)
      .describe(
        'Kinora always caches text embeddings, every variant included; either value is met.',
      ),
    mask_path: optionalText.describe(
      'Folder of loss masks, pictures or videos named as the clips: white counts, black does not. The loss is divided by the mean of the mask.',
    ),
    alpha_mask: z
      .boolean()
      .default(false)
      .describe(
        'Take the loss mask from the alpha channel of the clip, where mask_path has none for it.',
      ),
    invert_mask: z.boolean().default(false).describe('White does not count, black does.'),
    mask_min_value: share.default(0).describe('Loss weight where the mask is black.'),
  })
  .transform(({ caption_ext, caption_type, dataset_path, ...rest }) => {
    const extension = caption_type ?? caption_ext ?? '.txt'
    return {
      ...rest,
      dataset_path: dataset_path ?? rest.folder_path,
      caption_ext: extension.startsWith('.') ? extension : `.${extension}`,
    }
  })

/** Distributions of timesteps inside an expert's band. */
export const timestepTypes = ['linear', 'sigmoid', 'shift', 'weighted', 'lognorm_blend'] as const
/** Update rules. */
export const optimizers = [
  'adamw',
  'adamw8bit',
  'adafactor',
  'prodigy',
  'lion',
  'schedule_free_adamw',
] as const
/** Losses between prediction and target. */
export const lossTypes = ['mse', 'mae', 'pseudo_huber'] as const
/** How the learning rate moves over a run. */
export const lrSchedulers = [
  'constant',
  'cosine',
  'cosine_with_restarts',
  'linear',
  'constant_with_warmup',
] as const

const timestepSpellings = { flux_shift: 'shift', lumina2_shift: 'shift' } as const
const optimizerSpellings = { prodigyopt: 'prodigy' } as const

const trainSchema = z
  .strictObject({
    steps: count.default(1000).describe('Steps in all, both experts together.'),
    batch_size: count.default(1).describe('Clips a micro-batch.'),
    gradient_accumulation: count.optional().describe('Micro-batches a step. Default 1.'),
    gradient_accumulation_steps: count
      .optional()
      .meta({ deprecated: true })
      .describe('Older key; means gradient_accumulation here (in AI Toolkit it skips updates).'),
    lr: z.number().positive().default(1e-6).describe('Learning rate of both LoRAs; 1e-4 is usual.'),
    optimizer: z
      .enum([...optimizers, 'prodigyopt'])
      .default('adamw')
      .transform(
        (name) =>
          (name in optimizerSpellings
            ? optimizerSpellings[name as 'prodigyopt']
            : name) as (typeof optimizers)[number],
      ),
    optimizer_params: z
      .strictObject({
        weight_decay: factor.default(0.01).describe('Decoupled weight decay.'),
        betas: z.tuple([share, share]).default([0.9, 0.999]).describe('Decay of the two moments.'),
        eps: z.number().positive().default(1e-6),
        d_coef: z
          .number()
          .positive()
          .optional()
          .describe('Prodigy: multiplies the estimated rate.'),
        clip_threshold: z.number().positive().optional().describe('Adafactor.'),
        decay_rate: z.number().optional().describe('Adafactor.'),
        warmup_steps: countOrZero.optional().describe('Schedule-free AdamW.'),
        min_8bit_size: countOrZero
          .optional()
          .describe(
            'adamw8bit: matrices of fewer elements keep states of f32; default 4096, as in bitsandbytes.',
          ),
      })
      .prefault({}),
    lr_scheduler: z
      .enum(lrSchedulers)
      .default('constant')
      .describe('How the learning rate moves over the run.'),
    lr_scheduler_params: z
      .strictObject({
        num_warmup_steps: countOrZero.optional().describe('constant_with_warmup; default 1000.'),
        max_iterations: count
          .optional()
          .describe('Length of the schedule in steps; default train.steps.'),
        eta_min: factor.optional().describe('cosine: lowest learning rate.'),
        start_factor: z
          .number()
          .positive()
          .optional()
          .describe('linear: first factor; default 1/3.'),
        end_factor: z.number().positive().optional().describe('linear: last factor; default 1.'),
      })
      .prefault({}),
    max_grad_norm: factor
      .default(1)
      .describe('Largest L2 norm of the gradient of an update; 0 never clips.'),
    dtype: dtype
      .default('fp32')
      .describe(
        'Compute format. Kinora takes f16 for fp16 and bf16 where the adapter has it; kinora.compute decides.',
      ),
    gradient_checkpointing: z
      .boolean()
      .default(true)
      .describe('Recompute each block on the way back.'),
    train_unet: z.literal(true).default(true),
    train_text_encoder: z.literal(false).default(false),
    noise_scheduler: z
      .literal('flowmatch')
      .default('flowmatch')
      .describe('Flow matching (AI Toolkit: ddpm, which fails for Wan).'),
    timestep_type: z
      .enum([...timestepTypes, 'flux_shift', 'lumina2_shift'])
      .default('sigmoid')
      .transform(
        (name) =>
          (name in timestepSpellings
            ? timestepSpellings[name as 'flux_shift']
            : name) as (typeof timestepTypes)[number],
      )
      .describe("Distribution of the timesteps inside the active expert's band."),
    content_or_style: z
      .enum(['balanced', 'content', 'style'])
      .default('balanced')
      .describe(
        "Timestep bias inside the active expert's band: content is the noisy end, style the clean end.",
      ),
    content_or_style_reg: z
      .enum(['balanced', 'content', 'style'])
      .optional()
      .describe('The same for regularisation sets; default content_or_style.'),
    num_train_timesteps: z.literal(1000).default(1000),
    linear_timesteps: z
      .boolean()
      .default(false)
      .describe('Linear schedule with a bell of loss weights.'),
    linear_timesteps2: z
      .boolean()
      .default(false)
      .describe('The same with the second half at its maximum.'),
    switch_boundary_every: count
      .default(1)
      .describe('Micro-batches before the other expert has its turn.'),
    loss_type: z.enum(lossTypes).default('mse'),
    diff_output_preservation: z
      .boolean()
      .default(false)
      .describe(
        'Keep the output for the class prompt as the base model has it (three forward passes).',
      ),
    diff_output_preservation_multiplier: factor.default(1),
    diff_output_preservation_class: z
      .string()
      .default('person')
      .describe('Stands for the trigger word in the class prompt.'),
    blank_prompt_preservation: z
      .boolean()
      .default(false)
      .describe('The same with the empty prompt.'),
    blank_prompt_preservation_multiplier: factor.default(1),
    do_differential_guidance: z
      .boolean()
      .default(false)
      .describe(
        'Does nothing on its own in AI Toolkit, nor here; with do_guidance_loss or kinora.differential_guidance it multiplies the gradient by its scale.',
      ),
    differential_guidance_scale: z.number().default(3),
    do_guidance_loss: z
      .boolean()
      .default(false)
      .describe(
        'Contrastive guidance loss: the target is pushed away from the output for unconditional_prompt (one more forward pass).',
      ),
    guidance_loss_target: z
      .union([z.number(), z.tuple([z.number(), z.number()])])
      .default(3)
      .describe(
        'How far: 1 is not at all. Of two numbers, one in between is drawn for each sample.',
      ),
    do_guidance_loss_cfg_zero: z
      .boolean()
      .default(false)
      .describe('Scale that output to its share in the target first (CFG-Zero*).'),
    guidance_loss_schedule: z
      .enum(['constant', 'sigma'])
      .default('constant')
      .describe('sigma: the full distance at pure noise, none at the clean end.'),
    unconditional_prompt: z.string().default('').describe('Of the contrastive guidance loss.'),
    do_prior_divergence: z
      .boolean()
      .default(false)
      .describe('Push the prediction away from that of the base model.'),
    inverted_mask_prior: z
      .boolean()
      .default(false)
      .describe('Where loss masks are black, keep the output as the base model has it.'),
    inverted_mask_prior_multiplier: factor.default(0.5).describe('Weight of that second loss.'),
    reg_weight: factor.default(1).describe('Loss multiplier of regularisation sets.'),
    ema_config: z
      .strictObject({
        use_ema: z
          .boolean()
          .default(false)
          .describe('Save and preview a moving average of the weights.'),
        ema_decay: share.default(0.999),
      })
      .prefault({}),
    unload_text_encoder: z
      .boolean()
      .default(false)
      .describe('Train on the trigger word (or the blank prompt) alone; captions are not read.'),
    cache_text_embeddings: z
      .boolean()
      .default(false)
      .describe(
        'Kinora always caches text embeddings, every variant included; either value is met.',
      ),
    skip_first_sample: z.boolean().default(false).describe('No preview before training.'),
    force_first_sample: z
      .boolean()
      .default(false)
      .describe('A preview at the start of every run, resumed or not.'),
    disable_sampling: z.boolean().default(false).describe('No previews at all.'),
    start_step: countOrZero
      .nullable()
      .default(null)
      .describe('Overrides the step counter on resume.'),
    max_loss: z.number().positive().nullable().default(null).describe('Clamp of the final loss.'),
  })
  .transform(
    ({ gradient_accumulation, gradient_accumulation_steps, content_or_style_reg, ...rest }) => ({
      ...rest,
      gradient_accumulation: gradient_accumulation ?? gradient_accumulation_steps ?? 1,
      content_or_style_reg: content_or_style_reg ?? rest.content_or_style,
    }),
  )

const qtypes = ['qfloat8', 'float8', 'uint4'] as const

const modelSchema = z
  .strictObject({
    name_or_path: z
      .string()
      .min(1)
      .describe(
        'Folder in the diffusers layout with transformer/ and transformer_2/, or a Hub id.',
      ),
    arch: z
      .string()
      .transform((name) => name.split(':', 1)[0] ?? name)
      .pipe(z.literal('wan22_14b_i2v'))
      .describe('wan22_14b_i2v; a suffix after a colon is dropped.'),
    quantize: z.boolean().default(false).describe('Keep the frozen linears packed as qtype.'),
    quantize_te: z
      .boolean()
      .optional()
      .describe('Keep the text encoder packed as qtype_te; default quantize.'),
    qtype: z
      .string()
      .min(1)
      .default('qfloat8')
      .describe(
        'Packed format of the experts; "uint4|owner/repo/file.safetensors" adds an accuracy recovery adapter.',
      ),
    qtype_te: z.string().min(1).default('qfloat8').describe('Packed format of the text encoder.'),
    accuracy_recovery_adapter: optionalText.describe(
      'Path or repository of a frozen side adapter for the packed base.',
    ),
    low_vram: z.boolean().default(false).describe('Keep only the active expert on the device.'),
    layer_offloading: z.boolean().optional().describe('Stream blocks from host memory.'),
    auto_memory: z
      .boolean()
      .optional()
      .meta({ deprecated: true })
      .describe('Older name of layer_offloading.'),
    layer_offloading_transformer_percent: share
      .default(1)
      .describe('Share of the layers streamed, 0 to 1.'),
    layer_offloading_text_encoder_percent: share.default(1),
    model_kwargs: z
      .strictObject({
        train_high_noise: z
          .boolean()
          .default(true)
          .describe('Train the high-noise expert (transformer).'),
        train_low_noise: z
          .boolean()
          .default(true)
          .describe('Train the low-noise expert (transformer_2).'),
      })
      .prefault({}),
  })
  .transform(({ auto_memory, layer_offloading, quantize_te, qtype, ...rest }, context) => {
    const [base = qtype, adapter] = qtype.split('|', 2)
    for (const [key, value] of [
      ['qtype', base],
      ['qtype_te', rest.qtype_te],
    ] as const) {
      if (!(qtypes as readonly string[]).includes(value)) {
        context.addIssue({ code: 'invalid_value', values: [...qtypes], input: value, path: [key] })
      }
    }
    return {
      ...rest,
      quantize_te: quantize_te ?? rest.quantize,
      qtype: base as (typeof qtypes)[number],
      qtype_te: rest.qtype_te as (typeof qtypes)[number],
      accuracy_recovery_adapter: rest.accuracy_recovery_adapter ?? adapter ?? null,
      layer_offloading: layer_offloading ?? auto_memory ?? false,
    }
  })

const multiplier = z
  .union([z.number(), z.string().regex(/^\s*[-+]?\d*\.?\d+(e[-+]?\d+)?\s*$/i)])
  .transform(Number)
const negative = z.union([z.string(), z.literal(false)]).transform((text) => text || '')

const ownSampleKeys = {
  width: count.optional(),
  height: count.optional(),
  neg: negative.optional(),
  seed: z.number().int().nonnegative().optional(),
  guidance_scale: z.number().optional(),
  sample_steps: count.optional(),
  fps: z.number().positive().optional(),
  num_frames: count.optional(),
  network_multiplier: multiplier.optional(),
}

const sampleItemSchema = z.strictObject({
  prompt: z.string().describe('[trigger] becomes the trigger word; it is never added.'),
  ...ownSampleKeys,
  ctrl_img: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe(
      "First frame of the preview. Kinora takes a clip's own first frame where kinora.sample.auto_control says so.",
    ),
})

const sampleSchema = z
  .strictObject({
    sampler: z
      .string()
      .default('flowmatch')
      .describe('Not consulted for Wan; kinora.sample.scheduler decides.'),
    sample_every: countOrZero.default(100).describe('Steps between previews; 0 never.'),
    sample_start_step: countOrZero.default(0).describe('No previews before this step.'),
    width: count.default(512).describe('In pixels, snapped down to a multiple of 16.'),
    height: count.default(512).describe('In pixels, snapped down to a multiple of 16.'),
    neg: negative.default('').describe('Negative prompt.'),
    seed: z.number().int().nonnegative().default(0),
    walk_seed: z.boolean().default(false).describe('Prompt i uses seed + i.'),
    guidance_scale: z
      .number()
      .default(7)
      .describe('Of both experts; kinora.sample.guidance_scale_2 sets the low-noise one.'),
    sample_steps: count.default(20),
    network_multiplier: multiplier.default(1).describe('Strength of the LoRA in previews.'),
    num_frames: count.default(1).describe('Snapped down to 4n+1.'),
    fps: z.number().positive().default(16).describe('Playback rate of the preview.'),
    format: z
      .enum(['jpg', 'png', 'webp', 'mp4'])
      .optional()
      .describe('Default webp for clips and jpg for one frame, as in AI Toolkit; mp4 is Kinora’s.'),
    samples: z
      .array(sampleItemSchema)
      .optional()
      .describe('One preview each; a key left out is inherited.'),
    prompts: z
      .array(z.string())
      .optional()
      .meta({ deprecated: true })
      .describe('Older form of samples.'),
  })
  .transform(({ samples, prompts, format, ...base }, context) => {
    const items = samples ?? (prompts ?? []).map((prompt) => ({ prompt, ctrl_img: null }))
    const list = samples === undefined ? 'prompts' : 'samples'
    const resolved = items.map((item, index) => {
      const { prompt, flags, unknown } = splitPromptFlags(item.prompt)
      for (const flag of unknown) {
        context.addIssue({
          code: 'custom',
          message: `The prompt flag --${flag} has no meaning for Wan 2.2 I2V.`,
          path: list === 'samples' ? [list, index, 'prompt'] : [list, index],
          params: { fix: 'Remove it from the prompt.' },
        })
      }
      const own = { ...item, ...flags }
      return {
        prompt,
        width: own.width ?? base.width,
        height: own.height ?? base.height,
        neg: own.neg ?? base.neg,
        seed: own.seed ?? base.seed + (base.walk_seed ? index : 0),
        guidance_scale: own.guidance_scale ?? base.guidance_scale,
        sample_steps: own.sample_steps ?? base.sample_steps,
        fps: own.fps ?? base.fps,
        num_frames: own.num_frames ?? base.num_frames,
        network_multiplier: own.network_multiplier ?? base.network_multiplier,
        ctrl_img: own.ctrl_img ?? null,
      }
    })
    return { ...base, format: format ?? (base.num_frames > 1 ? 'webp' : 'jpg'), samples: resolved }
  })

const loggingSchema = z.strictObject({
  log_every: count.default(100).describe('Steps between lines of metrics.jsonl.'),
})

/** What a LoRA is to teach; says which advice applies. */
export const goals = ['motion', 'style', 'character'] as const
export type Goal = (typeof goals)[number]

const kinoraSchema = z.strictObject({
  goal: z
    .enum(goals)
    .nullable()
    .default(null)
    .describe('What the LoRA is to teach; chooses the advice of kinora doctor.'),
  boundary: z
    .number()
    .gt(0)
    .lt(1)
    .nullable()
    .default(null)
    .describe(
      "Sigma at which the experts meet; null takes the checkpoint's boundary_ratio (0.9 for the I2V release). AI Toolkit trains with 0.875.",
    ),
  shift: z.number().positive().default(5).describe('Flow shift of timestep_type shift.'),
  compute: z
    .enum(['auto', 'f32', 'f16'])
    .default('auto')
    .describe(
      'Compute format; auto takes f16 where the adapter has it and train.dtype is not fp32.',
    ),
  vram_gb: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe(
      'Memory of the device in GB as cards are sold (24 is 24 GiB), which WebGPU does not tell; null takes what the name of the adapter says. What is kept of each block between the passes, and whether the job fits, is worked out from it.',
    ),
  high_noise_share: z
    .number()
    .gt(0)
    .lt(1)
    .nullable()
    .default(null)
    .describe(
      'Share of the steps that the high-noise expert gets (duty cycle); null gives turns of equal length.',
    ),
  timestep_sampling: z
    .enum(['stratified', 'random'])
    .default('stratified')
    .describe(
      'Stratified covers the band evenly even in a short run; random draws each alone, as AI Toolkit does.',
    ),
  latents: z
    .enum(['mean', 'sample'])
    .default('mean')
    .describe(
      'Target latents: the mean of the VAE posterior, or a fresh sample each time as in AI Toolkit.',
    ),
  accumulation: z
    .enum(['mean', 'sum'])
    .default('mean')
    .describe('Gradients of the micro-batches are averaged, or summed as in AI Toolkit.'),
  use_alpha: z
    .boolean()
    .default(false)
    .describe(
      'Honour network.linear_alpha: scale = alpha / rank. AI Toolkit ignores it (scale 1).',
    ),
  high_noise_rank: count
    .nullable()
    .default(null)
    .describe('Rank of the high-noise LoRA; null takes network.linear.'),
  low_noise_rank: count
    .nullable()
    .default(null)
    .describe('Rank of the low-noise LoRA; null takes network.linear.'),
  differential_guidance: z
    .boolean()
    .default(false)
    .describe(
      'Let train.do_differential_guidance act: the gradient is multiplied by its scale before clipping.',
    ),
  frame_mode: z
    .enum(frameModes)
    .nullable()
    .default(null)
    .describe(
      'How frames are chosen from clips, for all sets; null follows shrink_video_to_frames (true is uniform, false is real-time).',
    ),
  validation: z
    .strictObject({
      fraction: z
        .number()
        .min(0)
        .max(0.5)
        .default(0)
        .describe('Share of the clips held out, chosen by seed.'),
      folder: optionalText.describe('Folder of held-out clips, instead of a share.'),
      seed: countOrZero.default(0),
      every: count
        .nullable()
        .default(null)
        .describe('Steps between validations; null is at each save.'),
      bands: count.default(4).describe("Timestep bands an expert's loss is reported in."),
    })
    .prefault({}),
  sample: z
    .strictObject({
      scheduler: z
        .enum(['euler', 'unipc'])
        .default('euler')
        .describe('AI Toolkit previews with Euler.'),
      shift: z.number().positive().default(5).describe('Flow shift of previews.'),
      guidance_scale_2: z
        .number()
        .nullable()
        .default(null)
        .describe('Guidance of the low-noise expert; null is the same.'),
      auto_control: z
        .boolean()
        .default(false)
        .describe("Give a prompt without ctrl_img the first frame of one of the set's clips."),
    })
    .prefault({}),
  webhook: z
    .strictObject({
      url: z
        .url({ protocol: /^https?$/ })
        .nullable()
        .default(null)
        .describe(
          'Address that gets metrics as JSON. Keep secrets out of the job: ${HOOK} comes from the environment.',
        ),
      every: count
        .default(1)
        .describe('Steps between posts; saves, previews and errors are always sent.'),
    })
    .prefault({}),
  caption_variants: count
    .default(8)
    .describe(
      'Captions that token_dropout_rate, shuffle_tokens and random_triggers draw beforehand for each clip, so that they can be cached; each step takes one of them.',
    ),
  cache_dir: optionalText.describe(
    'Folder of cached latents and embeddings; default <output>/cache.',
  ),
  max_skipped: countOrZero
    .nullable()
    .default(null)
    .describe('Most unreadable clips before the run fails; null has no limit.'),
})

const processSchema = z
  .strictObject({
    type: z.enum(['diffusion_trainer', 'sd_trainer', 'ui_trainer', 'textual_inversion_trainer']),
    training_folder: z
      .string()
      .min(1)
      .default('output')
      .describe('Folder that receives a folder named after the job.'),
    trigger_word: optionalText.describe(
      'Word that calls the LoRA; stands for [trigger], prepended where absent.',
    ),
    training_seed: countOrZero
      .nullable()
      .default(null)
      .describe('Seed of everything random; null takes 42 (AI Toolkit: a new one each run).'),
    log_dir: optionalText.describe(
      'Folder of TensorBoard scalars; a folder named after the job is made in it.',
    ),
    network: networkSchema.prefault({}),
    save: saveSchema.prefault({}),
    datasets: z.array(datasetSchema).min(1),
    train: trainSchema.prefault({}),
    model: modelSchema,
    sample: sampleSchema.prefault({}),
    first_sample: sampleSchema
      .nullable()
      .default(null)
      .describe('In place of sample for the preview before training.'),
    logging: loggingSchema.prefault({}),
    kinora: kinoraSchema.prefault({}).describe("Kinora's own settings; AI Toolkit ignores them."),
  })
  .transform((process) => {
    const { trigger_word } = process
    const withTrigger = <S extends { samples: { prompt: string }[] }>(sample: S): S => ({
      ...sample,
      samples: sample.samples.map((item) => ({
        ...item,
        prompt: item.prompt.replaceAll('[trigger]', trigger_word ?? ''),
      })),
    })
    return {
      ...process,
      datasets: process.datasets.map((set) => ({
        ...set,
        trigger_word: set.trigger_word ?? trigger_word,
      })),
      sample: withTrigger(process.sample),
      first_sample: process.first_sample && withTrigger(process.first_sample),
    }
  })

/** A whole job file. */
export const trainJobSchema = z.strictObject({
  job: z.literal('extension'),
  config: z.strictObject({
    name: z
      .string()
      .regex(/^[^/\\:*?"<>|]+$/, 'Expected a name that can be a file name')
      .describe('Output folder and file stem.'),
    process: z.tuple([processSchema]),
  }),
  meta: z
    .record(z.string(), z.unknown())
    .default({})
    .describe('Free-form; copied into the LoRA files.'),
})

/** A job as it stands in a file. */
export type TrainJobInput = z.input<typeof trainJobSchema>
/** A job with aliases resolved and every default filled in. */
export type TrainJob = z.output<typeof trainJobSchema>
/** The one process of a job. */
export type TrainProcess = z.output<typeof processSchema>
/** One of its datasets. */
export type TrainDataset = z.output<typeof datasetSchema>
/** Its `train` section. */
export type TrainSettings = z.output<typeof trainSchema>
/** Its `sample` section, previews complete. */
export type TrainSample = z.output<typeof sampleSchema>
/** One preview, with nothing left to inherit. */
export type TrainSampleItem = TrainSample['samples'][number]
