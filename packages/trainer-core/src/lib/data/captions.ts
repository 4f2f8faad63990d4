import { readFile } from 'node:fs/promises'
import {
  captionFile,
  resolveCaption,
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
}

/** All prompts of a sample from the text of its caption file. */
export function samplePrompts(
  text: string,
  dataset: Pick<TrainDataset, 'trigger_word' | 'is_reg'>,
  train: TrainSettings,
): SamplePrompts {
  const trigger = dataset.trigger_word
  const dropped = dataset.is_reg ? '' : resolveCaption('', { trigger })
  const caption = train.unload_text_encoder
    ? dropped
    : resolveCaption(text, { trigger, regularisation: dataset.is_reg })
  if (train.diff_output_preservation) {
    const withClass = (prompt: string): string =>
      trigger === null
        ? prompt
        : prompt.replaceAll(trigger, () => train.diff_output_preservation_class)
    const preservation = { caption: withClass(caption), dropped: withClass(dropped) }
    return { caption, dropped, preservation }
  }
  if (train.blank_prompt_preservation) {
    return { caption, dropped, preservation: { caption: '', dropped: '' } }
  }
  return { caption, dropped }
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
