// Which LoRAs are trained, which previews are made with them, and which experiment looks at which. Names are folders and keys.

/** What every run has in common; the rest is the recipe's. */
export const common = {
  steps: 120,
  learningRate: 2e-3,
  size: 64,
  numFrames: 17,
  sampleSteps: 12,
  shift: 3,
  seed: 42,
}

/** Trained from the recipe `goal` on the clips `dataset`; `change` edits the job's process. */
export const runs = {
  motion: { goal: 'motion', dataset: 'crane', trigger: 'crane' },
  'motion-seed-43': {
    goal: 'motion',
    dataset: 'crane',
    trigger: 'crane',
    change: (process) => {
      process.training_seed = 43
    },
  },
  ema: { goal: 'motion', dataset: 'crane', trigger: 'crane', change: withEma },
  'ema-seed-43': {
    goal: 'motion',
    dataset: 'crane',
    trigger: 'crane',
    change: (process) => {
      process.training_seed = 43
      withEma(process)
    },
  },
  dop: {
    goal: 'motion',
    dataset: 'crane',
    trigger: 'crane',
    change: ({ train }) => {
      train.diff_output_preservation = true
      train.diff_output_preservation_class = 'static camera'
    },
  },
  'four-bit': {
    goal: 'motion',
    dataset: 'crane',
    trigger: 'crane',
    change: ({ model }) => {
      model.quantize = true
      model.qtype = 'uint4'
    },
  },
  style: { goal: 'style', dataset: 'poster', trigger: 'poster' },
  character: { goal: 'character', dataset: 'character', trigger: 'zog' },
}

function withEma({ train }) {
  train.ema_config = { use_ema: true, ema_decay: 0.9 }
}

/**
 * A preview of each of six held-out first frames. `lora` is a run, or null for the base model; `words` stand before or after what
 * is seen; `packed` packs the base that makes the preview.
 */
export const previewSets = {
  'base crane': { lora: null, frames: 'crane', prompt: (seen) => `crane, ${seen}` },
  'base static': { lora: null, frames: 'crane', prompt: (seen) => `static camera, ${seen}` },
  'base pan': { lora: null, frames: 'crane', prompt: (seen) => `pan left, ${seen}` },
  motion: { lora: 'motion', frames: 'crane', prompt: (seen) => `crane, ${seen}` },
  'motion static': { lora: 'motion', frames: 'crane', prompt: (seen) => `static camera, ${seen}` },
  'motion pan': { lora: 'motion', frames: 'crane', prompt: (seen) => `pan left, ${seen}` },
  'motion-seed-43': { lora: 'motion-seed-43', frames: 'crane', prompt: (seen) => `crane, ${seen}` },
  dop: { lora: 'dop', frames: 'crane', prompt: (seen) => `crane, ${seen}` },
  'dop static': { lora: 'dop', frames: 'crane', prompt: (seen) => `static camera, ${seen}` },
  'dop pan': { lora: 'dop', frames: 'crane', prompt: (seen) => `pan left, ${seen}` },
  ema: { lora: 'ema', frames: 'crane', prompt: (seen) => `crane, ${seen}` },
  'ema-seed-43': { lora: 'ema-seed-43', frames: 'crane', prompt: (seen) => `crane, ${seen}` },
  'base packed': {
    lora: null,
    frames: 'crane',
    packed: true,
    prompt: (seen) => `crane, ${seen}`,
  },
  'four-bit packed': {
    lora: 'four-bit',
    frames: 'crane',
    packed: true,
    prompt: (seen) => `crane, ${seen}`,
  },
  'four-bit': { lora: 'four-bit', frames: 'crane', prompt: (seen) => `crane, ${seen}` },
  'motion packed': {
    lora: 'motion',
    frames: 'crane',
    packed: true,
    prompt: (seen) => `crane, ${seen}`,
  },
  'base style': { lora: null, frames: 'poster', prompt: (seen) => `poster, ${seen}` },
  style: { lora: 'style', frames: 'poster', prompt: (seen) => `poster, ${seen}` },
  'base character': { lora: null, frames: 'character', prompt: (seen) => `${seen}, zog` },
  character: { lora: 'character', frames: 'character', prompt: (seen) => `${seen}, zog` },
}

/** Preview sets that each experiment compares. */
export const experiments = {
  motion: ['base crane', 'motion', 'motion-seed-43'],
  style: ['base style', 'motion', 'style'],
  character: ['base character', 'character'],
  dop: [
    'base static',
    'base pan',
    'motion',
    'motion static',
    'motion pan',
    'dop',
    'dop static',
    'dop pan',
  ],
  ema: ['motion', 'motion-seed-43', 'ema', 'ema-seed-43'],
  'four-bit': [
    'base crane',
    'base packed',
    'motion',
    'motion packed',
    'four-bit',
    'four-bit packed',
  ],
}
