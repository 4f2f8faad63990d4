import { defineErrors } from '@kinora/stage'

export const kinoraErrors = defineErrors('KINORA', {
  NO_BACKEND: {
    message: (name: string, why: string) => `The backend ${name} cannot be loaded: ${why}.`,
    fix: 'Install that package, or leave --backend out.',
  },
  BAD_BACKEND: {
    message: (name: string) => `${name} is no backend: it exports no function openDevice.`,
    fix: 'Name a package whose door exports openDevice, such as @kinora/wgpu-kernels or @kinora/cpu-kernels.',
  },
  NO_OUT: {
    message: () => 'There is nowhere to write the LoRA.',
    fix: 'Give --out, or --verify to check the file and write nothing.',
  },
  FILE_EXISTS: {
    message: (file: string) => `${file} exists already.`,
    fix: 'Choose another name with --out, or overwrite it with --force.',
  },
  NO_JOB: {
    message: (file: string, why: string) => `The job file ${file} cannot be read: ${why}.`,
    fix: 'Check the path; `kinora init` writes a job to start from.',
  },
  NO_RUN: {
    message: (folder: string) => `${folder} is not the folder of a run: it has no metrics.jsonl.`,
    fix: 'Name the folder that kinora train writes to, training_folder/name of the job.',
  },
  NO_SUCH_LORA: {
    message: (run: string, what: string, steps: readonly number[]) =>
      `${run} holds no ${what}${steps.length === 0 ? '' : `; there are saves of steps ${steps.join(', ')}`}.`,
    fix: 'Ask for a step that is there with --step, or go on training until the first save.',
  },
  PUSH_NEEDS_RUN: {
    message: () => 'Only the folder of a run is uploaded by --push.',
    fix: 'Name the folder that kinora train wrote, or use `exporter push` on a folder of yours.',
  },
  WHICH_EXPERT: {
    message: (file: string) => `The name of ${file} does not say which expert it is for.`,
    fix: 'Say so with --expert, or name it …_high_noise.safetensors or …_low_noise.safetensors.',
  },
  TWO_FOR_EXPERT: {
    message: (expert: string, first: string, second: string) =>
      `${first} and ${second} are both for the ${expert}-noise expert.`,
    fix: 'Merge them into one file first, with kinora export and --out.',
  },
  JOB_WOULD_FAIL: {
    message: (file: string, numErrors: number) =>
      `${file} has ${numErrors === 1 ? 'one error' : `${numErrors} errors`}.`,
    fix: 'Correct what is named above; nothing has been computed.',
  },
  PLANNED_BY_JOB: {
    message: (file: string, options: readonly string[]) =>
      `${file} says how it is planned, and ${options.join(', ')} would contradict it.`,
    fix: 'Change the datasets of the job, or plan a folder of clips.',
  },
  MIXED_FPS: {
    message: (rates: readonly number[]) =>
      `The datasets of this job are read at different frame rates (${rates.join(', ')}).`,
    fix: 'Give every dataset that is read in real time the same fps; Wan 2.2 works at 16.',
  },
  PREFLIGHT: {
    message: (file: string, problems: readonly string[]) =>
      `${file} would fail:\n${problems.map((problem) => `- ${problem}`).join('\n')}`,
    fix: 'Correct what is named above; nothing has been computed yet.',
  },
  PREVIEW_FORMAT: {
    message: (format: string, numFrames: number) =>
      `Previews of ${numFrames} frames cannot be written as ${format}.`,
    fix: 'Set sample.format to mp4 or webp, or sample.num_frames to 1.',
  },
  SQUARE_CROP: {
    message: (dataset: string) =>
      `square_crop with several resolutions is not supported (${dataset}).`,
    fix: 'Give that dataset one resolution, or list it once for each.',
  },
  DOCTOR_FAILED: {
    message: (checks: readonly string[]) => `This machine is not ready: ${checks.join(', ')}.`,
    fix: 'Do what the lines above say, then run kinora doctor again.',
  },
  TOO_MANY_SKIPPED: {
    message: (numSkipped: number, maxSkipped: number) =>
      `${numSkipped} clips cannot be read, more than the ${maxSkipped} that kinora.max_skipped allows.`,
    fix: 'Mend or remove the clips named above, or raise kinora.max_skipped.',
  },
})
