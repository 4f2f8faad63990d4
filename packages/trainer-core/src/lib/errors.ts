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
  LORA_SHAPE: {
    message: (file: string, module: string, found: string, expected: string) =>
      `${file} holds ${module} with ${found}; this job needs ${expected}.`,
    fix: 'Set the rank of the job to that of the file, or start from another file.',
  },
})
