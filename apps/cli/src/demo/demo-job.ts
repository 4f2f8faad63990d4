/** What the demo trains with, and what its previews are made with. */
export interface DemoSettings {
  /** Folder that receives everything. */
  out: string
  /** Steps of both experts together. */
  steps: number
  rank: number
  learningRate: number
  /** Steps of one expert before the other has its turn. */
  turn: number
  /** Pixels of a side; the clips are square. */
  size: number
  numFrames: number
  /** Denoising steps of a preview. */
  sampleSteps: number
  /** Flow shift, in training and in previews. */
  shift: number
  seed: number
}

/** The word that the demo's LoRAs are taught: the camera rises to the upper right while moving in. */
export const demoTrigger = 'crane'
/** What every training clip is captioned with, and the previews are prompted with. */
export const demoCaption = '[trigger], the camera rises to the right and moves in'

export const demoPrompt = demoCaption.replace('[trigger]', demoTrigger)

/** A job in AI Toolkit's dialect, as a user would write it; `kinora train` takes it as it is. */
export function demoJobText(
  { steps, rank, learningRate, turn, size, numFrames, shift, seed }: DemoSettings,
  {
    clips,
    checkpoint,
    training,
    cacheDir,
  }: Record<'clips' | 'checkpoint' | 'training' | 'cacheDir', string>,
): string {
  const text = JSON.stringify
  return `# The demo's training job; \`npx kinora train\` takes it as it is.
job: extension
config:
  name: demo
  process:
    - type: diffusion_trainer
      training_folder: ${text(training)}
      training_seed: ${seed}
      trigger_word: ${demoTrigger}
      network:
        type: lora
        linear: ${rank}
        linear_alpha: ${rank}
      save:
        dtype: fp32
        save_every: 40
        max_step_saves_to_keep: 1
      datasets:
        - folder_path: ${text(clips)}
          caption_ext: txt
          resolution: ${size}
          num_frames: ${numFrames}
          shrink_video_to_frames: false
          fps: 16
      train:
        steps: ${steps}
        batch_size: 1
        lr: ${learningRate}
        optimizer: adamw
        noise_scheduler: flowmatch
        timestep_type: shift
        switch_boundary_every: ${turn}
        max_grad_norm: 1
        dtype: fp32
        # The blocks are small: there is memory to keep what the way back needs.
        gradient_checkpointing: false
        # The demo makes its own previews, before and after.
        disable_sampling: true
      model:
        name_or_path: ${text(checkpoint)}
        arch: wan22_14b_i2v
      logging:
        log_every: 1
      kinora:
        shift: ${shift}
        compute: f32
        cache_dir: ${text(cacheDir)}
`
}
