import type { BinDefinition } from '@kinora/stage/bin'

/** Every command, in the order of the work. Their packages are loaded only by the command that runs. */
export const kinora: BinDefinition = {
  name: 'kinora',
  summary: 'From raw footage to a trained Wan 2.2 I2V LoRA, on any GPU that WebGPU reaches.',
  options: {
    init: {
      summary: 'Writes a training job to start from, with the schema that editors read.',
      load: async () => (await import('../commands/init.ts')).initCommand,
    },
    doctor: {
      summary: 'Says what this machine lacks, or with a job what would fail or disappoint.',
      load: async () => (await import('../commands/doctor.ts')).doctorCommand,
    },
    prep: {
      summary: 'Footage to clips: shots, still heads and tails, crop, 16 frames a second.',
      load: async () => (await import('../commands/prep.ts')).prepCommand,
    },
    caption: {
      summary: 'Clips to captions, one text file beside each clip.',
      load: async () => (await import('../commands/caption.ts')).captionCommand,
    },
    plan: {
      summary: 'Clips to buckets: which frames are trained at which size.',
      load: async () => (await import('../commands/plan.ts')).planCommand,
    },
    cache: {
      summary: "Encodes a job's clips and captions once, so that training needs neither again.",
      load: async () => (await import('../commands/cache.ts')).cacheCommand,
    },
    quantize: {
      summary: 'Packs a checkpoint to 4 or 8 bits, into a folder that loads without the original.',
      load: async () => (await import('../commands/quantize.ts')).quantizeCommand,
    },
    train: {
      summary: 'Trains both experts from a job file in AI Toolkit’s dialect.',
      load: async () => (await import('../commands/train.ts')).trainCommand,
    },
    explain: {
      summary: 'Says how a run does: improving, flat or overfitting, and what to change.',
      load: async () => (await import('../commands/explain.ts')).explainCommand,
    },
    sample: {
      summary: 'Generates a clip from an image and a prompt, with or without LoRA files.',
      load: async () => (await import('../commands/sample.ts')).sampleCommand,
    },
    export: {
      summary:
        'Hands a run over: LoRAs, ComfyUI workflow, model card, Hub; converts and checks files.',
      load: async () => (await import('../commands/export.ts')).exportCommand,
    },
    demo: {
      summary: 'The whole way on a tiny checkpoint, with previews before and after.',
      load: async () => (await import('../commands/demo.ts')).demoCommand,
    },
  },
}
