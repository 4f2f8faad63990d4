import { readFile } from 'node:fs/promises'
import {
  captionFile,
  captionTags,
  resolveCaption,
  shuffleTags,
  type TrainDataset,
  type TrainSettings,
} from '@kinora/config-schema'
import { codeSystemError } from '@kinora/stage'

// From a caption file to the texts that training may ask for. Everything that can be drawn for an item is a text known
// beforehand, so that the text encoder need never be on the device while training.

/** A prompt, and what stands in its place when the caption is dropped. */
export interface PromptPair {
  caption: string
  dropped: string
}

/** The prompts of one sample. */
export interface SamplePrompts extends PromptPair {
  /** Those of the preservation pass that belong to the two, where the job has one. */
  preservation?: PromptPair
  /** What the caption is drawn from while training, where its set varies captions. */
  variants?: readonly PromptVariant[]
}

/** A caption with parts dropped, shuffled or added, and its prompt in the preservation pass. */
export interface PromptVariant {
  caption: string
  preservation?: string
}

type CaptionSettings = Pick<TrainDataset, 'trigger_word' | 'is_reg'> &
  Partial<
    Pick<
      TrainDataset,
      | 'token_dropout_rate'
      | 'keep_tokens'
      | 'shuffle_tokens'
      | 'random_triggers'
      | 'random_triggers_max'
    >
  >

/**
 * All prompts of a sample from the text of its caption file.
 *
 * @param varying where the set varies captions: how many variants, and numbers in [0, 1) to draw them with
 */
export function samplePrompts(
  text: string,
  dataset: CaptionSettings,
  train: TrainSettings,
  varying?: { count: number; random: () => number },
): SamplePrompts {
  const trigger = dataset.trigger_word
  const resolved = (caption: string): string =>
    resolveCaption(caption, { trigger, regularisation: dataset.is_reg })
  const dropped = dataset.is_reg ? '' : resolveCaption('', { trigger })
  const caption = train.unload_text_encoder ? dropped : resolved(text)
  const preservationOf = preservationPrompt(trigger, train)
  const prompts = {
    caption,
    dropped,
    ...(preservationOf
      ? { preservation: { caption: preservationOf(caption), dropped: preservationOf(dropped) } }
      : {}),
  }
  if (!varying || train.unload_text_encoder || !variesCaptions(dataset)) return prompts
  const variants = Array.from({ length: varying.count }, (): PromptVariant => {
    const own = resolved(varyCaption(text, dataset, varying.random))
    return { caption: own, ...(preservationOf ? { preservation: preservationOf(own) } : {}) }
  })
  return { ...prompts, variants }
}

/** From a prompt to that of the preservation pass, where the job has one. */
function preservationPrompt(
  trigger: string | null,
  train: TrainSettings,
): ((prompt: string) => string) | undefined {
  if (train.blank_prompt_preservation) return () => ''
  if (!train.diff_output_preservation) return undefined
  return (prompt) =>
    trigger === null
      ? prompt
      : prompt.replaceAll(trigger, () => train.diff_output_preservation_class)
}

/** Whether a set draws its captions anew. */
export function variesCaptions({
  token_dropout_rate = 0,
  shuffle_tokens = false,
  random_triggers = [],
}: Partial<CaptionSettings>): boolean {
  return token_dropout_rate > 0 || shuffle_tokens || random_triggers.length > 0
}

/**
 * One variant of a caption: parts after the first `keep_tokens` dropped, all shuffled, random triggers put behind. As in AI Toolkit,
 * keep_tokens does not keep a part from being shuffled, and with a maximum above 1 the number of triggers is drawn from 0.
 */
function varyCaption(
  text: string,
  {
    token_dropout_rate = 0,
    keep_tokens = 0,
    shuffle_tokens = false,
    random_triggers = [],
    random_triggers_max = 1,
  }: CaptionSettings,
  random: () => number,
): string {
  const kept = captionTags(text).filter(
    (_, i) => token_dropout_rate === 0 || i < keep_tokens || random() >= token_dropout_rate,
  )
  const parts = shuffle_tokens ? captionTags(shuffleTags(kept.join(', '), { random })) : kept
  const most = Math.min(random_triggers_max, random_triggers.length)
  const count = most > 1 ? Math.floor(random() * (most + 1)) : most
  const triggers = captionTags(shuffleTags(random_triggers.join(', '), { random })).slice(0, count)
  return [...parts, ...triggers].filter((part) => part !== '').join(', ')
}

/** Reads the caption beside a clip; the set's default where it is missing or blank. */
export async function readCaption(
  clip: string,
  { caption_ext, default_caption }: Pick<TrainDataset, 'caption_ext' | 'default_caption'>,
): Promise<string> {
  const file = captionFile(clip, caption_ext)
  let text = ''
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw codeSystemError(error, file)
  }
  return text.trim() === '' ? (default_caption ?? '') : text.trim()
}
