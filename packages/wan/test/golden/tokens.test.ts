import { readFileSync } from 'node:fs'
import { createTokenizer } from '@kinora/wan'
import { expect, it } from 'vitest'
import { goldenCheckpoint, readGoldenJson } from './golden.ts'

// Token ids are exact: of the whole text, and padded with 0 and cut to a length, the end token kept.

const read = (name: string) =>
  JSON.parse(readFileSync(`${goldenCheckpoint}/tokenizer/${name}`, 'utf8')) as object

it('gives the ids of the reference', () => {
  const cases = readGoldenJson('tokens.json') as ({ text: string; ids: number[] } & {
    [cut: `ids${number}`]: number[]
  })[]
  expect(cases.length).toBeGreaterThan(0)
  for (const { text, ids, ...cuts } of cases) {
    for (const [key, expected] of Object.entries(cuts)) {
      const length = Number(key.slice('ids'.length))
      expect(length, key).toBeGreaterThan(1)
      const { encode } = createTokenizer(
        read('tokenizer.json'),
        read('tokenizer_config.json'),
        length,
      )
      expect(encode(text, { truncate: false }), text).toEqual(ids)
      const cut = encode(text)
      expect([...cut, ...Array<number>(length - cut.length).fill(0)], text).toEqual(expected)
    }
  }
  process.stdout.write(`  tokens: ${cases.length} texts exact\n`)
})
