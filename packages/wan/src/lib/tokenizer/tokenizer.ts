import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import { checkpointErrors } from '../errors.ts'
import { cleanPrompt } from './clean-prompt.ts'

/** Text to the ids that the text encoder reads. */
export interface WanTokenizer {
  /** Most tokens of a text, the end token counted. */
  readonly textLength: number
  /**
   * Token ids of a text as it stands, the end token last. A longer text than `textLength` is cut so that the end token stays,
   * unless `truncate` is false.
   */
  encode(text: string, options?: { truncate?: boolean }): number[]
  /** A prompt as the reference pipeline cleans it before tokenising. */
  cleanPrompt(text: string): string
}

/**
 * @param tokenizerJson parsed `tokenizer.json`
 * @param tokenizerConfig parsed `tokenizer_config.json`
 * @param textLength most tokens of a text
 * @param file name for errors
 */
export function createTokenizer(
  tokenizerJson: object,
  tokenizerConfig: object,
  textLength: number,
  file = 'tokenizer/tokenizer.json',
): WanTokenizer {
  let tokenizer: HuggingFaceTokenizer
  try {
    tokenizer = new HuggingFaceTokenizer(tokenizerJson, tokenizerConfig)
  } catch (cause) {
    throw checkpointErrors.BAD_TOKENIZER(file, (cause as Error).message, { cause })
  }
  const end = tokenizer.token_to_id('</s>')
  if (end === undefined) throw checkpointErrors.BAD_TOKENIZER(file, 'it has no token </s>')
  const encode = (text: string) => tokenizer.encode(text).ids
  if (encode('a').at(-1) !== end) {
    throw checkpointErrors.BAD_TOKENIZER(file, 'it does not end a text with </s>')
  }
  return {
    textLength,
    encode(text, { truncate = true } = {}) {
      const ids = encode(text)
      if (!truncate || ids.length <= textLength) return ids
      return [...ids.slice(0, textLength - 1), end]
    },
    cleanPrompt,
  }
}
