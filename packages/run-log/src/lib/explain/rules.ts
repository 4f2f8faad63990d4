import { mean, median } from './statistics.ts'
import type { ExpertFacts, RunFacts } from './run-facts.ts'

/** Something that a run shows, and what to change. */
export interface RunFinding {
  /** Permanent, `EXPLAIN_…`. */
  code: string
  /** `problem`: the run is worse for it. `hint`: worth knowing. */
  severity: 'problem' | 'hint'
  /** What was seen, with the numbers. */
  message: string
  /** What to change. */
  change: string
}

/** A symptom: how it is recognised, and what it says of a run. */
export interface ExplainRule {
  code: string
  severity: RunFinding['severity']
  /** For the table in the documentation: what the user sees. */
  symptom: string
  /** For the same table: how it is found in the numbers. */
  about: string
  check: (run: RunFacts) => readonly Pick<RunFinding, 'message' | 'change'>[]
}

type Said = Pick<RunFinding, 'message' | 'change'>

const nothing: readonly Said[] = []
const percent = (share: number): string => `${Math.round(100 * share)} %`
const nameOf = ({ expert }: ExpertFacts): string => `${expert}-noise expert`

/** Mean absolute difference, in gray levels, up to which two previews look the same. */
const sameLook = 0.5
/** Updates before which nothing can be told of a LoRA. */
const fewUpdates = 200

/** Share of the later half's steps whose gradient norm is far above what is usual. */
function spikes({ steps }: ExpertFacts): { count: number; share: number; usual: number } {
  const usual = median(steps.map(({ gradNorm }) => gradNorm))
  const later = steps.slice(Math.floor(steps.length / 2))
  const count = later.filter(({ gradNorm }) => gradNorm > 8 * usual).length
  return { count, share: count / Math.max(1, later.length), usual }
}

/** Growth of the gradient norm from the first quarter, settled, to the last. */
function normGrowth({ steps }: ExpertFacts): number {
  if (steps.length < 40) return 1
  const quarter = Math.floor(steps.length / 4)
  const norms = steps.map(({ gradNorm }) => gradNorm)
  // B begins at zero, so the norm grows over the first steps in any case.
  return median(norms.slice(-quarter)) / median(norms.slice(10, 10 + quarter))
}

const clipped = ({ steps }: ExpertFacts, limit: number): number =>
  steps.filter(({ gradNorm }) => gradNorm > limit).length / steps.length

const rules: readonly ExplainRule[] = [
  {
    code: 'NOT_FINITE',
    severity: 'problem',
    symptom: 'The run stops: the loss or a gradient is NaN.',
    about: 'The last entry is the error of a step that was not finite.',
    check: ({ failure, job }) => {
      if (failure === undefined || !/NOT_FINITE/.test(failure.code)) return nothing
      const lr = job?.config.process[0].train.lr
      const high = lr !== undefined && lr > 2e-4
      return [
        {
          message: `The run ended at step ${failure.step}: ${failure.message}`,
          change: high
            ? `Halve train.lr (it is ${lr}) and go on from an earlier save with --resume; nothing of the bad step was kept.`
            : failure.step <= 2
              ? 'It failed at once: check the clips (black or broken ones) and that the checkpoint is whole; kinora.compute: f32 tells whether f16 is to blame.'
              : 'Go on with --resume from the save before; lower train.max_grad_norm to 0.5, and take kinora.compute: f32 if it comes back.',
        },
      ]
    },
  },
  {
    code: 'FAILED',
    severity: 'problem',
    symptom: 'The run ended with an error.',
    about: 'The last entry is an error.',
    check: ({ failure }) =>
      failure === undefined || /NOT_FINITE/.test(failure.code)
        ? nothing
        : [
            {
              message: `The run ended at step ${failure.step} with ${failure.code}: ${failure.message}`,
              change: 'Do what the error says; the same command goes on from the last state.',
            },
          ],
  },
  {
    code: 'EXPERT_STARVED',
    severity: 'problem',
    symptom: 'Motion is learned and the look is not, or the other way round.',
    about: 'Both experts are trained and one has less than a fifth of the steps.',
    check: ({ experts, steps, job }) => {
      const kwargs = job?.config.process[0].model.model_kwargs
      const both = kwargs ? kwargs.train_high_noise && kwargs.train_low_noise : experts.length > 1
      if (!both || steps.length < 40) return nothing
      return (['high', 'low'] as const).flatMap((expert): readonly Said[] => {
        const updates = experts.find((each) => each.expert === expert)?.updates ?? 0
        const total = experts.reduce((sum, each) => sum + each.updates, 0)
        return updates >= total / 5
          ? nothing
          : [
              {
                message: `The ${expert}-noise expert has ${updates} of ${total} steps.`,
                change:
                  'Raise its share with kinora.high_noise_share (0.5 is even), or shorten train.switch_boundary_every if the run is shorter than a few turns.',
              },
            ]
      })
    },
  },
  {
    code: 'OVERFITTING',
    severity: 'problem',
    symptom: 'Later saves copy the clips, or look worse than earlier ones.',
    about: 'The held-out loss was lowest earlier and its last two values are over 1 % above that.',
    check: ({ experts }) =>
      experts.flatMap((facts): readonly Said[] => {
        const { validation } = facts
        if (validation?.trend !== 'overfitting') return nothing
        const { bestStep, bestLoss, lastLoss } = validation
        return [
          {
            message: `The ${nameOf(facts)} has been learning the clips by heart since step ${bestStep}: held-out loss ${bestLoss.toPrecision(4)} there, ${lastLoss.toPrecision(4)} now (+${percent(lastLoss / bestLoss - 1)}).`,
            change: `Use the save nearest step ${bestStep} (--resume best goes on from there). For the next run: fewer steps, more clips, or a lower rank.`,
          },
        ]
      }),
  },
  {
    code: 'LEARNING_RATE_HIGH',
    severity: 'problem',
    symptom: 'Previews flicker, burn or fall apart; the loss jumps.',
    about:
      'Gradient norms of the later half spike (over 8 times the median, 3 or more, 1 % of the steps), grow fourfold, or the training loss rises.',
    check: ({ experts, job }) =>
      experts.flatMap((facts): readonly Said[] => {
        const { count, share, usual } = spikes(facts)
        const growth = normGrowth(facts)
        const { trend, recentChange } = facts.training
        const signs = [
          ...(count >= 3 && share >= 0.01
            ? [`${count} gradient norms above 8 times the usual ${usual.toPrecision(2)}`]
            : []),
          ...(growth >= 4 ? [`gradient norms ${growth.toFixed(1)} times those at first`] : []),
          ...(trend === 'rising' ? [`a training loss that rises (+${percent(recentChange)})`] : []),
        ]
        if (signs.length === 0) return nothing
        const lr = job?.config.process[0].train.lr
        return [
          {
            message: `The ${nameOf(facts)} shows ${signs.join(', ')}.`,
            change: `Take a learning rate of a half to a fifth${lr === undefined ? '' : ` (train.lr is ${lr})`}, from an earlier save; train.max_grad_norm: 0.5 tames single spikes.`,
          },
        ]
      }),
  },
  {
    code: 'LOSS_SCALE_FALLING',
    severity: 'problem',
    symptom: 'Training in f16 repeats steps and slows down.',
    about: 'The loss scale is a sixteenth of what it was, or less.',
    check: ({ experts }) =>
      experts.flatMap((facts): readonly Said[] => {
        const scales = facts.steps.map(({ lossScale }) => lossScale)
        const most = Math.max(...scales)
        const last = scales.at(-1)!
        return last * 16 > most
          ? nothing
          : [
              {
                message: `The loss scale of the ${nameOf(facts)} fell from ${most} to ${last}: gradients overflow f16 again and again.`,
                change: 'Lower train.lr, or set kinora.compute to f32.',
              },
            ]
      }),
  },
  {
    code: 'PRESERVATION_RISING',
    severity: 'problem',
    symptom: 'Prompts without the trigger word change too.',
    about: 'The preservation loss of the last quarter is over 1.5 times that of the second.',
    check: ({ experts }) =>
      experts.flatMap((facts): readonly Said[] => {
        const losses = facts.steps.flatMap(({ preservationLoss }) =>
          preservationLoss !== undefined && Number.isFinite(preservationLoss)
            ? [preservationLoss]
            : [],
        )
        if (losses.length < 40) return nothing
        const quarter = Math.floor(losses.length / 4)
        const before = mean(losses.slice(quarter, 2 * quarter))
        const now = mean(losses.slice(-quarter))
        return now <= 1.5 * before
          ? nothing
          : [
              {
                message: `The ${nameOf(facts)} drifts from the base model on prompts without the trigger: preservation loss ${before.toPrecision(3)}, now ${now.toPrecision(3)}.`,
                change:
                  'Raise train.diff_output_preservation_multiplier, lower train.lr, or take an earlier save.',
              },
            ]
      }),
  },
  {
    code: 'PREVIEWS_UNCHANGED',
    severity: 'problem',
    symptom: 'The LoRA does nothing: previews look as they did before training.',
    about: `The newest previews differ from those before training by less than ${sameLook} gray levels.`,
    check: ({ previews, experts, job }) => {
      const newest = previews.at(-1)
      const changes = (newest?.files ?? []).flatMap(({ change, multiplier }) =>
        change === undefined || multiplier === 0 ? [] : [change],
      )
      const updates = Math.max(0, ...experts.map((each) => each.updates))
      if (!newest || newest.step === 0 || changes.length === 0) return nothing
      if (Math.max(...changes) >= sameLook || updates < fewUpdates) return nothing
      const trigger = job?.config.process[0].trigger_word
      const silent =
        trigger !== null &&
        trigger !== undefined &&
        job!.config.process[0].sample.samples.every(({ prompt }) => !prompt.includes(trigger))
      const lr = job?.config.process[0].train.lr
      return [
        {
          message: `After ${newest.step} steps the previews differ from those before training by ${Math.max(...changes).toFixed(1)} gray levels at most.`,
          change: silent
            ? `No preview prompt holds the trigger word "${trigger}": write [trigger] into sample.samples.`
            : lr !== undefined && lr < 5e-5
              ? `Raise train.lr (it is ${lr}) to 1e-4.`
              : 'Check sample.network_multiplier, that the prompts say what the captions say, and raise train.lr or network.linear.',
        },
      ]
    },
  },
  {
    code: 'LEARNING_RATE_LOW',
    severity: 'problem',
    symptom: 'The loss does not move, and the LoRA barely shows at strength 1.',
    about: `An expert's loss is flat and has fallen by less than 1 % in ${fewUpdates} updates or more, without overfitting.`,
    check: ({ experts, job }) =>
      experts.flatMap((facts): readonly Said[] => {
        const { training, validation, updates } = facts
        if (updates < fewUpdates || training.trend !== 'flat') return nothing
        if (training.wholeChange < -0.01 || validation?.trend === 'overfitting') return nothing
        if (validation && validation.bestLoss < validation.firstLoss * 0.99) return nothing
        const lr = job?.config.process[0].train.lr
        return [
          {
            message: `The loss of the ${nameOf(facts)} is where it was ${updates} updates ago.`,
            change: `Raise train.lr${lr === undefined ? '' : ` (it is ${lr})`} two- to fivefold, or network.linear; captions that tell everything leave nothing to learn.`,
          },
        ]
      }),
  },
  {
    code: 'MOTION_TOO_FAST',
    severity: 'problem',
    symptom: 'Motion in previews is faster than in the clips.',
    about:
      'Half of the planned samples play over 1.25 times too fast, or previews move over 1.3 times as fast as the samples.',
    check: ({ plan, motion }) => {
      const speeds = (plan?.buckets ?? []).flatMap(({ items }) =>
        items.filter((item) => !item.regularisation).map(({ speedUp }) => speedUp),
      )
      const usual = speeds.length > 0 ? median(speeds) : 1
      if (usual > 1.25) {
        return [
          {
            message: `The samples play ${usual.toFixed(1)} times as fast as the clips: their frames are spread over more time than they last.`,
            change:
              'Set kinora.frame_mode: real-time (or datasets[].shrink_video_to_frames: false), or cut the clips to the length of a sample.',
          },
        ]
      }
      if (motion?.ratio == null || motion.ratio <= 1.3) return nothing
      return [
        {
          message: `${motion.sentence} That is ${motion.ratio.toFixed(1)} times as fast.`,
          change:
            'Lower the strength (sample.network_multiplier) or take an earlier save; check that sample.fps is the 16 that clips are trained at.',
        },
      ]
    },
  },
  {
    code: 'MOTION_WEAK',
    severity: 'problem',
    symptom: 'Previews hardly move, or move less than the clips.',
    about: 'Previews move less than 0.6 times as fast as the samples they were trained on.',
    check: ({ motion, experts, finished }) => {
      if (motion?.ratio == null || motion.ratio >= 0.6) return nothing
      const high = experts.find(({ expert }) => expert === 'high')
      return [
        {
          message: motion.sentence,
          change:
            high === undefined
              ? 'Motion is decided by the high-noise expert: train it (model.model_kwargs.train_high_noise).'
              : finished
                ? 'Give the high-noise expert more steps (kinora.high_noise_share: 0.6, or more train.steps); guidance above 5 freezes motion too.'
                : 'It may still come: compare the next previews. If not, give the high-noise expert more steps (kinora.high_noise_share).',
        },
      ]
    },
  },
  {
    code: 'MOTION_OTHER_WAY',
    severity: 'problem',
    symptom: 'Previews move the wrong way.',
    about: 'Clips and previews each agree on a direction, and it is not the same.',
    check: ({ motion, job }) =>
      !motion?.otherWay
        ? nothing
        : [
            {
              message: motion.sentence,
              change: job?.config.process[0].datasets.some((set) => set.flip_x)
                ? 'Set flip_x to false: mirrored copies teach the other direction.'
                : 'Check that captions and prompts name the same direction.',
            },
          ],
  },
  {
    code: 'SLOWING_DOWN',
    severity: 'problem',
    symptom: 'Steps take longer and longer.',
    about: 'Steps of one kind take over 1.5 times as long as at first, loading left out.',
    check: ({ slowDown }) =>
      slowDown === undefined
        ? nothing
        : [
            {
              message: `Steps take ${slowDown.factor.toFixed(1)} times as long as at first (${slowDown.after.toFixed(2)} s against ${slowDown.before.toFixed(2)} s), since step ${slowDown.sinceStep}.`,
              change:
                'Look for another program on the device, heat, and device memory that spills to the host (lower the resolution or num_frames, set model.low_vram). A resumed run starts afresh.',
            },
          ],
  },
  {
    code: 'MEMORY_GROWS',
    severity: 'problem',
    symptom: 'Device memory fills up over time.',
    about: 'Live memory after steps grows by over a tenth from the second quarter to the last.',
    check: ({ steps }) => {
      if (steps.length < 40) return nothing
      const live = steps.map(({ memory }) => memory.liveMiB)
      const quarter = Math.floor(live.length / 4)
      const before = median(live.slice(quarter, 2 * quarter))
      const now = median(live.slice(-quarter))
      return now <= 1.1 * before + 1
        ? nothing
        : [
            {
              message: `Live device memory grew from ${Math.round(before)} to ${Math.round(now)} MiB.`,
              change:
                'That is a bug in Kinora or in the backend: report it with metrics.jsonl. Stopping and going on frees it.',
            },
          ]
    },
  },
  {
    code: 'PREVIEWS_FAILED',
    severity: 'problem',
    symptom: 'There are no previews, though the job asks for them.',
    about: 'A preview entry tells of a failure.',
    check: ({ previews }) =>
      previews.flatMap(({ step, failed }): readonly Said[] =>
        failed === undefined
          ? nothing
          : [
              {
                message: `The previews of step ${step} failed: ${failed}`,
                change: 'Mend what it names; a file "sample-now" in the run asks for new ones.',
              },
            ],
      ),
  },
  {
    code: 'LOADING_DOMINATES',
    severity: 'hint',
    symptom: 'The device idles between turns.',
    about: "Loading experts' weights takes over 30 % of the time.",
    check: ({ steps, job }) => {
      const load = shareOf(steps, 'load')
      if (steps.length < 20 || load < 0.3) return nothing
      const every = job?.config.process[0].train.switch_boundary_every
      return [
        {
          message: `${percent(load)} of the time goes into loading the experts' weights.`,
          change: `Raise train.switch_boundary_every${every === undefined ? '' : ` (it is ${every})`} to 25 or 50, or keep both experts on the device (model.low_vram: false, a smaller model.qtype).`,
        },
      ]
    },
  },
  {
    code: 'DATA_STARVED',
    severity: 'hint',
    symptom: 'The device waits for the disk.',
    about: 'Waiting for cached latents takes over 20 % of the time.',
    check: ({ steps }) => {
      const data = shareOf(steps, 'data')
      return steps.length < 20 || data < 0.2
        ? nothing
        : [
            {
              message: `${percent(data)} of the time goes into waiting for cached latents.`,
              change: 'Put kinora.cache_dir on a local disk.',
            },
          ]
    },
  },
  {
    code: 'ALWAYS_CLIPPED',
    severity: 'hint',
    symptom: 'Changing the learning rate seems to change little.',
    about: 'Over 90 % of the gradients are above max_grad_norm.',
    check: ({ experts, job }) => {
      const limit = job?.config.process[0].train.max_grad_norm ?? 0
      if (limit === 0) return nothing
      return experts.flatMap((facts): readonly Said[] =>
        facts.steps.length < 40 || clipped(facts, limit) < 0.9
          ? nothing
          : [
              {
                message: `${percent(clipped(facts, limit))} of the gradients of the ${nameOf(facts)} are above max_grad_norm ${limit}, so each update has the same length.`,
                change: `Raise train.max_grad_norm to about ${(2 * median(facts.steps.map(({ gradNorm }) => gradNorm))).toPrecision(1)}.`,
              },
            ],
      )
    },
  },
  {
    code: 'STILL_IMPROVING',
    severity: 'hint',
    symptom: 'The run ends before the LoRA is done.',
    about: 'The run is finished and every expert still improves.',
    check: ({ experts, finished, totalSteps }) => {
      const improves = ({ training, validation }: ExpertFacts): boolean =>
        (validation && validation.trend !== 'unknown' ? validation.trend : training.trend) ===
        'improving'
      return !finished || experts.length === 0 || !experts.every(improves)
        ? nothing
        : [
            {
              message: 'The run is done and was still improving.',
              change: `More steps may help: raise train.steps (now ${totalSteps}) and run the same command; it goes on from the end.`,
            },
          ]
    },
  },
  {
    code: 'STOPPED_EARLY',
    severity: 'hint',
    symptom: 'The final LoRA files are missing.',
    about: 'There are fewer steps than the job asks for, and no error.',
    check: ({ finished, step, totalSteps, failure }) =>
      finished || totalSteps === undefined || failure !== undefined
        ? nothing
        : [
            {
              message: `${step} of ${totalSteps} steps are done.`,
              change: 'The same kinora train command goes on from the last state.',
            },
          ],
  },
  {
    code: 'TOO_EARLY',
    severity: 'hint',
    symptom: 'Nothing can be said yet.',
    about: 'An expert has too few logged steps for a trend.',
    check: ({ experts, steps }) =>
      steps.length === 0
        ? [
            {
              message: 'There is no step yet.',
              change:
                'Run kinora explain again after some minutes; logging.log_every: 1 logs every step.',
            },
          ]
        : experts.flatMap((facts): readonly Said[] =>
            facts.training.trend !== 'unknown'
              ? nothing
              : [
                  {
                    message: `${facts.steps.length} logged steps of the ${nameOf(facts)} are too few for a trend.`,
                    change: 'Wait, or log more often (logging.log_every).',
                  },
                ],
          ),
  },
]

/** Every rule, problems before hints. Codes are permanent. */
export const explainRules: readonly ExplainRule[] = rules.map((rule) => ({
  ...rule,
  code: `EXPLAIN_${rule.code}`,
}))

function shareOf(steps: RunFacts['steps'], phase: string): number {
  let part = 0
  let total = 0
  for (const { seconds } of steps) {
    const value = seconds[phase]
    if (typeof value === 'number') part += value
    total += seconds.total
  }
  return total === 0 ? 0 : part / total
}
