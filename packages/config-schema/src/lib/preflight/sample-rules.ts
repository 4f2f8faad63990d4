import { nothing, when, type PreflightRule, type PreflightSubject } from './rule.ts'

/** Rules about previews. They say nothing where there are none. */
export const sampleRules: readonly PreflightRule[] = [
  {
    code: 'SAMPLE_NO_CONTROL',
    severity: 'error',
    about:
      'An image-to-video preview without its first frame cannot be made; in AI Toolkit it ends the job.',
    check: ({ process, ...subject }) =>
      !hasPreviews({ process, ...subject }) || process.kinora.sample.auto_control
        ? nothing
        : process.sample.samples.flatMap((sample, index) =>
            when(
              sample.ctrl_img === null,
              `Sample ${index + 1} ("${clipText(sample.prompt)}") has no ctrl_img.`,
              "Set ctrl_img to an image, or kinora.sample.auto_control to true for a clip's own first frame.",
            ),
          ),
  },
  {
    code: 'FILE_MISSING',
    severity: 'error',
    about: 'A file that the job names is not there.',
    check: ({ facts }) =>
      (facts.missingFiles ?? []).map((file) => ({
        message: `${file} is named in the job and is not there.`,
        fix: 'Correct the path; it is relative to where kinora runs.',
      })),
  },
  {
    code: 'NO_SAMPLES',
    severity: 'warning',
    about: 'Previews are on, and there is no prompt.',
    check: ({ process }) =>
      when(
        !process.train.disable_sampling &&
          process.sample.sample_every > 0 &&
          process.sample.samples.length === 0,
        'There are no sample prompts, so there will be no previews.',
        'Add sample.samples with a prompt and a ctrl_img each, or set train.disable_sampling.',
      ),
  },
  {
    code: 'SAMPLE_FRAMES_FAR',
    severity: 'warning',
    about: 'Previews are much longer or shorter than what is trained, so they show another thing.',
    check: (subject) => {
      if (!hasPreviews(subject)) return nothing
      const trained = subject.process.datasets
        .filter((set) => !set.is_reg && !set.auto_frame_count && set.num_frames > 1)
        .map((set) => set.num_frames)
      if (trained.length === 0) return nothing
      const longest = Math.max(...trained)
      const shortest = Math.min(...trained)
      return distinct(subject.process.sample.samples.map((sample) => sample.num_frames)).flatMap(
        (frames) =>
          when(
            frames > longest * 2 || frames < shortest / 2,
            `Previews have ${frames} frames, and training ${shortest === longest ? longest : `${shortest} to ${longest}`}.`,
            `Set sample.num_frames to ${frames > longest ? longest : shortest}.`,
          ),
      )
    },
  },
  {
    code: 'SAMPLE_SIZE_FAR',
    severity: 'warning',
    about: 'Previews have more than twice or less than half the pixels of any trained size.',
    check: (subject) => {
      if (!hasPreviews(subject)) return nothing
      const sides = subject.process.datasets
        .filter((set) => !set.is_reg)
        .flatMap((set) => set.resolution)
      const most = Math.max(...sides) ** 2
      const least = Math.min(...sides) ** 2
      const sizes = new Map(
        subject.process.sample.samples.map(({ width, height }) => [
          `${width}×${height}`,
          width * height,
        ]),
      )
      return [...sizes].flatMap(([size, area]) =>
        when(
          area > 2.05 * most || area < least / 2.05,
          `Previews are ${size}, and training is at ${distinct(sides).join(', ')} squared.`,
          `Choose a preview of about ${Math.round(Math.sqrt(area > most ? most : least))} squared.`,
        ),
      )
    },
  },
  {
    code: 'TRIGGER_NOT_SAMPLED',
    severity: 'warning',
    about:
      'There is a trigger word and no preview prompt holds it, so previews do not show the LoRA.',
    check: (subject) => {
      const trigger = subject.process.trigger_word
      return when(
        hasPreviews(subject) &&
          trigger !== null &&
          subject.process.sample.samples.every((sample) => !sample.prompt.includes(trigger)),
        `No sample prompt holds the trigger word "${trigger}".`,
        'Write [trigger] into the prompts; it is not added by itself.',
      )
    },
  },
  {
    code: 'SAMPLE_GUIDANCE_HIGH',
    severity: 'warning',
    about:
      'Guidance above 6 burns colours and freezes motion; 7 is the default where none is written.',
    check: (subject) =>
      !hasPreviews(subject)
        ? nothing
        : distinct(subject.process.sample.samples.map((sample) => sample.guidance_scale)).flatMap(
            (scale) =>
              when(scale > 6, `guidance_scale ${scale} is high for Wan 2.2.`, 'Take 3.5 to 4.'),
          ),
  },
  {
    code: 'SAMPLE_STEPS_FEW',
    severity: 'warning',
    about: 'Fewer than 15 steps without a distilled LoRA give blurred previews.',
    check: (subject) =>
      !hasPreviews(subject)
        ? nothing
        : distinct(subject.process.sample.samples.map((sample) => sample.sample_steps)).flatMap(
            (steps) =>
              when(
                steps < 15,
                `${steps} sample steps are few without a distilled LoRA.`,
                'Take 20 to 30.',
              ),
          ),
  },
  {
    code: 'SAMPLE_COST',
    severity: 'warning',
    about:
      'Previews take longer than the training between them, counted in passes through a transformer.',
    check: (subject) => {
      const { sample, train } = subject.process
      if (!hasPreviews(subject) || sample.sample_every === 0) return nothing
      const passes = sample.samples.reduce(
        (sum, item) =>
          sum +
          item.sample_steps *
            (item.guidance_scale > 1 ? 2 : 1) *
            relativeCost(item.width * item.height, item.num_frames),
        0,
      )
      const [set] = subject.process.datasets
      const sides = subject.process.datasets.flatMap((each) => each.resolution)
      const area = sides.reduce((sum, side) => sum + side ** 2, 0) / sides.length
      // Forward, recomputed forward, and a backward of about one forward for the activations' gradients.
      const training =
        sample.sample_every *
        3 *
        train.batch_size *
        train.gradient_accumulation *
        relativeCost(area, set?.num_frames ?? 1)
      return when(
        passes > training,
        `The previews of ${sample.samples.length} prompts cost ${(passes / training).toFixed(1)} times the ${sample.sample_every} steps between them.`,
        'Raise sample_every, or make previews fewer, smaller or shorter.',
      )
    },
  },
]

function hasPreviews({ process }: PreflightSubject): boolean {
  const { disable_sampling, skip_first_sample } = process.train
  const any = process.sample.sample_every > 0 || !skip_first_sample
  return !disable_sampling && any && process.sample.samples.length > 0
}

/** Tokens of a clip, which a pass is linear in to first order: 16×16 pixels of every fourth frame. */
function relativeCost(area: number, numFrames: number): number {
  return (area / 256) * ((numFrames - 1) / 4 + 1)
}

function distinct<T>(values: readonly T[]): T[] {
  return [...new Set(values)]
}

function clipText(text: string): string {
  return text.length > 40 ? `${text.slice(0, 37)}…` : text
}
