import { defineErrors } from '@kinora/stage'

export const loraErrors = defineErrors('LORA', {
  UNKNOWN_LAYOUT: {
    message: (file: string, key: string) =>
      `${file} is in no LoRA layout that Kinora knows; its first key is ${key}.`,
    fix: 'Known are the layouts of AI Toolkit and ComfyUI (diffusion_model.…), diffusers (transformer.…) and kohya (lora_unet_…).',
  },
  EMPTY: {
    message: (file: string) => `${file} holds no LoRA module.`,
    fix: 'Pass the file that training wrote, not an empty one.',
  },
  UNKNOWN_KEY: {
    message: (file: string, key: string, layout: string) =>
      `Key ${key} in ${file} names no module of Wan 2.2 in the ${layout} layout.`,
    fix: 'Check that the LoRA was trained for Wan; a file of another model cannot be converted.',
  },
  TEXT_ENCODER: {
    message: (file: string, key: string) =>
      `${file} adapts a text encoder (key ${key}); Wan 2.2 LoRAs adapt the transformers alone.`,
    fix: 'Remove the text encoder keys, or pass a LoRA of Wan.',
  },
  OTHER_ADAPTER: {
    message: (file: string, key: string, kind: string) =>
      `${file} is a ${kind} adapter (key ${key}), which is not read here.`,
    fix: 'Kinora reads LoRA, LoKr and DoRA by columns (LyCORIS); where only LoRA will do, export the adapter as one where it was trained.',
  },
  NO_SUCH_FORM: {
    message: (layout: string, kind: string, module: string) =>
      `The ${layout} layout has no form for the ${kind} of ${module}.`,
    fix: 'Write the layout comfyui or kohya.',
  },
  FULL_DELTA: {
    message: (file: string, key: string, count: number) =>
      `${file} holds ${count === 1 ? 'a full weight delta' : `${count} full weight deltas`} beside its LoRA (first key ${key}).`,
    fix: 'Pass deltas: "skip" (--skip-deltas) to read the low-rank part alone and be told what was left out.',
  },
  MISSING_PART: {
    message: (file: string, key: string, present: string) =>
      `${file} lacks ${key}, though it has ${present}.`,
    fix: 'The file is incomplete: copy or download it again.',
  },
  DUPLICATE: {
    message: (file: string, key: string, other: string) =>
      `${key} and ${other} in ${file} are the same matrix of one module.`,
    fix: 'Keep one spelling of each key.',
  },
  BAD_SHAPE: {
    message: (file: string, key: string, shape: readonly number[], expected: string) =>
      `${key} in ${file} has shape [${shape.join(', ')}]; ${expected} was expected.`,
    fix: 'Check that the file is a LoRA of linear layers and was not cut or edited.',
  },
  BAD_ALPHA: {
    message: (file: string, key: string, value: number) =>
      `${key} in ${file} is ${value}; an alpha is a finite number above 0.`,
    fix: 'Write the file again with a valid alpha, or remove the key for a scale of 1.',
  },
  BAD_ADAPTER_METADATA: {
    message: (file: string, reason: string) => `lora_adapter_metadata of ${file} ${reason}.`,
    fix: 'Write the file again with diffusers, or remove that metadata for a scale of 1.',
  },
  NOT_FINITE: {
    message: (file: string, key: string, index: number) =>
      `${key} in ${file} is not finite at element ${index}.`,
    fix: 'The training that wrote it diverged; take an earlier save.',
  },
  OUT_OF_RANGE: {
    message: (key: string, value: number, dtype: string) =>
      `${key} reaches ${value}, which ${dtype} cannot hold.`,
    fix: 'Write the file as bf16 or f32.',
  },
  EXPERT_NEEDED: {
    message: (file: string) => `${file} holds the LoRAs of both experts.`,
    fix: 'Say which one is wanted: expert "high" or "low" (--expert).',
  },
  EXPERT_ABSENT: {
    message: (file: string, expert: string) =>
      `${file} holds no LoRA of the ${expert}-noise expert.`,
    fix: 'Pass the file of that expert, or ask for the other one.',
  },
  BAD_WEIGHTS: {
    message: (module: string, reason: string) =>
      `LoRA module ${module} cannot be written: ${reason}.`,
    fix: 'Pass A as [rank, inFeatures] and B as [outFeatures, rank].',
  },
  NO_METADATA_VALUE: {
    message: (key: string) => `Metadata ${key} is not a string.`,
    fix: 'Encode values as JSON text; safetensors metadata are strings.',
  },
})
