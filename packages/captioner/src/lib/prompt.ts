import { describeMotion } from './describe-motion.ts'
import type { CaptionGoal, CaptionSettings } from './options.ts'
import type { DatasetClip } from './read-dataset.ts'

const rules = (maxWords: number): string =>
  `Answer with the caption alone: plain English, one or two sentences, at most ${maxWords} words. No preamble, no lists, no quotation marks, no mention of frames, images or video.`

/**
 * What each goal asks for. A LoRA learns what its captions do not explain, so a motion caption names the motion and
 * leaves the look out, a style caption names the look and leaves the content out, and a character caption says everything
 * but what the character permanently looks like.
 */
const tasks: Record<CaptionGoal, string> = {
  motion:
    'Describe what moves and how: name the subject in a few plain words, then its movement in the order it happens, then the movement of the camera (still, panning, tilting, moving in or out, orbiting). Say nothing about colours, light, mood, picture quality or style.',
  style:
    'Describe the look and not the content: the medium or technique, palette, light, contrast, texture, lines, lens and depth of field. Name no person, object or event beyond one or two words.',
  character:
    'Describe what the character does, their pose, expression, clothing, the framing and the surroundings. Say nothing about lasting features: face, hair, eyes, skin, body, age.',
}

/**
 * The instruction for one clip. Measured motion is told as a hint, so that a model that sees few frames does not guess.
 */
export function captionPrompt(
  clip: DatasetClip,
  settings: CaptionSettings,
  frames: number,
): string {
  const { goal, trigger, className, vision } = settings
  if (vision.prompt !== undefined) {
    return [vision.prompt, vision.extraPrompt].filter(Boolean).join('\n')
  }
  const motion = clip.record?.motion ? describeMotion(clip.record.motion) : undefined
  const subject = [trigger, className].filter(Boolean).join(' ')
  return [
    frames === 1
      ? 'This is one frame of a short clip.'
      : `These are ${frames} frames of one short clip, evenly spaced, in order.`,
    tasks[goal],
    goal === 'motion' && motion !== undefined ? `Measured: ${motion}.` : '',
    goal === 'character' && subject !== '' ? `Call the character "${subject}".` : '',
    vision.extraPrompt ?? '',
    rules(vision.maxWords),
  ]
    .filter((line) => line !== '')
    .join('\n')
}
