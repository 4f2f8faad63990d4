import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { motion } from '../../../test/make-dataset.ts'
import type { LintRule } from './finding.ts'
import { fixCaption, lintCaption, type LintSubject } from './lint-caption.ts'
import { loadTokenizer, type CaptionTokenizer } from './load-tokenizer.ts'
import { lookWords } from './look-words.ts'
import { nearIdentical } from './near-identical.ts'

const tinyTokenizer = join(
  import.meta.dirname,
  '../../../../tiny-wan/checkpoint/tokenizer/tokenizer.json',
)

interface Case {
  options?: Partial<Parameters<typeof lintCaption>[1]>
  subject?: Partial<LintSubject>
  measured?: Parameters<typeof motion>[0]
  name?: string
  tokenizer?: CaptionTokenizer
}

function lint(
  text: string | null,
  { options, subject, measured, name = 'a.mp4', tokenizer }: Case = {},
) {
  const record = measured && ({ motion: motion(measured) } as LintSubject['clip']['record'])
  return lintCaption(
    {
      clip: { file: name, name, record },
      file: 'a.txt',
      text,
      hasDraft: false,
      flips: { x: false, y: false },
      ...subject,
    },
    { goal: 'motion', trigger: undefined, textLength: 512, allow: [], ...options },
    tokenizer,
  )
}
const rules = (text: string | null, given?: Case) => lint(text, given).map(({ rule }) => rule)

describe('each rule finds its fault, and nothing else', () => {
  const trigger = { options: { trigger: 'sks' } }
  it.each<[LintRule[], string | null, Case]>([
    [[], 'sks, a dog runs', trigger],
    [[], '[trigger], a dog runs', trigger],
    [['missing-caption'], null, trigger],
    [['empty'], ' \n', trigger],
    [['untidy'], 'a dog  runs', {}],
    [['untidy'], '\uFEFFa dog runs', {}],
    [['untidy'], 'a dog\nruns', {}],
    [[], 'a dog runs\n', {}],
    [[], 'a dog runs\r\n', {}],
    [['missing-trigger'], 'a dog runs', trigger],
    [['missing-trigger'], 'SKS, a dog runs', trigger],
    [['trigger-inside-word'], 'he asks a dog', trigger],
    [[], 'sks, he asks a dog', trigger],
    [['unfilled-placeholder'], 'a dog, [motion]', {}],
    [['look-in-motion-caption'], 'a cinematic shot of a dog', {}],
    [[], 'a cinematic shot of a dog', { options: { goal: 'style' } }],
    [[], 'a cinematic shot of a dog', { options: { allow: ['Cinematic'] } }],
    [['motion-mismatch'], 'the camera orbits the dog', { measured: {} }],
    [[], 'the camera orbits the dog', {}],
    [[], 'the camera orbits the dog', { measured: { camera: 'orbit' } }],
    [['motion-mismatch'], 'a dog', { measured: {}, name: 'clips/orbit-03.mp4' }],
    [['left-right-with-flip'], 'the dog runs left', { subject: { flips: { x: true, y: false } } }],
    [
      ['left-right-with-flip'],
      'on the right-hand side',
      { subject: { flips: { x: true, y: true } } },
    ],
    [[], 'the dog runs left', { subject: { flips: { x: false, y: true } } }],
    [[], 'a bright dog leaves', { subject: { flips: { x: true, y: false } } }],
    [['up-down-with-flip'], 'the dog jumps upwards', { subject: { flips: { x: false, y: true } } }],
    [['dropped-characters'], 'a dog runs 🐕', {}],
    [['dropped-characters'], 'a dog \u202Eruns', {}],
    [[], 'ein Hund läuft über die Straße, naïve café №5 #1', {}],
    [[], '一只狗在跑', {}],
    [['too-long'], 'dog '.repeat(400).trim(), {}],
    [[], 'dog '.repeat(380).trim(), {}],
  ])('%j in %j', (expected, text, given) => {
    expect(rules(text, given)).toEqual(expected)
  })

  it('tells an orbit that is none in words a person understands', () => {
    const [caption] = lint('the camera orbits the dog', { measured: {} })
    expect(caption!.message).toBe(
      'The caption says orbit but nothing turns (measured: the camera is still).',
    )
    const [name] = lint('a dog', { measured: {}, name: 'clips/orbit-03.mp4' })
    expect(name!.message).toBe(
      'This clip is called orbit (orbit-03) but nothing turns (measured: the camera is still).',
    )
  })

  it('points at a draft that is waiting', () => {
    const [finding] = lint(null, { subject: { hasDraft: true } })
    expect(finding!.fix).toMatch(/captioner accept/)
  })
})

describe('with the tokenizer of the checkpoint', () => {
  it('counts its tokens, the end token included', async () => {
    const tokenizer = await loadTokenizer(tinyTokenizer)
    const text = 'a red circle moves'
    const length = tokenizer.encode(text).length
    expect(tokenizer.encode('').length).toBe(1)
    expect(rules(text, { tokenizer, options: { textLength: length } })).toEqual([])
    expect(rules(text, { tokenizer, options: { textLength: length - 1 } })).toEqual(['too-long'])
  })

  it('neither cuts nor pads, whatever tokenizer.json says', async () => {
    const tokenizer = await loadTokenizer(tinyTokenizer)
    const once = tokenizer.encode('a red circle').length - 1
    expect(tokenizer.encode('a red circle '.repeat(40).trim()).length).toBe(40 * once + 1)
  })

  it('finds the very characters that it drops', async () => {
    const tokenizer = await loadTokenizer(tinyTokenizer)
    expect(tokenizer.droppedCharacters('a red circle')).toEqual([])
    expect(tokenizer.droppedCharacters('a réd ☂ circle\u200D ☂')).toEqual(
      expect.arrayContaining(['☂', '\u200D']),
    )
    const [finding] = lint('a red ☂', { tokenizer })
    expect(finding).toMatchObject({
      rule: 'dropped-characters',
      message: 'The tokenizer drops "☂" (U+2602).',
    })
  })

  it.each([
    ['package.json', 'it has no model'],
    ['README.md', 'JSON'],
  ])('refuses %s', async (file, problem) => {
    const loading = loadTokenizer(join(import.meta.dirname, '../../../../tiny-wan', file))
    await expect(loading).rejects.toMatchObject({
      code: 'CAPTIONER_BAD_TOKENIZER',
      message: expect.stringContaining(problem),
    })
  })
})

describe('fixCaption', () => {
  it.each([
    ['  a dog \n runs ', undefined, 'a dog runs'],
    ['a dog', 'sks', 'sks, a dog'],
    ['he asks', 'sks', 'sks, he asks'],
    ['[trigger] runs', 'sks', '[trigger] runs'],
    ['the sks dog', 'sks', 'the sks dog'],
    [' ', 'sks', ''],
  ])('makes %j with trigger %j into %j', (text, trigger, fixed) => {
    expect(fixCaption(text, trigger)).toBe(fixed)
    expect(fixCaption(fixed, trigger)).toBe(fixed)
  })

  it('leaves nothing that it could mend', () => {
    for (const text of ['  a dog \n runs ', 'he asks', 'SKS dog']) {
      const again = lint(fixCaption(text, 'sks'), { options: { trigger: 'sks' } })
      expect(again).toEqual([])
    }
  })
})

it.each([
  ['A cinematic, vibrant shot in soft light', ['cinematic', 'vibrant', 'soft light']],
  ['black and white film grain, 35mm', ['black and white', 'film grain', '35mm']],
  ['a dog runs to a light house', []],
  ['a warm coat in a dark room', []],
  ['she paints a watercolor', ['watercolor']],
])('in %j the look is %j', (caption, looks) => {
  expect(lookWords(caption)).toEqual(looks)
})

describe('nearIdentical', () => {
  const captions = new Map([
    ['a', 'sks, a dog runs over the green grass in the park today'],
    ['b', 'a cat sleeps'],
    ['c', 'A dog runs over the green grass in the park, today!'],
    ['d', 'a dog runs over the green grass in the park tonight'],
    ['e', 'a cat sleeps'],
    ['f', 'sks'],
  ])
  it('groups captions by their words, whatever the case, marks and trigger', () => {
    expect(nearIdentical(captions, 0.9, ['sks'])).toEqual([
      ['a', 'c'],
      ['b', 'e'],
    ])
    expect(nearIdentical(captions, 0.8, ['sks'])).toEqual([
      ['a', 'c', 'd'],
      ['b', 'e'],
    ])
  })

  it('copes with thousands of captions of one template', () => {
    const many = new Map(
      Array.from({ length: 5000 }, (_, i) => [`${i}`, 'sks, the camera pans left']),
    )
    expect(nearIdentical(many, 0.9)[0]).toHaveLength(5000)
  })
})
