import { Tokenizer } from '@huggingface/tokenizers'
import { codeSystemError } from '@kinora/stage'
import { readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { captionerErrors } from '../errors.ts'

/** What lint asks of a tokenizer. */
export interface CaptionTokenizer {
  /** Token ids of a text with the ones that the model adds (such as the end token): what counts against the text length. */
  encode(text: string): readonly number[]
  /** Characters of a text that leave no trace in its tokens, each once. */
  droppedCharacters(text: string): string[]
}

/** Reads a tokenizer.json, with the tokenizer_config.json beside it where there is one. */
export async function loadTokenizer(file: string): Promise<CaptionTokenizer> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    throw codeSystemError(error, file)
  }
  try {
    const json = JSON.parse(text) as { model?: { unk_id?: number; unk_token?: string } }
    if (!json.model) throw new Error('it has no model.')
    const config = await readFile(join(dirname(file), 'tokenizer_config.json'), 'utf8')
      .then((configText) => JSON.parse(configText) as object)
      .catch(() => ({}))
    const tokenizer = new Tokenizer(json, config)
    const { unk_id: unkId, unk_token: unkToken } = json.model
    const unknown = unkId ?? (unkToken === undefined ? undefined : tokenizer.token_to_id(unkToken))
    return wrap(tokenizer, unknown)
  } catch (cause) {
    throw captionerErrors.BAD_TOKENIZER(file, (cause as Error).message, { cause })
  }
}

function wrap(tokenizer: Tokenizer, unknown: number | undefined): CaptionTokenizer {
  const bare = (text: string): readonly number[] =>
    tokenizer.encode(text, { add_special_tokens: false }).ids
  const known = new Map<string, boolean>()
  // Between two letters, so that the mark of a word’s beginning does not count as a trace of the character.
  const around = bare('aa').join()
  const isDropped = (character: string): boolean => {
    const ids = bare(`a${character}a`)
    return (unknown !== undefined && ids.includes(unknown)) || ids.join() === around
  }
  return {
    encode: (text) => tokenizer.encode(text).ids,
    droppedCharacters(text) {
      return [...new Set(text)].filter((character) => {
        if (/\s/.test(character)) return false
        const before = known.get(character) ?? isDropped(character)
        known.set(character, before)
        return before
      })
    },
  }
}
