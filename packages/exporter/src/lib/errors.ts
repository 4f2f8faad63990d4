import { defineErrors } from '@kinora/stage'

export const exporterErrors = defineErrors('EXPORTER', {
  NOTHING_TO_DO: {
    message: () => 'No LoRA file is given.',
    fix: 'Name at least one LoRA file.',
  },
  WEIGHTS_MISMATCH: {
    message: (weights: number, sources: number) =>
      `${weights} weights are given for ${sources} LoRA files.`,
    fix: 'Give one weight a file, or none for 1 each.',
  },
  NOT_ADDITIVE: {
    message: (file: string, kind: string) =>
      `${file} is a ${kind}; only plain LoRAs are summed, scaled or reduced.`,
    fix: 'Convert it alone, at weight 1 and its own rank, or merge it into a base (exporter merge).',
  },
  SHAPES_DIFFER: {
    message: (module: string, first: string, second: string) =>
      `${module} is ${first} in one LoRA and ${second} in another.`,
    fix: 'Merge only LoRAs of one model; verify each against the base.',
  },
  DOES_NOT_FIT: {
    message: (file: string, base: string, problems: readonly string[]) =>
      `${file} does not fit ${base}:\n${problems.map((problem) => `- ${problem}`).join('\n')}`,
    fix: 'Check that the LoRA was trained for this model, and that the right base is named.',
  },
  NO_BASE: {
    message: (path: string) => `${path} holds no transformer weights.`,
    fix: 'Name a checkpoint in the diffusers layout, its transformer folder, or a single .safetensors file.',
  },
  BASE_EXPERT_NEEDED: {
    message: (path: string) => `${path} holds both experts.`,
    fix: 'Say which expert the LoRA is for (--expert), or name the folder of one.',
  },
  BASE_NO_EXPERT: {
    message: (path: string, folder: string) => `${path} has no ${folder} folder.`,
    fix: 'Name a checkpoint of Wan 2.2 A14B, which has transformer and transformer_2, or the folder of one expert.',
  },
  BASE_BAD_INDEX: {
    message: (file: string, reason: string) => `${file} ${reason}.`,
    fix: 'Download the checkpoint again.',
  },
  BASE_PACKED: {
    message: (path: string, key: string, dtype: string) =>
      `${path} keeps ${key} as ${dtype}, which a LoRA cannot be merged into.`,
    fix: 'Name a base in F32, F16 or BF16.',
  },
  OUT_EXISTS: {
    message: (path: string) => `${path} exists already.`,
    fix: 'Choose another output, or remove it.',
  },
  OUT_OF_RANGE: {
    message: (key: string, value: number, dtype: string) =>
      `${key} reaches ${value} after merging, which ${dtype} cannot hold.`,
    fix: 'Merge at a lower weight, or write bf16 or f32.',
  },
  NO_TOKEN: {
    message: (repo: string) => `There is no access token to write to ${repo} with.`,
    fix: 'Set HF_TOKEN in the environment to a token with write access (huggingface.co/settings/tokens). It is read from there alone.',
  },
  BAD_REPO: {
    message: (repo: string) => `${repo} is not the name of a repository.`,
    fix: 'Write owner/name, such as me/crane-lora.',
  },
  NOTHING_TO_PUSH: {
    message: (folder: string) => `${folder} holds no file to upload.`,
    fix: 'Name the folder that kinora export wrote.',
  },
  HUB_REFUSED: {
    message: (repo: string, status: number, what: string) =>
      `The Hub refused to write to ${repo} (status ${status}): ${what}.`,
    fix: 'Check that the token in HF_TOKEN may write and that the owner of the repository is you or an organisation of yours.',
  },
  HUB_FAILED: {
    message: (repo: string, what: string) => `The upload to ${repo} failed: ${what}.`,
    fix: 'Run the same command again: large files that arrived are not sent a second time.',
  },
  NO_LORA: {
    message: () => 'Neither a high-noise nor a low-noise LoRA is given.',
    fix: 'Name the LoRA of at least one expert (--high, --low).',
  },
  ONE_EXPERT_BASE: {
    message: (path: string) => `${path} is the weights of one expert, and LoRAs of both are given.`,
    fix: 'Name the checkpoint folder that holds both, or merge one at a time.',
  },
  BAD_BOUNDARY_STEPS: {
    message: (steps: number, boundary: number, high: number) =>
      `${steps} steps with a boundary of ${boundary} give ${high} steps to the high-noise expert, so one expert has none.`,
    fix: 'Use more steps, or another boundary.',
  },
  BAD_WORKFLOW: {
    message: (problems: readonly string[]) =>
      `The workflow does not fit ComfyUI's nodes:\n${problems.map((problem) => `- ${problem}`).join('\n')}`,
    fix: 'Correct the options named above.',
  },
})
