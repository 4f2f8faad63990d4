import { configErrors } from './errors.ts'
import { goals, type Goal } from './train-job-schema.ts'

/** Device memory sizes there are recipes for, in GB. */
export const recipeMemories = [12, 24, 48, 80] as const
export type RecipeMemory = (typeof recipeMemories)[number]

export interface RecipeOptions {
  name?: string | undefined
  /** Folder of clips. */
  clips?: string | undefined
  /** Folder or Hub id of the base model. */
  checkpoint?: string | undefined
  triggerWord?: string | undefined
  /** Prompts of previews; `[trigger]` stands for the trigger word. */
  prompts?: readonly string[] | undefined
}

const ara = 'uint4|ostris/accuracy_recovery_adapters/wan22_14b_i2v_torchao_uint4.safetensors'

/** What a device of each size can hold. Sizes of one expert: 28.6 GB in 16 bits, 14.3 in 8, about 8 in 4. */
const memories = {
  12: {
    qtype: ara,
    why: '4 bits and an adapter that makes up for them: 8 GB an expert',
    lowVram: true,
    offload: true,
    switchEvery: 25,
    whySwitch: 'a change of experts moves 8 GB, so turns are long',
  },
  24: {
    qtype: ara,
    why: '4 bits and an adapter that makes up for them: 8 GB an expert',
    lowVram: true,
    offload: false,
    switchEvery: 10,
    whySwitch: 'a change of experts moves 8 GB; ten steps between pay for it',
  },
  48: {
    qtype: 'qfloat8',
    why: '8 bits: 14.3 GB an expert, nearly without loss',
    lowVram: true,
    offload: false,
    switchEvery: 10,
    whySwitch: 'a change of experts moves 14 GB; ten steps between pay for it',
  },
  80: {
    qtype: 'qfloat8',
    why: '8 bits: 14.3 GB an expert, so that both stay on the device',
    lowVram: false,
    offload: false,
    switchEvery: 1,
    whySwitch: 'both experts are on the device, so a change costs nothing',
  },
} as const satisfies Record<RecipeMemory, unknown>

/** Side of the square and frames. At 512² × 41 the activations kept between forward and backward take about 8.6 GB. */
const samples: Record<Goal, Record<RecipeMemory, { resolution: number; numFrames: number }>> = {
  motion: {
    12: { resolution: 384, numFrames: 41 },
    24: { resolution: 512, numFrames: 41 },
    48: { resolution: 512, numFrames: 81 },
    80: { resolution: 768, numFrames: 65 },
  },
  style: {
    12: { resolution: 448, numFrames: 21 },
    24: { resolution: 512, numFrames: 33 },
    48: { resolution: 768, numFrames: 33 },
    80: { resolution: 1024, numFrames: 33 },
  },
  character: {
    12: { resolution: 448, numFrames: 21 },
    24: { resolution: 512, numFrames: 33 },
    48: { resolution: 768, numFrames: 33 },
    80: { resolution: 1024, numFrames: 33 },
  },
}

const advice: Record<
  Goal,
  {
    name: string
    trigger: string
    whyTrigger: string
    clips: string
    captions: string
    rank: number
    whyRank: string
    steps: number
    whySteps: string
    frames: string
    dropout: number
    prompt: string
    share: string
  }
> = {
  motion: {
    name: 'my_motion',
    trigger: 'm0tion',
    whyTrigger: 'calls the motion by name; [trigger] in captions and prompts stands for it',
    clips: '10 to 30 clips in which the motion starts at once and fills the clip',
    captions: 'Captions name the motion, not the look: what is not said is what is learned.',
    rank: 16,
    whyRank: 'a motion is a small change; more rank learns the clips by heart',
    steps: 2500,
    whySteps: 'shared by both experts, so 1250 updates each',
    frames: 'motion needs time: about 2.5 s at 16 fps or more',
    dropout: 0.05,
    prompt: '[trigger], the camera moves around the subject',
    share: 'Motion is decided at high noise: 0.6 gives that expert 60 % of the steps.',
  },
  style: {
    name: 'my_style',
    trigger: 'st1le',
    whyTrigger: 'calls the style by name; [trigger] in captions and prompts stands for it',
    clips: '20 to 40 clips of different things in one look',
    captions: 'Captions name what is seen, not the look: what is not said is what is learned.',
    rank: 16,
    whyRank: 'a look is spread over all layers, a little in each',
    steps: 2500,
    whySteps: 'shared by both experts, so 1250 updates each',
    frames: 'a look is in every frame: size counts more than length',
    dropout: 0.05,
    prompt: '[trigger], a street in the rain',
    share: 'Texture is decided at low noise: 0.4 gives that expert 60 % of the steps.',
  },
  character: {
    name: 'my_character',
    trigger: 'ch4racter',
    whyTrigger: 'the character answers to this word alone; without it every face would change',
    clips: '15 to 30 clips of the character from several sides, in several places',
    captions:
      'Captions hold the trigger word and the class ("[trigger], a woman, …") and name what is not the character.',
    rank: 32,
    whyRank: 'a face holds more detail than a motion or a look',
    steps: 3000,
    whySteps: 'shared by both experts, so 1500 updates each',
    frames: 'a face is in every frame: size counts more than length',
    dropout: 0.05,
    prompt: '[trigger] smiles and turns to the camera',
    share: 'Identity is decided at low noise: 0.4 gives that expert 60 % of the steps.',
  },
}

/**
 * A commented job file for a goal and a size of device memory, in GB. Its numbers come with their reasons; it parses, and
 * passes preflight.
 */
export function recipe(goal: Goal, memory: RecipeMemory, options: RecipeOptions = {}): string {
  if (!goals.includes(goal) || !recipeMemories.includes(memory)) {
    throw configErrors.UNKNOWN_RECIPE(String(goal), String(memory))
  }
  const about = advice[goal]
  const device = memories[memory]
  const { resolution, numFrames } = samples[goal][memory]
  const name = options.name ?? about.name
  const prompts = options.prompts ?? [about.prompt]
  // Bare where YAML reads it as this text; a JSON string is a YAML string.
  // Bare where YAML reads it as this text, else quoted.
  const text = (value: string) =>
    /^[A-Za-z][\w./-]*$/.test(value) && !/^(true|false|null|yes|no|on|off|y|n)$/i.test(value)
      ? value
      : quoted(value)
  return `# A ${goal} LoRA for Wan 2.2 I2V A14B on a device with ${memory} GB, in the dialect of AI Toolkit.
# It wants ${about.clips}.
# ${about.captions}
job: extension
config:
  name: ${text(name)}
  process:
    - type: diffusion_trainer
      training_folder: output
      # ${about.whyTrigger}
      trigger_word: ${text(options.triggerWord ?? about.trigger)}
      training_seed: 42
      network:
        type: lora
        # ${about.whyRank}
        linear: ${about.rank}
        linear_alpha: ${about.rank}
      save:
        dtype: fp16 # finer than bf16 for numbers as small as these; every program reads it
        save_every: 250 # the best save is often not the last one
        max_step_saves_to_keep: ${Math.ceil(about.steps / 250 / 2)} # of each expert: the second half of the run
      datasets:
        - folder_path: ${text(options.clips ?? 'data/clips')}
          caption_ext: txt
          caption_dropout_rate: ${about.dropout} # one in twenty without caption keeps guidance working
          # ${about.frames}
          num_frames: ${numFrames}
          resolution: [${resolution}]${goal === 'motion' ? '\n          flip_x: false # a mirrored motion is another motion' : ''}
      train:
        steps: ${about.steps} # ${about.whySteps}
        batch_size: 1
        gradient_accumulation: 1
        gradient_checkpointing: true
        noise_scheduler: flowmatch
        timestep_type: linear # even over each expert's band
        content_or_style: balanced # a bias acts inside each band only, and never moves steps between experts
        optimizer: adamw8bit
        lr: 1e-4 # 5e-5 where previews flicker or burn
        optimizer_params:
          weight_decay: 1e-4
        loss_type: mse${goal === 'character' ? '\n        # Keeps other people as they are, for three times the work a step:\n        # diff_output_preservation: true\n        # diff_output_preservation_class: person' : ''}
        dtype: bf16
        cache_text_embeddings: true
        switch_boundary_every: ${device.switchEvery} # ${device.whySwitch}
      model:
        name_or_path: ${text(options.checkpoint ?? 'ai-toolkit/Wan2.2-I2V-A14B-Diffusers-bf16')}
        arch: wan22_14b_i2v
        quantize: true
        # ${device.why}
        qtype: ${text(device.qtype)}
        quantize_te: true
        qtype_te: qfloat8
        low_vram: ${device.lowVram} # ${device.lowVram ? 'only the expert at work is on the device' : 'both experts stay on the device'}${device.offload ? '\n        layer_offloading: true # blocks come from host memory one after another' : ''}
        model_kwargs:
          # Motion and layout come from the high-noise expert, detail and identity from the low-noise one.
          train_high_noise: true
          train_low_noise: true
      sample:
        sample_every: 500
        width: ${resolution}
        height: ${resolution}
        num_frames: ${numFrames} # as in training, so that previews show what was learned
        fps: 16
        seed: 42
        walk_seed: true
        guidance_scale: 4
        sample_steps: 25
        neg: ''
        samples:
${prompts.map((prompt) => `          - prompt: ${quoted(prompt)}`).join('\n')}
      kinora:
        goal: ${goal}
        frame_mode: real-time # motion at its true speed, whatever the length of the clip
        # ${about.share}
        # high_noise_share: ${goal === 'motion' ? 0.6 : 0.4}
        sample:
          auto_control: true # previews start from a clip's own first frame; set ctrl_img for your own
meta:
  name: '[name]'
  version: '1.0'
`
}

/** A YAML string: in single quotes, or as JSON where it holds line breaks or other control characters. */
function quoted(text: string): string {
  return /\p{Cc}/u.test(text) ? JSON.stringify(text) : `'${text.replaceAll("'", "''")}'`
}
