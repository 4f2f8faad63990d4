import { defineErrors } from '@kinora/stage'

export const samplerErrors = defineErrors('SAMPLER', {
  NO_IMAGE: {
    message: () => 'There is a prompt but no image: this model animates a first frame.',
    fix: 'Pass the first frame with --image.',
  },
  BAD_SIZE: {
    message: (width: number, height: number, multiple: number) =>
      `${width}×${height} is not made of whole multiples of ${multiple} pixels.`,
    fix: (width: number, height: number, multiple: number) =>
      `Use ${snap(width, multiple)}×${snap(height, multiple)}, or leave both out to follow the image.`,
  },
  HALF_SIZE: {
    message: () => 'Only one of width and height was given.',
    fix: 'Give both, or neither to follow the image.',
  },
  BAD_FRAMES: {
    message: (numFrames: number, factor: number) =>
      `${numFrames} frames are not ${factor}n + 1, which is what the VAE can hold.`,
    fix: (numFrames: number, factor: number) => {
      const below = Math.max(0, Math.floor((numFrames - 1) / factor)) * factor + 1
      return `Use ${below} or ${below + factor}.`
    },
  },
  IMAGE_SIZE: {
    message: (image: string, clip: string) => `The image is ${image}, but the clip is ${clip}.`,
    fix: 'Pass a file, which is resized, or an image of the size of the clip.',
  },
  BAD_OUTPUT: {
    message: (file: string) => `${file} does not end in .mp4 or .webp.`,
    fix: 'Choose one of the two by the ending of --out.',
  },
  BAD_LATENTS: {
    message: (what: string, shape: readonly number[], wanted: readonly number[]) =>
      `${what} [${shape.join(', ')}], but this clip needs [${wanted.join(', ')}].`,
    fix: 'Use the size and number of frames that the latents were made for.',
  },
  NO_LATENTS: {
    message: (file: string, found: string) =>
      `${file} has no tensor in.latents and not just one tensor; it has ${found}.`,
    fix: 'Pass a file written by --save-latents, or one that holds the initial noise alone.',
  },
  LORA_EXPERT: {
    message: (file: string) =>
      `It cannot be told which expert the LoRA ${file} is for: its name does not end in _high_noise or _low_noise.`,
    fix: (file: string) => `Write high:${file} or low:${file}.`,
  },
  LORA_SYNTAX: {
    message: (text: string) => `${JSON.stringify(text)} is not [high:|low:]FILE[@WEIGHT].`,
    fix: 'Write for example low:style.safetensors@0.8.',
  },
  NOT_FINITE: {
    message: (step: number, expert: string) =>
      `The ${expert}-noise expert predicted a number that is not finite at step ${step}.`,
    fix: 'Compute in f32 (--compute f32), or lower the weight of the LoRAs.',
  },
  RELEASED: {
    message: () => 'The pipeline was used after its release.',
    fix: 'Release a pipeline after its last clip. This is a bug in the caller.',
  },
  NO_BACKEND: {
    message: (name: string, why: string) => `The backend ${name} cannot be loaded: ${why}.`,
    fix: (name: string) =>
      `Install it beside the sampler (npm install ${name.replace(/\/node$/, '')}), or name another with --backend, such as @kinora/cpu-kernels.`,
  },
  BAD_BACKEND: {
    message: (name: string) => `${name} is no backend: it exports no function openDevice.`,
    fix: 'Name a package whose door exports openDevice, such as @kinora/wgpu-kernels/node or @kinora/cpu-kernels.',
  },
})

function snap(extent: number, multiple: number): number {
  return Math.max(1, Math.round(extent / multiple)) * multiple
}
