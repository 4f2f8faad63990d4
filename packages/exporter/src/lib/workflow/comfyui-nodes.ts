// ComfyUI's own nodes that the workflow uses, as data: what each takes and gives. Checked workflows use these names alone.

/** A value that is typed in, not linked. */
export interface WidgetInput {
  kind: 'INT' | 'FLOAT' | 'STRING' | 'COMBO' | 'BOOLEAN'
  min?: number
  max?: number
  step?: number
  /** Choices of a COMBO; absent where they are the user's files. */
  choices?: readonly string[]
  /** The editor keeps a "control after generate" value after it. */
  isSeed?: boolean
  /** The editor keeps an upload button's value after it. */
  isUpload?: boolean
}

/** A value that comes from another node. */
export interface LinkInput {
  link: string
}

export interface NodeDefinition {
  /** In the order of the node; a widget's place in the editor's list follows from it. */
  inputs: Readonly<Record<string, (WidgetInput | LinkInput) & { optional?: boolean }>>
  /** Types of the outputs, in order, with their names. */
  outputs: readonly (readonly [type: string, name: string])[]
}

const resolution = { kind: 'INT', min: 16, max: 16384, step: 16 } as const
const samplers = [
  'euler',
  'euler_ancestral',
  'dpmpp_2m',
  'uni_pc',
  'uni_pc_bh2',
  'res_multistep',
  'lcm',
  'ddim',
]
const schedulers = [
  'simple',
  'sgm_uniform',
  'karras',
  'exponential',
  'ddim_uniform',
  'beta',
  'normal',
  'linear_quadratic',
  'kl_optimal',
]
const onOff = ['enable', 'disable']

export const comfyuiNodes: Readonly<Record<string, NodeDefinition>> = {
  UNETLoader: {
    inputs: {
      unet_name: { kind: 'COMBO' },
      weight_dtype: {
        kind: 'COMBO',
        choices: ['default', 'fp8_e4m3fn', 'fp8_e4m3fn_fast', 'fp8_e5m2'],
      },
    },
    outputs: [['MODEL', 'MODEL']],
  },
  LoraLoaderModelOnly: {
    inputs: {
      model: { link: 'MODEL' },
      lora_name: { kind: 'COMBO' },
      strength_model: { kind: 'FLOAT', min: -100, max: 100 },
    },
    outputs: [['MODEL', 'MODEL']],
  },
  ModelSamplingSD3: {
    inputs: { model: { link: 'MODEL' }, shift: { kind: 'FLOAT', min: 0, max: 100 } },
    outputs: [['MODEL', 'MODEL']],
  },
  CLIPLoader: {
    inputs: {
      clip_name: { kind: 'COMBO' },
      type: {
        kind: 'COMBO',
        choices: ['stable_diffusion', 'sd3', 'wan', 'hunyuan_video', 'ltxv', 'qwen_image', 'flux2'],
      },
      device: { kind: 'COMBO', choices: ['default', 'cpu'], optional: true },
    },
    outputs: [['CLIP', 'CLIP']],
  },
  CLIPTextEncode: {
    inputs: { text: { kind: 'STRING' }, clip: { link: 'CLIP' } },
    outputs: [['CONDITIONING', 'CONDITIONING']],
  },
  VAELoader: { inputs: { vae_name: { kind: 'COMBO' } }, outputs: [['VAE', 'VAE']] },
  LoadImage: {
    inputs: { image: { kind: 'COMBO', isUpload: true } },
    outputs: [
      ['IMAGE', 'IMAGE'],
      ['MASK', 'MASK'],
    ],
  },
  WanImageToVideo: {
    inputs: {
      positive: { link: 'CONDITIONING' },
      negative: { link: 'CONDITIONING' },
      vae: { link: 'VAE' },
      width: resolution,
      height: resolution,
      length: { kind: 'INT', min: 1, max: 16384, step: 4 },
      batch_size: { kind: 'INT', min: 1, max: 4096 },
      clip_vision_output: { link: 'CLIP_VISION_OUTPUT', optional: true },
      start_image: { link: 'IMAGE', optional: true },
    },
    outputs: [
      ['CONDITIONING', 'positive'],
      ['CONDITIONING', 'negative'],
      ['LATENT', 'latent'],
    ],
  },
  KSamplerAdvanced: {
    inputs: {
      model: { link: 'MODEL' },
      add_noise: { kind: 'COMBO', choices: onOff },
      noise_seed: { kind: 'INT', min: 0, max: 2 ** 64, isSeed: true },
      steps: { kind: 'INT', min: 1, max: 10000 },
      cfg: { kind: 'FLOAT', min: 0, max: 100 },
      sampler_name: { kind: 'COMBO', choices: samplers },
      scheduler: { kind: 'COMBO', choices: schedulers },
      positive: { link: 'CONDITIONING' },
      negative: { link: 'CONDITIONING' },
      latent_image: { link: 'LATENT' },
      start_at_step: { kind: 'INT', min: 0, max: 10000 },
      end_at_step: { kind: 'INT', min: 0, max: 10000 },
      return_with_leftover_noise: { kind: 'COMBO', choices: onOff },
    },
    outputs: [['LATENT', 'LATENT']],
  },
  VAEDecode: {
    inputs: { samples: { link: 'LATENT' }, vae: { link: 'VAE' } },
    outputs: [['IMAGE', 'IMAGE']],
  },
  CreateVideo: {
    inputs: {
      images: { link: 'IMAGE' },
      fps: { kind: 'FLOAT', min: 1, max: 120 },
      audio: { link: 'AUDIO', optional: true },
    },
    outputs: [['VIDEO', 'VIDEO']],
  },
  SaveVideo: {
    inputs: {
      video: { link: 'VIDEO' },
      filename_prefix: { kind: 'STRING' },
      format: { kind: 'COMBO', choices: ['auto', 'mp4'] },
      codec: { kind: 'COMBO', choices: ['auto', 'h264'] },
    },
    outputs: [],
  },
}
