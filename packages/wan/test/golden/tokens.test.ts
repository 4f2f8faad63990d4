import { readFileSync } from 'node:fs'
import { createTokenizer } from '@kinora/wan'
import { expect, it } from 'vitest'
import { readGoldenJson } from './golden.ts'

// Token ids are exact: of the whole text, and padded and cut to 48 with the end token kept.

const tokenizer = new URL('../../../tiny-wan/checkpoint/tokenizer/', import.meta.url)
const read = (name: string) => JSON.parse(readFileSync(new URL(name, tokenizer), 'utf8')) as object

it('gives the ids of the reference', () => {
  const cases = readGoldenJson('tokens.json') as { text: string; ids: number[]; ids48: number[] }[]
  expect(cases.length).toBeGreaterThan(0)
  const { encode } = createTokenizer(read('tokenizer.json'), read('tokenizer_config.json'), 48)
  for (const { text, ids, ids48 } of cases) {
    expect(encode(text, { truncate: false }), text).toEqual(ids)
    const cut = encode(text)
    expect([...cut, ...Array<number>(48 - cut.length).fill(0)], text).toEqual(ids48)
  }
  process.stdout.write(`  tokens: ${cases.length} texts exact\n`)
})
