import { defineErrors } from '@kinora/stage'

/** What can be wrong with a checkpoint on the disk or on the Hub. */
export const checkpointErrors = defineErrors('CHECKPOINT', {
  NOT_FOUND: {
    message: (source: string) =>
      `${source} is neither a folder nor a Hub id of the form owner/name.`,
    fix: 'Pass the folder of a Wan 2.2 I2V checkpoint in the diffusers layout, or an id such as Wan-AI/Wan2.2-I2V-A14B-Diffusers.',
  },
  MISSING_FILE: {
    message: (file: string, role: string) => `${file} is missing; it should hold ${role}.`,
    fix: 'Download or copy the checkpoint again, as a whole; the diffusers layout has model_index.json, transformer/, transformer_2/, vae/, text_encoder/ and tokenizer/.',
  },
  BAD_CONFIG: {
    message: (file: string, problems: string) =>
      `${file} is not a usable configuration: ${problems}.`,
    fix: 'Take the configuration file from the release of the checkpoint.',
  },
  BAD_INDEX: {
    message: (file: string, problem: string) => `${file} is not a usable shard index: ${problem}.`,
    fix: 'Download the index and its shards again; they belong to one release.',
  },
  BAD_FILE: {
    message: (file: string, problem: string, _fix: string) => `${file} cannot be used: ${problem}`,
    fix: (_file: string, _problem: string, fix: string) => fix,
  },
  MISSING_TENSOR: {
    message: (tensor: string, shape: string, where: string, others: number) =>
      `Tensor ${tensor}, expected with shape ${shape}, is not in ${where}${others > 0 ? `, nor are ${others} others` : ''}.`,
    fix: 'Download the checkpoint again, and check that config.json and the weights are of one release.',
  },
  EXTRA_TENSOR: {
    message: (tensor: string, file: string, others: number) =>
      `${file} has a tensor ${tensor} that the architecture in config.json does not know${others > 0 ? `, and ${others} others` : ''}.`,
    fix: 'Check that config.json and the weights are of one release, and that the model is Wan 2.2 I2V A14B or of its architecture.',
  },
  WRONG_SHAPE: {
    message: (tensor: string, file: string, found: string, expected: string) =>
      `Tensor ${tensor} in ${file} has shape ${found}; config.json asks for ${expected}.`,
    fix: 'Check that config.json and the weights are of one release.',
  },
  WRONG_DTYPE: {
    message: (tensor: string, file: string, found: string) =>
      `Tensor ${tensor} in ${file} is ${found}; weights must be F32, F16 or BF16, or packed by kinora quantize.`,
    fix: 'Use the full-precision or bf16 release; Kinora quantises by itself.',
  },
  NOT_FINITE: {
    message: (tensor: string, file: string, index: number) =>
      `Element ${index} of tensor ${tensor} in ${file} is not a finite number.`,
    fix: 'The file is damaged: download it again and compare its checksum with the source.',
  },
  NO_ADAPTER: {
    message: (source: string) =>
      `${source} is neither a file nor a file of a repository on the Hub, owner/name/file.safetensors.`,
    fix: 'Check the path of the accuracy recovery adapter, or write it as owner/name/file.safetensors.',
  },
  NOT_PACKED: {
    message: (tensor: string, file: string) =>
      `${file} has packed codes, ${tensor}, but its metadata does not say how they are packed.`,
    fix: 'Pack the original checkpoint again with kinora quantize.',
  },
  BAD_PACKING: {
    message: (file: string, found: string) =>
      `The kinora_packing metadata of ${file} is not understood: ${found}.`,
    fix: 'Use a newer Kinora, or pack the original checkpoint again with kinora quantize.',
  },
  ALREADY_PACKED: {
    message: (folder: string, scheme: string) => `${folder} is packed already, as ${scheme}.`,
    fix: 'Pack the original checkpoint: what packing lost is not in a packed one any more.',
  },
  SAME_FOLDER: {
    message: (folder: string) =>
      `The packed checkpoint would be written over the original, ${folder}.`,
    fix: 'Choose another output folder.',
  },
  PACKED_OTHERWISE: {
    message: (source: string, found: string, wanted: string) =>
      `${source} is packed as ${found}; ${wanted} was asked for.`,
    fix: 'Ask for the scheme it is packed in, or use the original checkpoint.',
  },
  TOO_LARGE_FOR_F16: {
    message: (tensor: string, file: string, index: number, value: number) =>
      `Element ${index} of tensor ${tensor} in ${file} is ${value}, which f16 (largest 65504) cannot hold.`,
    fix: 'Load this checkpoint with f32 compute.',
  },
  WAN_21: {
    message: (file: string, sign: string) =>
      `${file} belongs to Wan 2.1 I2V: ${sign}. Wan 2.2 I2V A14B has no image encoder.`,
    fix: 'Use Wan-AI/Wan2.2-I2V-A14B-Diffusers or a checkpoint of its architecture.',
  },
  TEXT_TO_VIDEO: {
    message: (file: string) =>
      `${file} belongs to a text-to-video model: it takes 16 input channels, image-to-video takes 36.`,
    fix: 'Use Wan-AI/Wan2.2-I2V-A14B-Diffusers or a checkpoint of its architecture.',
  },
  WAN_22_5B: {
    message: (file: string, sign: string) => `${file} belongs to Wan 2.2 TI2V 5B: ${sign}.`,
    fix: 'Use Wan-AI/Wan2.2-I2V-A14B-Diffusers or a checkpoint of its architecture; the 5B model has another VAE and is not supported.',
  },
  OTHER_MODEL: {
    message: (file: string, found: string, expected: string) =>
      `${file} says ${found}; Wan 2.2 I2V has ${expected}.`,
    fix: 'Use Wan-AI/Wan2.2-I2V-A14B-Diffusers or a checkpoint of its architecture.',
  },
  ONE_EXPERT: {
    message: (folder: string) =>
      `${folder} has no transformer_2: Wan 2.2 I2V A14B has two experts, transformer (high noise) and transformer_2 (low noise).`,
    fix: 'Download the whole checkpoint; a model with one transformer is another one.',
  },
  FP8: {
    message: (file: string, sign: string) => `${file} holds float8 weights: ${sign}.`,
    fix: 'Use the F32, F16 or BF16 release in the diffusers layout; Kinora quantises by itself.',
  },
  ORIGINAL_LAYOUT: {
    message: (where: string, sign: string) =>
      `${where} is in the layout of the original release, not that of diffusers: ${sign}.`,
    fix: 'Use the release whose name ends in -Diffusers, such as Wan-AI/Wan2.2-I2V-A14B-Diffusers.',
  },
  COMFYUI_LAYOUT: {
    message: (where: string, sign: string) =>
      `${where} is a ComfyUI file, not a checkpoint folder in the diffusers layout: ${sign}.`,
    fix: 'Use the release whose name ends in -Diffusers, such as Wan-AI/Wan2.2-I2V-A14B-Diffusers.',
  },
  BAD_TOKENIZER: {
    message: (file: string, problem: string) => `${file} is not a usable tokenizer: ${problem}.`,
    fix: 'Take tokenizer.json from the release of the checkpoint.',
  },
  HUB_NOT_FOUND: {
    message: (repo: string, revision: string) =>
      `The Hub has no model ${repo} at revision ${revision}, or it is private.`,
    fix: 'Check the id and the revision; for a private or gated model pass an access token.',
  },
  HUB_UNAUTHORIZED: {
    message: (repo: string, status: number) =>
      `The Hub refused access to ${repo} (HTTP ${status}).`,
    fix: 'Accept the terms of the model on its page, and pass an access token that may read it.',
  },
  HUB_FAILED: {
    message: (repo: string, what: string) => `${repo} could not be fetched from the Hub: ${what}.`,
    fix: 'Check the network and try again: finished files are kept, a broken one is resumed.',
  },
  HUB_CORRUPT: {
    message: (file: string, found: string, expected: string) =>
      `${file} arrived damaged: its checksum is ${found}, the Hub says ${expected}. It was deleted.`,
    fix: 'Run the same command again to download that file afresh.',
  },
})

/** Calls that do not fit the network. */
export const wanErrors = defineErrors('WAN', {
  BAD_SHAPE: {
    message: (what: string, found: readonly number[], expected: string) =>
      `${what} has shape [${found.join(', ')}]; ${expected}.`,
    fix: 'Pass a tensor of the expected shape.',
  },
  FRAME_COUNT: {
    message: (frames: number, factor: number) =>
      `A clip of ${frames} frames cannot be encoded: the count must be ${factor}n + 1.`,
    fix: 'Choose a frame count such as 17, 33, 41 or 81.',
  },
  SIZE: {
    message: (height: number, width: number, factor: number) =>
      `Frames of ${height} × ${width} pixels cannot be encoded: both must be multiples of ${factor}.`,
    fix: 'Crop or scale the frames to multiples of 16.',
  },
  TOO_LONG: {
    message: (axis: string, extent: number, limit: number) =>
      `The latents have ${extent} ${axis} positions; the rotary embedding of this model ends at ${limit}.`,
    fix: 'Use fewer frames or a smaller size.',
  },
  BAD_TOKENS: {
    message: (id: number | 'none', vocabSize: number) =>
      id === 'none'
        ? 'A text of no tokens cannot be encoded.'
        : `Token ${id} is outside the vocabulary of ${vocabSize} of the text encoder.`,
    fix: 'Use the tokenizer of the same checkpoint; it always adds an end token.',
  },
  UNKNOWN_MODULE: {
    message: (module: string) =>
      `The transformer has no linear ${module} that an adapter could join.`,
    fix: 'Check that the LoRA was made for Wan 2.2 I2V, and that its number of blocks fits the model.',
  },
  ADAPTER_SHAPE: {
    message: (module: string, found: string, expected: string) =>
      `The adapter of ${module} has factors ${found}; the linear takes ${expected}.`,
    fix: 'Check that the LoRA was made for a model of this width.',
  },
  COMPUTE_UNSUPPORTED: {
    message: (compute: string, adapter: string) => `${adapter} does not compute in ${compute}.`,
    fix: 'Use f32 compute, or another adapter.',
  },
})
