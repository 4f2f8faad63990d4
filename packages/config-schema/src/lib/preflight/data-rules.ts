import { nothing, when, type PreflightRule } from './rule.ts'

/** Fewest clips from which each goal has been learned without memorising them. */
const fewestClips = { motion: 8, style: 15, character: 10 } as const

/** Words that a mirrored picture turns into a lie. */
const directionWords =
  /\b(left|right|clockwise|counter-?clockwise|anti-?clockwise|leftwards?|rightwards?)\b/i

const percent = (value: number) => `${Math.round(100 * value)} %`

/** Rules about clips, captions and how frames are taken. */
export const dataRules: readonly PreflightRule[] = [
  {
    code: 'NO_CLIPS',
    severity: 'error',
    about: 'A dataset holds no clip.',
    check: ({ facts, process }) =>
      (facts.datasets ?? []).flatMap((set, index) =>
        when(
          set.numClips === 0,
          `${process.datasets[index]?.folder_path ?? `Dataset ${index}`} holds no clip.`,
          'Point folder_path at the folder that clip-prep filled.',
        ),
      ),
  },
  {
    code: 'TOO_FEW_CLIPS',
    severity: 'warning',
    about: `Fewer clips than the goal takes (motion ${fewestClips.motion}, style ${fewestClips.style}, character ${fewestClips.character}): the LoRA learns the clips by heart.`,
    check: ({ goal, numClips }) => {
      const fewest = goal === undefined ? 5 : fewestClips[goal]
      return when(
        numClips !== undefined && numClips > 0 && numClips < fewest,
        `${numClips} clips are few for ${goal === undefined ? 'any goal' : `a ${goal} LoRA`}; ${fewest} or more are usual.`,
        'Add clips, or use fewer steps and a lower rank.',
      )
    },
  },
  {
    code: 'IMAGE_ONLY',
    severity: 'warning',
    about:
      'num_frames 1: the condition is the target itself, so the model can copy it and learns next to nothing.',
    check: ({ process }) =>
      process.datasets.flatMap((set) =>
        when(
          set.num_frames === 1 && !set.auto_frame_count,
          `${set.folder_path} trains on single frames: the first frame is given, so there is nothing left to predict.`,
          'Set num_frames to 41 (any 4n+1), or leave single images out.',
        ),
      ),
  },
  {
    code: 'FEW_FRAMES',
    severity: 'warning',
    about: 'A motion LoRA with fewer than 17 frames (about a second) sees no motion to speak of.',
    check: ({ process, goal }) =>
      goal !== 'motion'
        ? nothing
        : process.datasets.flatMap((set) =>
            when(
              set.num_frames > 1 && set.num_frames < 17 && !set.auto_frame_count && !set.is_reg,
              `${set.folder_path} trains on ${set.num_frames} frames, ${(set.num_frames / 16).toFixed(1)} s at 16 fps.`,
              'Set num_frames to 33 or more for motion; lower the resolution if memory is short.',
            ),
          ),
  },
  {
    code: 'SPED_UP',
    severity: 'warning',
    about:
      'Frames are spread over clips longer than the sample, so motion is learned faster than it is (more than 1.5 times).',
    check: ({ process, facts }) => {
      const planned = facts.plan?.buckets.flatMap((bucket) =>
        bucket.items.map((item) => item.speedUp),
      )
      if (planned !== undefined) {
        const fast = planned.filter((speedUp) => speedUp > 1.5)
        return when(
          fast.length > 0,
          `${fast.length} of ${planned.length} samples show motion up to ${Math.max(...fast, 0).toFixed(1)} times too fast.`,
          'Set kinora.frame_mode to real-time, or cut the clips to the length of a sample.',
        )
      }
      const frameMode = process.kinora.frame_mode
      return process.datasets.flatMap((set, index) => {
        const seconds = facts.datasets?.[index]?.medianSeconds
        const spread = frameMode === null ? set.shrink_video_to_frames : frameMode === 'uniform'
        if (seconds === undefined || !spread || set.auto_frame_count || set.num_frames === 1) {
          return nothing
        }
        const speedUp = (seconds * 16) / set.num_frames
        return when(
          speedUp > 1.5,
          `${set.folder_path}: clips of ${seconds.toFixed(1)} s in ${set.num_frames} frames play ${speedUp.toFixed(1)} times too fast at 16 fps.`,
          'Set kinora.frame_mode to real-time, or cut the clips to the length of a sample.',
        )
      })
    },
  },
  {
    code: 'SHORT_CLIPS',
    severity: 'warning',
    about: 'The clips are shorter than a sample, so frames are repeated or the sample shortened.',
    check: ({ process, facts }) =>
      process.datasets.flatMap((set, index) => {
        const seconds = facts.datasets?.[index]?.medianSeconds
        return when(
          seconds !== undefined && !set.auto_frame_count && seconds * 16 < set.num_frames * 0.9,
          `${set.folder_path}: half of the clips are no longer than ${(seconds ?? 0).toFixed(1)} s, and ${set.num_frames} frames are ${(set.num_frames / 16).toFixed(1)} s at 16 fps.`,
          'Lower num_frames, or cut longer clips.',
        )
      }),
  },
  {
    code: 'RESOLUTION_UNUSED',
    severity: 'warning',
    about:
      'A resolution above what the clips have gives copies of a smaller one: clips are not enlarged.',
    check: ({ process, facts }) =>
      process.datasets.flatMap((set, index) => {
        const pixels = facts.datasets?.[index]?.maxPixels
        if (pixels === undefined) return nothing
        const above = set.resolution.filter((side) => side * side > pixels * 1.05)
        const reachable = set.resolution.length - above.length
        return when(
          above.length > (reachable === 0 ? 1 : 0),
          `${set.folder_path}: resolution ${above.join(', ')} is above the ${Math.round(Math.sqrt(pixels))}² pixels that the clips have, so the same pictures are trained on again.`,
          'Remove the resolutions that the clips do not reach.',
        )
      }),
  },
  {
    code: 'BATCH_UNFILLED',
    severity: 'warning',
    about: 'A bucket has fewer samples than a batch, so samples are repeated to fill it.',
    check: ({ facts }) =>
      (facts.plan?.buckets ?? []).flatMap((bucket) =>
        when(
          bucket.items.length < bucket.batchSize,
          `Bucket ${bucket.width}×${bucket.height}×${bucket.numFrames} has ${bucket.items.length} samples for batches of ${bucket.batchSize}.`,
          'Lower batch_size (use gradient_accumulation instead), or add clips of that shape.',
        ),
      ),
  },
  {
    code: 'NO_TRIGGER',
    severity: 'warning',
    about: 'A character LoRA without a trigger word changes every person.',
    check: ({ process, goal }) =>
      when(
        goal === 'character' &&
          process.datasets.some((set) => !set.is_reg && set.trigger_word === null),
        'There is no trigger word: the character would leak into every prompt.',
        'Set trigger_word to a rare word, and use it in the captions and the sample prompts.',
      ),
  },
  {
    code: 'TRIGGER_IN_WORD',
    severity: 'warning',
    about: 'The trigger word occurs inside other words of a caption, so it is not prepended there.',
    check: ({ process, facts }) =>
      process.datasets.flatMap((set, index) => {
        const trigger = set.trigger_word
        if (trigger === null) return nothing
        const inside = (facts.datasets?.[index]?.captions ?? []).filter(
          (caption) => caption !== null && caption.includes(trigger) && !hasWord(caption, trigger),
        )
        return when(
          inside.length > 0,
          `"${trigger}" stands inside another word in ${inside.length} captions of ${set.folder_path}, such as "${clipText(inside[0] ?? '')}".`,
          'Take a trigger word that is part of no other word.',
        )
      }),
  },
  {
    code: 'CAPTIONS_MISSING',
    severity: 'warning',
    about:
      'Clips without a caption, and no default_caption, are trained on the trigger word alone.',
    check: ({ process, facts }) =>
      process.datasets.flatMap((set, index) => {
        const captions = facts.datasets?.[index]?.captions
        const missing = captions?.filter((caption) => caption === null || caption.trim() === '')
        return when(
          missing !== undefined && missing.length > 0 && set.default_caption === null,
          `${missing?.length} of ${captions?.length} clips of ${set.folder_path} have no caption.`,
          'Run captioner, or set default_caption.',
        )
      }),
  },
  {
    code: 'CAPTIONS_UNREAD',
    severity: 'warning',
    about: 'unload_text_encoder trains on the trigger word alone, so captions are for nothing.',
    check: ({ process, facts }) =>
      when(
        process.train.unload_text_encoder &&
          (facts.datasets ?? []).some((set) => set.captions?.some((caption) => caption !== null)),
        'unload_text_encoder is on: the captions of the clips are not read.',
        'Set it to false; Kinora caches text embeddings, so the encoder takes no memory while training.',
      ),
  },
  {
    code: 'DROPOUT_HIGH',
    severity: 'warning',
    about: 'A caption dropout above 0.3 unlearns the caption.',
    check: ({ process }) =>
      process.datasets.flatMap((set) =>
        when(
          set.caption_dropout_rate > 0.3,
          `${set.folder_path} drops ${percent(set.caption_dropout_rate)} of its captions.`,
          'A rate of 0.05 to 0.1 is usual.',
        ),
      ),
  },
  {
    code: 'FLIP_DIRECTION',
    severity: 'warning',
    about:
      'Mirrored copies of clips whose caption names a direction teach the opposite of the caption.',
    check: ({ process, facts, goal }) =>
      process.datasets.flatMap((set, index) => {
        if (!set.flip_x) return nothing
        const named = (facts.datasets?.[index]?.captions ?? []).filter(
          (caption) => caption !== null && directionWords.test(caption),
        )
        if (named.length > 0) {
          return when(
            true,
            `flip_x mirrors ${set.folder_path}, and ${named.length} captions name a direction, such as "${clipText(named[0] ?? '')}".`,
            'Set flip_x to false.',
          )
        }
        return when(
          goal === 'motion',
          `flip_x mirrors ${set.folder_path}: a motion to the left is learned as one to the right as well.`,
          'Set flip_x to false unless the direction does not matter.',
        )
      }),
  },
  {
    code: 'FLIP_UPSIDE_DOWN',
    severity: 'warning',
    about: 'flip_y turns clips upside down.',
    check: ({ process }) =>
      process.datasets.flatMap((set) =>
        when(
          set.flip_y,
          `flip_y adds copies of ${set.folder_path} that stand on their head.`,
          'Set flip_y to false unless the camera looks straight down.',
        ),
      ),
  },
  {
    code: 'REGULARISATION_HEAVY',
    severity: 'warning',
    about: 'The regularisation sets weigh more than the clips to learn.',
    check: ({ process }) =>
      when(
        process.datasets.some((set) => set.is_reg) && process.train.reg_weight > 1,
        `reg_weight ${process.train.reg_weight} makes regularisation count more than the clips to learn.`,
        'Set reg_weight to 1 or less.',
      ),
  },
]

function hasWord(text: string, word: string): boolean {
  const escaped = word.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`)
  return new RegExp(`(?<![\\p{L}\\p{N}])${escaped}(?![\\p{L}\\p{N}])`, 'u').test(text)
}

function clipText(text: string): string {
  return text.length > 48 ? `${text.slice(0, 45)}…` : text
}
