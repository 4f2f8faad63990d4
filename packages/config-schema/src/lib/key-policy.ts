// What becomes of keys and values that AI Toolkit knows and the schema does not take as they are. Sections are named by
// their path below `config.process[0]`; `process` is that object itself.

/** Why a key or a value is not taken for this model. */
interface Refusal {
  kind: 'refused'
  reason: string
}

/** A key that AI Toolkit accepts and that changes nothing here: a warning by name. */
interface Inert {
  kind: 'inert'
  reason: string
}

export interface KeyRule {
  section: string
  key: string
  rule: Refusal | Inert
  /** Values that ask for nothing, so that the rule does not apply. `null` never asks for anything. */
  neutral: readonly unknown[]
  /** The only values that the rule is about; absent: every value but the neutral ones. */
  only?: readonly unknown[]
}

type Row = [key: string, reason: string, neutral?: readonly unknown[]]

function rows(section: string, kind: KeyRule['rule']['kind'], list: readonly Row[]): KeyRule[] {
  return list.map(([key, reason, neutral = []]) => ({
    section,
    key,
    rule: { kind, reason },
    neutral,
  }))
}

function values(
  section: string,
  key: string,
  kind: KeyRule['rule']['kind'],
  list: Readonly<Record<string, string>>,
): KeyRule[] {
  return Object.entries(list).map(([value, reason]) => ({
    section,
    key,
    rule: { kind, reason },
    neutral: [],
    only: [value],
  }))
}

const off = [false] as const
const zero = [0, false] as const
const one = [1] as const

const otherArchitecture =
  'It belongs to another architecture; Wan 2.2 I2V has nothing for it to act on.'
const noImageControls =
  'Training conditions on the first frame of the clip itself; control images have no place in it.'
const noCompile = 'Kernels are compiled by WebGPU in any case; there is no torch.compile.'
const experimental =
  'It is an experiment that changes the training target, without a defined meaning for video latents.'
const outsideBand =
  'It ignores the bands of the two experts, so it would train one expert on the noise of the other.'
const notForWan = 'AI Toolkit refuses it for Wan 2.2 as well.'

/** Every key and value that has a rule of its own. A key in no rule and no schema is unknown. */
export const keyRules: readonly KeyRule[] = [
  ...rows('process', 'inert', [
    ['sqlite_db_path', "It is the database of AI Toolkit's web page."],
    [
      'device',
      'AI Toolkit has no use for it either; Kinora chooses the adapter with --backend and --adapter.',
    ],
    ['torch_profiler', 'It profiles PyTorch.'],
    [
      'performance_log_every',
      'The file metrics.jsonl always holds the seconds of each phase of a step.',
      zero,
    ],
  ]),
  ...rows('process', 'refused', [
    ['adapter', otherArchitecture],
    ['embedding', otherArchitecture],
    ['decorator', otherArchitecture],
    ['guidance', 'It belongs to the concept-slider trainer.'],
    ['slider', 'It belongs to the concept-slider trainer.'],
    ['do_lorm', otherArchitecture, off],
    ['lorm', otherArchitecture],
  ]),
  ...values('process', 'type', 'refused', {
    concept_slider: 'Concept sliders are trained differently; Kinora trains LoRAs.',
    slider: 'Concept sliders are trained differently; Kinora trains LoRAs.',
    image_reference_slider_trainer: otherArchitecture,
    ultimate_slider_trainer: otherArchitecture,
    vae: 'It trains a VAE.',
  }),

  ...rows('network', 'inert', [
    ['conv', 'The blocks of Wan hold no convolution.'],
    ['conv_alpha', 'The blocks of Wan hold no convolution.'],
    [
      'layer_offloading',
      'It is unfinished in AI Toolkit; model.layer_offloading is the working one.',
    ],
    ['old_lokr_format', 'Kinora writes the present format.', off],
  ]),
  ...rows('network', 'refused', [
    ['all_layers', 'Full-weight deltas of other layers do not fit the LoRA layouts.', off],
    ['lorm_config', otherArchitecture],
    [
      'transformer_only',
      'Linears outside the blocks are not adapted: the programs that load LoRAs of Wan do not expect them.',
      [true],
    ],
  ]),
  ...rows('network.network_kwargs', 'refused', [
    ['full_if_contains', 'Full-weight deltas do not fit the LoRA layouts.', []],
  ]),
  ...values('network', 'type', 'refused', {
    locon: 'It adds convolutions, and the blocks of Wan hold none; type lora does the same here.',
    lorm: otherArchitecture,
    fullrank: 'Full-weight deltas do not fit the LoRA layouts.',
  }),

  ...values('save', 'dtype', 'refused', {
    float8:
      'A LoRA in 8 bits loses the small weights it is made of; fp16, bf16 and fp32 are offered.',
    '8bit':
      'A LoRA in 8 bits loses the small weights it is made of; fp16, bf16 and fp32 are offered.',
    e4m3fn:
      'A LoRA in 8 bits loses the small weights it is made of; fp16, bf16 and fp32 are offered.',
  }),

  ...rows('datasets', 'inert', [
    ['do_i2v', 'Wan 2.2 I2V always conditions on the first frame.'],
    ['bucket_tolerance', 'AI Toolkit overwrites it with the 16 pixels that the model needs.'],
    ['load_image_when_caching_latents', 'Kinora caches latents and condition together.'],
    ['cache_tensors_to_disk', 'Kinora caches latents instead.'],
    ['cache_latents_num_workers', 'Kinora encodes on the device, clip after clip.'],
    ['cache_clip_vision_to_disk', 'Wan 2.2 has no CLIP vision encoder.'],
    ['num_workers', 'Kinora reads cached latents; there are no loader processes.'],
    ['prefetch_factor', 'Kinora reads cached latents; there are no loader processes.'],
    ['replacements', 'AI Toolkit does not use it in training.'],
  ]),
  ...rows('datasets', 'refused', [
    ['control_path', noImageControls],
    ['control_path_1', noImageControls],
    ['control_path_2', noImageControls],
    ['control_path_3', noImageControls],
    ['control_transparent_color', noImageControls],
    ['inpaint_path', noImageControls],
    ['clip_image_path', 'Wan 2.2 has no CLIP vision encoder.'],
    ['clip_image_from_same_folder', 'Wan 2.2 has no CLIP vision encoder.', off],
    ['do_audio', 'Wan 2.2 has no sound.', off],
    ['poi', notForWan],
    ['augments', 'Augmentations of single frames break the motion; AI Toolkit fails on clips.'],
    [
      'augmentations',
      'Augmentations of single frames break the motion; AI Toolkit fails on clips.',
    ],
    ['unconditional_path', otherArchitecture],
    ['extra_values', otherArchitecture],
    ['scale', 'Scale the clips with clip-prep, or choose resolution.', one],
    ['random_scale', 'Latents are cached once a clip; choose several resolutions instead.', off],
  ]),
  ...rows('datasets', 'inert', [['controls', noImageControls]]),
  ...rows('train', 'inert', [
    ['bypass_guidance_embedding', 'Wan has no guidance embedding.'],
    ['xformers', 'Kinora has its own attention kernels.'],
    ['sdp', 'Kinora has its own attention kernels.'],
    ['attention_backend', 'Kinora has its own attention kernels.'],
    ['free_u', otherArchitecture],
    ['weight_jitter', 'AI Toolkit does not use it for Wan.'],
    ['unet_lr', 'AI Toolkit trains LoRAs with lr alone.'],
    ['text_encoder_lr', 'AI Toolkit trains LoRAs with lr alone.'],
    ['refiner_lr', otherArchitecture],
    ['embedding_lr', otherArchitecture],
    ['adapter_lr', otherArchitecture],
    ['min_denoising_steps', 'AI Toolkit overwrites it with the band of the expert.'],
    ['max_denoising_steps', 'AI Toolkit overwrites it with the band of the expert.'],
    ['next_sample_timesteps', 'It belongs to timestep_type next_sample.'],
    ['cache_clip_vision', 'Wan 2.2 has no CLIP vision encoder.'],
    ['max_loss_debug', 'metrics.jsonl names the timestep of every loss.'],
    ['loss_target', 'AI Toolkit trains Wan on velocity whatever is written here.'],
    ['merge_network_on_save_strength', 'It belongs to merge_network_on_save.'],
  ]),
  ...rows('train', 'refused', [
    ['min_snr_gamma', 'It needs the alphas of DDPM, which flow matching does not have.'],
    ['snr_gamma', 'It needs the alphas of DDPM, which flow matching does not have.'],
    ['learnable_snr_gos', 'It needs the alphas of DDPM, which flow matching does not have.', off],
    [
      'validation_config',
      'It fails for this model in AI Toolkit; kinora.validation holds out clips.',
    ],
    ['merge_network_on_save', 'Merge the finished LoRA with exporter merge.', off],
    ['noise_offset', 'AI Toolkit fails on it for video latents.', zero],
    ['dynamic_noise_offset', experimental, off],
    ['random_noise_shift', experimental, zero],
    ['random_noise_multiplier', experimental, zero],
    ['noise_multiplier', experimental, one],
    ['target_noise_multiplier', experimental, one],
    ['latent_multiplier', experimental, one],
    ['noisy_latent_multiplier', experimental, one],
    ['img_multiplier', experimental, one],
    ['optimal_noise_pairing_samples', experimental, one],
    ['force_consistent_noise', experimental, off],
    ['blended_blur_noise', experimental, off],
    ['t0_loss_target', experimental, off],
    ['do_fft_loss', experimental, off],
    ['train_refiner', otherArchitecture, [true, false]],
    ['train_turbo', otherArchitecture, off],
    ['do_random_cfg', experimental, off],
    ['single_item_batching', otherArchitecture, off],
    ['reg_bias', 'The key is content_or_style_reg.'],
  ]),
  ...rows('train.ema_config', 'refused', [
    ['use_feedback', experimental, off],
    ['param_multiplier', experimental, one],
  ]),
  ...values('train', 'noise_scheduler', 'refused', {
    ddpm: 'Wan is a flow-matching model; write flowmatch.',
    ddim: 'Wan is a flow-matching model; write flowmatch.',
    euler: 'Wan is a flow-matching model; write flowmatch.',
    euler_a: 'Wan is a flow-matching model; write flowmatch.',
    lcm: 'Wan is a flow-matching model; write flowmatch.',
  }),
  ...values('train', 'timestep_type', 'refused', {
    next_sample: outsideBand,
    one_step: outsideBand,
    two_step: outsideBand,
    four_step: outsideBand,
    eight_step: outsideBand,
  }),
  ...values('train', 'loss_type', 'refused', {
    wavelet: 'It is written for single images and fails on video latents.',
    mean_flow: 'It is written for single images and fails on video latents.',
    stepped: 'Its two sigma tables contradict each other.',
  }),
  ...values('train', 'optimizer', 'refused', {
    adam: 'Use adamw with optimizer_params.weight_decay 0: it is the same rule.',
    adam8: 'Use adamw8bit with optimizer_params.weight_decay 0.',
    adam8bit: 'Use adamw8bit with optimizer_params.weight_decay 0.',
    adamw8: 'Use adamw8bit.',
    lion8bit: 'Use lion; its only state is small beside the activations.',
    ademamix8bit: 'Kinora does not have it; adamw8bit is the nearest.',
    adagrad: 'Kinora does not have it; adamw is the usual choice.',
    prodigy8bit: 'Use prodigy.',
    dadaptation: 'Use prodigy, its successor.',
    dadaptadam: 'Use prodigy, its successor.',
    dadaptlion: 'Use prodigy, its successor.',
    automagic: 'Kinora does not have it; prodigy also finds its own rate.',
    automagic2: 'Kinora does not have it; prodigy also finds its own rate.',
    automagic3: 'Kinora does not have it; prodigy also finds its own rate.',
  }),
  ...values('train', 'lr_scheduler', 'refused', {
    step: 'It is broken in AI Toolkit for want of a step size; use cosine or linear.',
    polynomial: 'Use cosine or linear.',
  }),
  ...rows('model', 'inert', [
    ['compile', noCompile],
    ['block_compile', noCompile],
    ['compile_mode', noCompile],
    ['compile_fullgraph', noCompile],
    ['compile_dynamic', noCompile],
    ['cache_size_limit', noCompile],
    ['quantize_kwargs', 'AI Toolkit does not honour it for Wan.'],
    ['extras_name_or_path', 'VAE and text encoder come from name_or_path.'],
    ['vae_path', 'VAE and text encoder come from name_or_path.'],
    ['dtype', 'train.dtype overwrites it in AI Toolkit as well.'],
    ['is_flux', 'arch says it.', off],
    ['vae_dtype', 'The VAE encodes in f32.'],
    ['te_dtype', 'kinora.compute decides for every network.'],
  ]),
  ...rows('model.model_kwargs', 'inert', [['vae_tiling', 'AI Toolkit does not use it for I2V.']]),
  ...rows('model', 'refused', [
    ['split_model_over_gpus', notForWan, off],
    ['assistant_lora_path', notForWan],
    ['inference_lora_path', notForWan],
    ['lora_path', notForWan],
    ['attn_masking', notForWan, off],
    ['unet_path', otherArchitecture],
    ['refiner_name_or_path', otherArchitecture],
    ['is_xl', 'Kinora trains wan22_14b_i2v.', off],
    ['is_v2', 'Kinora trains wan22_14b_i2v.', off],
    ['is_v3', 'Kinora trains wan22_14b_i2v.', off],
    ['is_pixart', 'Kinora trains wan22_14b_i2v.', off],
    ['is_lumina2', 'Kinora trains wan22_14b_i2v.', off],
  ]),
  ...rows('sample.samples', 'refused', [
    ['ctrl_img_1', 'Wan 2.2 I2V takes one image; write ctrl_img.'],
    ['ctrl_img_2', 'Wan 2.2 I2V takes one image; write ctrl_img.'],
    ['ctrl_img_3', 'Wan 2.2 I2V takes one image; write ctrl_img.'],
    ['adapter_image_path', otherArchitecture],
    ['prompt_2', otherArchitecture],
    ['neg_2', otherArchitecture],
  ]),
  ...rows('sample.samples', 'inert', [['ctrl_idx', 'Wan 2.2 I2V takes one image.', zero]]),
  ...rows('sample', 'inert', [
    ['guidance_rescale', 'It belongs to DDPM samplers.'],
    ['refiner_start_at', otherArchitecture],
    ['adapter_conditioning_scale', otherArchitecture],
    ['extra_values', otherArchitecture],
    ['ext', 'format says it.'],
  ]),

  ...rows('logging', 'inert', [
    [
      'use_ui_logger',
      "It fills the database of AI Toolkit's web page; metrics.jsonl is always written.",
    ],
    ['project_name', 'It belongs to Weights & Biases.'],
    ['run_name', 'It belongs to Weights & Biases.'],
    ['verbose', 'The flag --json tells everything.', off],
  ]),
  ...rows('logging', 'refused', [
    ['use_wandb', 'Kinora reports to no service; log_dir writes TensorBoard scalars.', off],
  ]),
]

/** What AI Toolkit calls its other architectures, and what each is; for refusing them by name. */
export const otherArchitectures: Readonly<Record<string, string>> = {
  wan22_14b: 'the text-to-video model',
  'wan22_14b:t2v': 'the text-to-video model',
  wan22_5b: 'the 5B model with another VAE',
  wan21: 'Wan 2.1, which has one expert',
  'wan21:1b': 'Wan 2.1, which has one expert',
  'wan21:14b': 'Wan 2.1, which has one expert',
  wan21_i2v: 'Wan 2.1 I2V, which has one expert and a CLIP branch',
  'wan21_i2v:14b480p': 'Wan 2.1 I2V, which has one expert and a CLIP branch',
  'wan21_i2v:14b720p': 'Wan 2.1 I2V, which has one expert and a CLIP branch',
  flux: 'an image model',
  flux_kontext: 'an image model',
  flux2: 'an image model',
  flex1: 'an image model',
  flex2: 'an image model',
  chroma: 'an image model',
  hidream: 'an image model',
  lumina2: 'an image model',
  omnigen2: 'an image model',
  qwen_image: 'an image model',
  qwen_image_edit: 'an image model',
  sd1: 'an image model',
  sdxl: 'an image model',
  sd15: 'an image model',
  zimage: 'an image model',
  ltx2: 'another video model',
  hunyuan_video: 'another video model',
}
