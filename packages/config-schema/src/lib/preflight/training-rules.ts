import { nothing, when, type PreflightRule } from './rule.ts'

const gib = 2 ** 30
/** Bytes a weight takes in each form the frozen linears are kept in; packed forms with their scales. */
const bytesPerWeight = { dense: 2, qfloat8: 1, float8: 1, uint4: 0.5625 } as const

/** Rules about experts, timesteps, optimiser, network and saves. */
export const trainingRules: readonly PreflightRule[] = [
  {
    code: 'WEIGHTS_EXCEED_MEMORY',
    severity: 'error',
    about: 'The frozen weights that must be on the device at once are larger than its memory.',
    check: ({ process, facts, trains }) => {
      if (facts.device === undefined || facts.checkpoint === undefined) return nothing
      const { model, kinora } = process
      if (model.layer_offloading) return nothing
      const resident = trains.both && !model.low_vram ? 2 : 1
      const dense = kinora.compute === 'f32' || !facts.device.hasF16 ? 4 : bytesPerWeight.dense
      const bytes = model.quantize ? bytesPerWeight[model.qtype] : dense
      const needed = resident * facts.checkpoint.expertParameters * bytes
      return when(
        needed > facts.device.memoryBytes,
        `${resident === 2 ? 'Both experts take' : 'One expert takes'} ${(needed / gib).toFixed(1)} GiB, and the device has ${(facts.device.memoryBytes / gib).toFixed(1)} GiB.`,
        resident === 2
          ? 'Set model.low_vram to true, or quantize with a smaller qtype.'
          : 'Quantize with qtype uint4, or set model.layer_offloading to true.',
      )
    },
  },
  {
    code: 'SWITCH_LOW_VRAM',
    severity: 'warning',
    about:
      'Each turn under low_vram moves a whole expert in and out; short turns spend the time on moving.',
    check: ({ process, trains }) =>
      when(
        trains.both && process.model.low_vram && process.train.switch_boundary_every < 10,
        `With low_vram the experts change places every ${process.train.switch_boundary_every} steps, and each change moves a whole expert.`,
        'Set switch_boundary_every to 10 to 50.',
      ),
  },
  {
    code: 'SWITCH_LONG',
    severity: 'warning',
    about: 'With turns longer than a tenth of the run the experts get uneven shares.',
    check: ({ process, trains }) =>
      when(
        trains.both && process.train.switch_boundary_every * 10 > process.train.steps,
        `Turns of ${process.train.switch_boundary_every} in ${process.train.steps} steps leave each expert ${Math.ceil(process.train.steps / process.train.switch_boundary_every / 2)} turns.`,
        'Lower switch_boundary_every.',
      ),
  },
  {
    code: 'SWITCH_SPLITS_STEP',
    severity: 'warning',
    about: 'Turns count micro-batches; where they do not divide, one step mixes both experts.',
    check: ({ process, trains }) =>
      when(
        trains.both &&
          process.train.gradient_accumulation > 1 &&
          process.train.switch_boundary_every % process.train.gradient_accumulation !== 0,
        `switch_boundary_every ${process.train.switch_boundary_every} counts micro-batches, and a step has ${process.train.gradient_accumulation}: some steps are shared by both experts.`,
        'Make switch_boundary_every a multiple of gradient_accumulation.',
      ),
  },
  {
    code: 'ONE_EXPERT',
    severity: 'warning',
    about:
      'Only one expert is trained: motion and layout come from the high-noise one, detail and identity from the low-noise one.',
    check: ({ trains, goal }) => {
      if (trains.both) return nothing
      const lacks = trains.high ? 'detail and identity' : 'motion and layout'
      const against = trains.high ? goal === 'character' || goal === 'style' : goal === 'motion'
      return when(
        against,
        `Only the ${trains.high ? 'high' : 'low'}-noise expert is trained; ${lacks} are decided by the other one.`,
        'Set train_high_noise and train_low_noise to true.',
      )
    },
  },
  {
    code: 'EXPERT_STARVED',
    severity: 'warning',
    about: 'high_noise_share leaves an expert less than a fifth of the steps.',
    check: ({ process, updates }) => {
      const share = process.kinora.high_noise_share
      return when(
        share !== null && (share < 0.2 || share > 0.8),
        `The ${(share ?? 0) < 0.5 ? 'high' : 'low'}-noise expert gets ${Math.min(updates.high, updates.low)} of ${process.train.steps} steps.`,
        'Keep high_noise_share between 0.2 and 0.8, or train that expert alone.',
      )
    },
  },
  {
    code: 'BIAS_AGAINST_GOAL',
    severity: 'warning',
    about:
      "content_or_style leans on the end of each expert's band that the goal does not live in. It never moves steps from one expert to the other.",
    check: ({ process, goal }) => {
      const bias = process.train.content_or_style
      const against =
        (goal === 'motion' && bias === 'style') || (goal === 'character' && bias === 'content')
      return when(
        against,
        `content_or_style ${bias} leans on the ${bias === 'style' ? 'clean' : 'noisy'} end of each band, and a ${goal} LoRA lives at the other.`,
        'Set content_or_style to balanced; to give an expert more steps use kinora.high_noise_share.',
      )
    },
  },
  {
    code: 'SIGMOID_TAIL',
    severity: 'warning',
    about:
      'timestep_type sigmoid draws the high-noise expert from the far tail of its distribution: 2.6 % of it lies above t 875.',
    check: ({ process, trains }) =>
      when(
        trains.high && process.train.timestep_type === 'sigmoid',
        'timestep_type sigmoid (the default of AI Toolkit where none is written) gives the high-noise expert only timesteps near the boundary.',
        'Write timestep_type: linear, as AI Toolkit’s form does for this model.',
      ),
  },
  {
    code: 'BOUNDARY_DIFFERS',
    severity: 'warning',
    about:
      'The boundary of the job is not that of the checkpoint, with which it will be sampled elsewhere.',
    check: ({ process, facts }) => {
      const own = process.kinora.boundary
      const base = facts.checkpoint?.boundaryRatio
      return when(
        own !== null && base !== undefined && Math.abs(own - base) > 1e-6,
        `kinora.boundary is ${own} and the checkpoint's ${base}: timesteps between are trained on one expert and sampled on the other.`,
        'Remove kinora.boundary, or sample with the same boundary.',
      )
    },
  },
  {
    code: 'LR_HIGH',
    severity: 'warning',
    about: 'A learning rate above 5e-4 (with Adam-like optimisers) tears up the base model.',
    check: ({ process }) =>
      when(
        !selfTuning(process.train.optimizer) && process.train.lr > 5e-4,
        `lr ${process.train.lr} is high for a LoRA of Wan.`,
        'Take 1e-4, or 5e-5 where previews flicker or burn.',
      ),
  },
  {
    code: 'LR_LOW',
    severity: 'warning',
    about:
      'A learning rate below 1e-5 learns next to nothing in thousands of steps; 1e-6 is the default where none is written.',
    check: ({ process }) =>
      when(
        !selfTuning(process.train.optimizer) && process.train.lr < 1e-5,
        `lr ${process.train.lr} is so low that the LoRA will do next to nothing.`,
        'Take 1e-4.',
      ),
  },
  {
    code: 'LR_PRODIGY',
    severity: 'warning',
    about: 'Prodigy finds the rate by itself and takes lr as a factor.',
    check: ({ process }) =>
      when(
        selfTuning(process.train.optimizer) && process.train.lr !== 1,
        `lr ${process.train.lr} multiplies the rate that prodigy finds by itself.`,
        'Set lr to 1.',
      ),
  },
  {
    code: 'WEIGHT_DECAY_HIGH',
    severity: 'warning',
    about: 'A weight decay above 0.1 pulls the small matrices back to zero.',
    check: ({ process }) =>
      when(
        process.train.optimizer_params.weight_decay > 0.1,
        `weight_decay ${process.train.optimizer_params.weight_decay} pulls the LoRA back to zero.`,
        'Take 1e-4 to 1e-2.',
      ),
  },
  {
    code: 'RANK_HIGH',
    severity: 'warning',
    about: 'A rank above 64 learns the clips by heart and makes large files.',
    check: ({ process }) =>
      when(
        process.network.type !== 'lokr' && ranks(process).some((rank) => rank > 64),
        `Rank ${Math.max(...ranks(process))} makes files of ${Math.round((Math.max(...ranks(process)) * 4_792_320 * 2) / 1e6)} MB an expert (16 bits) and remembers clips rather than what they share.`,
        'Take 16 for motion, 16 to 32 for style and character.',
      ),
  },
  {
    code: 'NETWORK_WITHOUT_DIFFUSERS',
    severity: 'warning',
    about: 'LoKr and DoRA files load in ComfyUI and Kinora; diffusers has no form for them.',
    check: ({ process: { network } }) =>
      when(
        network.type !== 'lora',
        `network.type ${network.type} makes files that ComfyUI and Kinora load, and diffusers does not.`,
        'Take lora where the files are for diffusers.',
      ),
  },
  {
    code: 'RANK_LOW',
    severity: 'warning',
    about: 'A rank below 8 holds little; 4 is the default where none is written.',
    check: ({ process }) =>
      when(
        process.network.type === 'lora' && ranks(process).some((rank) => rank < 8),
        `Rank ${Math.min(...ranks(process))} holds little.`,
        'Take 16 for motion, 16 to 32 for style and character.',
      ),
  },
  {
    code: 'ALPHA_IGNORED',
    severity: 'warning',
    about: 'linear_alpha differs from linear and has no effect unless kinora.use_alpha is on.',
    check: ({ process: { network, kinora } }) =>
      when(
        !kinora.use_alpha && network.linear_alpha !== network.linear,
        `linear_alpha ${network.linear_alpha} with rank ${network.linear} has no effect: the scale is 1, as in AI Toolkit.`,
        'Remove linear_alpha, or set kinora.use_alpha to true.',
      ),
  },
  {
    code: 'TOO_FEW_STEPS',
    severity: 'warning',
    about: 'An expert gets fewer than 200 updates.',
    check: ({ trains, updates }) => {
      const experts = (['high', 'low'] as const).filter(
        (expert) => trains[expert] && updates[expert] < 200,
      )
      return when(
        experts.length > 0,
        `The ${experts.join('- and ')}-noise expert gets ${Math.min(...experts.map((expert) => updates[expert]))} updates.`,
        'Steps are shared by both experts: 2000 to 3000 are usual.',
      )
    },
  },
  {
    code: 'TOO_MANY_STEPS',
    severity: 'warning',
    about: 'Each clip is seen more than 300 times by an expert: it overfits.',
    check: ({ process, numClips, updates, trains }) => {
      if (numClips === undefined || numClips === 0) return nothing
      const { batch_size, gradient_accumulation } = process.train
      const most = Math.max(trains.high ? updates.high : 0, trains.low ? updates.low : 0)
      const views = (most * batch_size * gradient_accumulation) / numClips
      return when(
        views > 300,
        `An expert sees each of ${numClips} clips ${Math.round(views)} times.`,
        `Lower steps to about ${Math.max(100, Math.round((process.train.steps * 150) / views / 100) * 100)}, add clips, and compare the saves before the end.`,
      )
    },
  },
  {
    code: 'DIFFERENTIAL_GUIDANCE_INERT',
    severity: 'warning',
    about:
      'do_differential_guidance on its own does nothing, in AI Toolkit and here; where it acts it is a factor on the gradient.',
    check: ({ process: { train, kinora } }) =>
      when(
        train.do_differential_guidance && !kinora.differential_guidance,
        'do_differential_guidance has no effect on its own.',
        'Remove it, or set kinora.differential_guidance to true: the gradient is then multiplied by its scale before clipping.',
      ),
  },
  {
    code: 'EMA_SLOW',
    severity: 'warning',
    about: 'The moving average remembers more steps than an expert gets.',
    check: ({ process, updates, trains }) => {
      const { use_ema, ema_decay } = process.train.ema_config
      const memory = 1 / (1 - Math.min(ema_decay, 1 - 1e-9))
      const fewest = Math.min(
        trains.high ? updates.high : Infinity,
        trains.low ? updates.low : Infinity,
      )
      return when(
        use_ema && memory * 3 > fewest,
        `ema_decay ${ema_decay} averages over ${Math.round(memory)} updates, and an expert gets ${fewest}: the saved weights lag far behind.`,
        'Set ema_decay to 0.99.',
      )
    },
  },
  {
    code: 'SAVES_RARE',
    severity: 'warning',
    about: 'There is no save before the end, so nothing to compare and everything to lose.',
    check: ({ process: { save, train } }) =>
      when(
        train.steps > 500 && (save.save_every === 0 || save.save_every >= train.steps),
        `There is no save before step ${train.steps}.`,
        'Set save_every to 250.',
      ),
  },
  {
    code: 'SAVES_PRUNED',
    severity: 'warning',
    about: 'Old saves are removed so early that an overfitted run cannot be rewound.',
    check: ({ process: { save, train } }) =>
      when(
        save.save_every > 0 &&
          save.max_step_saves_to_keep > 0 &&
          save.save_every * save.max_step_saves_to_keep < train.steps / 4,
        `Only the last ${save.save_every * save.max_step_saves_to_keep} of ${train.steps} steps stay on disk.`,
        'Raise max_step_saves_to_keep or save_every.',
      ),
  },
  {
    code: 'COMPUTE_SLOW',
    severity: 'warning',
    about: 'f32 compute on an adapter that has f16: half the speed and twice the memory.',
    check: ({ process, facts }) =>
      when(
        facts.device?.hasF16 === true &&
          (process.kinora.compute === 'f32' ||
            (process.kinora.compute === 'auto' && process.train.dtype === 'fp32')),
        'Everything is computed in f32, though the adapter has f16.',
        'Write train.dtype: bf16, or kinora.compute: f16.',
      ),
  },
  {
    code: 'VALIDATION_EMPTY',
    severity: 'error',
    about: 'The share held out for validation is less than one clip, or leaves none to learn from.',
    check: ({ process, numClips }) => {
      const { fraction } = process.kinora.validation
      if (fraction === 0 || numClips === undefined || numClips === 0) return nothing
      const held = Math.round(fraction * numClips)
      return when(
        held === 0 || held === numClips,
        `${fraction} of ${numClips} clips is ${held} clips.`,
        held === 0
          ? 'Raise kinora.validation.fraction, or name a folder.'
          : 'Lower kinora.validation.fraction.',
      )
    },
  },
]

function selfTuning(optimizer: string): boolean {
  return optimizer === 'prodigy'
}

function ranks({
  network,
  kinora,
}: {
  network: { linear: number }
  kinora: { high_noise_rank: number | null; low_noise_rank: number | null }
}): number[] {
  return [kinora.high_noise_rank ?? network.linear, kinora.low_noise_rank ?? network.linear]
}
