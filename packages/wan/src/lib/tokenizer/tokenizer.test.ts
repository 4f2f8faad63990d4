import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { tinyWan } from '../../../test/copied-checkpoint.ts'
import { cleanPrompt } from './clean-prompt.ts'
import { createTokenizer } from './tokenizer.ts'

const read = (url: URL | string) => JSON.parse(readFileSync(url, 'utf8')) as object
const json = read(`${tinyWan}/tokenizer/tokenizer.json`) as {
  model: object
  post_processor: object
}
const config = read(`${tinyWan}/tokenizer/tokenizer_config.json`)

describe('prompt cleaning', () => {
  it('gives what ftfy and html.unescape give', () => {
    const cases = read(new URL('../../../test/fixtures/prompts.json', import.meta.url)) as {
      text: string
      clean: string
    }[]
    expect(cases.length).toBeGreaterThan(150)
    for (const { text, clean } of cases) expect(cleanPrompt(text), JSON.stringify(text)).toBe(clean)
  })

  it('replaces half a surrogate pair and leaves whole ones', () => {
    expect(cleanPrompt('a\ud83cb 🎬')).toBe('a\ufffdb 🎬')
  })
})

describe('the tokenizer', () => {
  it('keeps the end token when it cuts', () => {
    const { encode } = createTokenizer(json, config, 5)
    const whole = encode('a red circle', { truncate: false })
    expect(whole.length).toBeGreaterThan(5)
    expect(encode('a red circle')).toEqual([...whole.slice(0, 4), 1])
    expect(encode('')).toEqual([1])
  })

  it.each([
    ['no model', { ...json, model: undefined }],
    [
      'no end token',
      {
        ...json,
        added_tokens: [],
        model: {
          ...json.model,
          vocab: [
            ['a', 0],
            ['<unk>', 0],
          ],
          unk_id: 1,
        },
      },
    ],
    ['no rule to end a text', { ...json, post_processor: null }],
  ])('refuses a file with %s', (_, broken) => {
    expect(() => createTokenizer(broken, config, 48, 'tokenizer.json')).toThrowError(
      expect.objectContaining({ code: 'CHECKPOINT_BAD_TOKENIZER' }) as Error,
    )
  })
})
