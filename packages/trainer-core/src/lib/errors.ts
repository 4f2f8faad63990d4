import { defineErrors } from '@kinora/stage'

export const trainerErrors = defineErrors('TRAINER', {
  NO_GRADIENT: {
    message: (op: string, why: string) => `The tape cannot go back through "${op}": ${why}.`,
    fix: 'Ask for gradients only of tensors that reach the loss through differentiable ops, or keep that tensor constant.',
  },
  NOT_WATCHED: {
    message: (shape: string) =>
      `A gradient was asked for a tensor of shape [${shape}] that the tape was not told to watch.`,
    fix: 'Name every trained tensor in the `watch` option of createTape.',
  },
  ALREADY_BACK: {
    message: () => 'This tape has already gone back once; what it remembered is freed.',
    fix: 'Make a tape for each forward pass.',
  },
  IN_PLACE: {
    message: (op: string) => `"${op}" changes a tensor in place, which a tape cannot remember.`,
    fix: 'Call it on the ops of the device, after going back.',
  },
  CHECKPOINT_DIVERGED: {
    message: (index: number, first: string, second: string) =>
      `A checkpointed block did something else the second time: op ${index} was "${first}", then "${second}".`,
    fix: 'A checkpointed function must depend on its inputs only.',
  },
  NO_TARGETS: {
    message: (expert: string) =>
      `The layer filters of the job leave the ${expert}-noise expert nothing to train.`,
    fix: 'Loosen network.network_kwargs.ignore_if_contains and only_if_contains; they match names such as transformer.transformer_1.blocks.0.attn1.to_q.',
  },
  OFFLOADING_WITHOUT_CHECKPOINTING: {
    message: () =>
      'model.layer_offloading is on and train.gradient_checkpointing is off: the weights of a block would be gone on the way back.',
    fix: 'Set gradient_checkpointing to true, or layer_offloading to false.',
  },
  LORA_SHAPE: {
    message: (file: string, module: string, found: string, expected: string) =>
      `${file} holds ${module} with ${found}; this job needs ${expected}.`,
    fix: 'Set network.type and the rank of the job to those of the file, or start from another file.',
  },
  BAD_PLAN: {
    message: (file: string, problem: string) =>
      `${file} is not a bucket plan for this job: ${problem}.`,
    fix: 'Make the plan again with `kinora plan`.',
  },
  NO_VALIDATION_PLAN: {
    message: (folder: string) => `The clips of ${folder}, kept for validation, have no plan.`,
    fix: 'kinora plan writes validation-plan.json beside the job’s plan; or set kinora.validation.fraction instead.',
  },
  NO_SAMPLES: {
    message: (file: string) => `${file} leaves nothing to train on.`,
    fix: 'Add clips, or make regularisation sets not the only ones; then run `kinora plan` and `kinora cache` again.',
  },
  CLIP_TOO_SHORT: {
    message: (clip: string, found: number, needed: number) =>
      `${clip} gives ${found} frames; the plan wants ${needed}.`,
    fix: 'Make the plan again with `kinora plan`: the clip has changed or breaks off.',
  },
  TOO_MANY_SKIPPED: {
    message: (skipped: number, allowed: number, clip: string, reason: string) =>
      `${skipped} clips cannot be read, and ${allowed} are allowed; the last is ${clip}: ${reason}`,
    fix: 'Repair or remove those clips, or raise kinora.max_skipped.',
  },
  NOT_CACHED: {
    message: (missing: number, wanted: number, folder: string, example: string) =>
      `${missing} of ${wanted} entries are missing in ${folder}, such as that of ${example}.`,
    fix: 'Run `kinora cache` with the same job and plan; it makes only what is missing.',
  },
  CACHE_UNREADABLE: {
    message: (file: string, problem: string) =>
      `The cache entry ${file} cannot be read: ${problem}`,
    fix: 'Delete that file and run `kinora cache` again.',
  },
  STATE_UNREADABLE: {
    message: (file: string, problem: string) =>
      `The training state ${file} cannot be read: ${problem}.`,
    fix: 'Restore the file, or start again with --resume never; the LoRA files already saved can be a start by network.pretrained_lora_path.',
  },
  RESUME_MISMATCH: {
    message: (what: string, before: string, now: string) =>
      `The run in this folder has ${what} ${before}; this job has ${now}.`,
    fix: 'Put the old value back, give the job another name, or start again with --resume never.',
  },
  NO_SUCH_SAVE: {
    message: (what: string, folder: string) => `There is no ${what} to resume from in ${folder}.`,
    fix: 'Resume from latest, or from a step whose files are there.',
  },
  NOT_FINITE: {
    message: (step: number, what: string) => `Step ${step} is not finite: ${what}.`,
    fix: 'Lower the learning rate or max_grad_norm and resume from the last save; if it happens at the first step, check the clips and the checkpoint.',
  },

  NOT_SETTLED: {
    message: () => 'A tape went back while kept tensors were still on their way to host memory.',
    fix: 'Await tape.settle() between the forward and the backward pass.',
  },
  WOULD_NOT_FIT: {
    message: (
      bucket: string,
      needed: string,
      usable: string,
      adapter: string,
      remedies: readonly string[],
    ) =>
      [
        `Training at ${bucket} takes ${needed} of the device, and ${usable} of ${adapter} can be used. Nothing has been loaded.`,
        remedies.length > 0
          ? 'The cheapest ways to make it fit:'
          : 'No change that Kinora knows makes it fit.',
        ...remedies.map((remedy) => `- ${remedy}`),
      ].join('\n'),
    fix: 'Make it smaller, or give the true memory of the device as kinora.vram_gb.',
  },
  OUT_OF_MEMORY: {
    message: (
      whose: 'device' | 'host',
      doing: string,
      planned: string,
      held: string,
      remedies: readonly string[],
      _isKept: boolean,
      _isMilder: boolean,
    ) =>
      [
        `The ${whose} ran out of memory ${doing}${planned} (${held}).`,
        ...(remedies.length > 0 ? ['The cheapest ways to take less:'] : []),
        ...remedies.map((remedy) => `- ${remedy}`),
      ].join('\n'),
    fix: (
      whose: 'device' | 'host',
      _doing: string,
      _planned: string,
      _held: string,
      remedies: readonly string[],
      isKept: boolean,
      isMilder: boolean,
    ) =>
      [
        isKept
          ? 'The steps before are kept, and the same command goes on'
          : 'The same command goes on from the last save',
        isMilder
          ? ', keeping as little of each block as there is at this size; give the true memory of the device as kinora.vram_gb.'
          : whose === 'host'
            ? '. Free memory of the host, or offload less.'
            : `. Free the device of other programs${remedies.length > 0 ? ', or make one of these changes to the job' : ''}, or lower the resolution or num_frames.`,
      ].join(''),
  },
  DEVICE_LOST: {
    message: (doing: string, planned: string, held: string) =>
      `The device was lost ${doing}${planned} (${held}).`,
    fix: 'The same command goes on from the last save. If it happens again at the same size, the device had too little memory or took too long: lower the resolution or num_frames, or give its memory as kinora.vram_gb.',
  },
  NO_F16: {
    message: (adapter: string) => `${adapter} cannot compute in f16, which the job asks for.`,
    fix: 'Set kinora.compute to auto or f32.',
  },
})
