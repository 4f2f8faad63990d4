import { trainJobSchema, type TrainSettings } from '@kinora/config-schema'
import { describe, expect, it } from 'vitest'
import { createRandomStreams } from '../noise/random-streams.ts'
import { drawPrompt } from '../noise/prepare-micro-batch.ts'
import { samplePrompts } from './captions.ts'

const settings = (train: object = {}): TrainSettings =>
  trainJobSchema.parse({
    job: 'extension',
    config: {
      name: 'x',
      process: [
        {
          type: 'sd_trainer',
          datasets: [{ folder_path: 'clips' }],
          model: { name_or_path: 'base', arch: 'wan22_14b_i2v' },
          train,
        },
      ],
    },
  }).config.process[0].train

const set = { trigger_word: '0rbit', is_reg: false }
/** Numbers in [0, 1), the same at each run. */
function numbers(seed = 1): () => number {
  const drawn = createRandomStreams(seed).uniforms('captionVariants', 'high', 0, 500_000)
  let at = 0
  return () => drawn[at++]!
}

describe('the prompts of a sample', () => {
  it('are the caption with its trigger, and the trigger alone where the caption is dropped', () => {
    expect(samplePrompts('a crane, [trigger]', set, settings())).toEqual({
      caption: 'a crane, 0rbit',
      dropped: '0rbit ',
    })
    expect(samplePrompts('a crane', set, settings()).caption).toBe('0rbit a crane')
    const reg = { trigger_word: '0rbit', is_reg: true }
    expect(samplePrompts('a crane', reg, settings())).toEqual({ caption: 'a crane', dropped: '' })
  })

  it('are the trigger alone with the text encoder unloaded', () => {
    const train = settings({ unload_text_encoder: true })
    expect(samplePrompts('a crane', set, train).caption).toBe('0rbit ')
  })

  it('have the class for the trigger, or nothing, in the preservation pass', () => {
    const dop = settings({
      diff_output_preservation: true,
      diff_output_preservation_class: 'camera move',
    })
    expect(samplePrompts('0rbit of a 0rbit', set, dop).preservation).toEqual({
      caption: 'camera move of a camera move',
      dropped: 'camera move ',
    })
    const blank = settings({ blank_prompt_preservation: true })
    expect(samplePrompts('x', set, blank).preservation).toEqual({ caption: '', dropped: '' })
  })
})

describe('variants of a caption', () => {
  const text = 'one, two, three, four, five'
  const vary = (dataset: object, count = 4000, train = settings()): string[] =>
    samplePrompts(text, { trigger_word: null, is_reg: false, ...dataset }, train, {
      count,
      random: numbers(),
    }).variants!.map(({ caption }) => caption)

  it('drop parts at their rate, but not the first ones', () => {
    const variants = vary({ token_dropout_rate: 0.3, keep_tokens: 2 })
    for (const word of ['one', 'two']) {
      expect(variants.every((caption) => caption.includes(word))).toBe(true)
    }
    for (const word of ['three', 'four', 'five']) {
      const kept = variants.filter((caption) => caption.includes(word)).length / variants.length
      // Five standard deviations.
      expect(Math.abs(kept - 0.7)).toBeLessThan(5 * Math.sqrt(0.21 / variants.length))
    }
    expect(variants.every((caption) => caption.startsWith('one, two'))).toBe(true)
  })

  it('shuffle all parts, each place alike', () => {
    const variants = vary({ shuffle_tokens: true })
    const first = variants.filter((caption) => caption.startsWith('five')).length / variants.length
    expect(Math.abs(first - 0.2)).toBeLessThan(5 * Math.sqrt(0.16 / variants.length))
    for (const caption of variants.slice(0, 20)) {
      expect(caption.split(', ').sort()).toEqual(text.split(', ').sort())
    }
  })

  it('put random triggers behind: one, or from none to the most', () => {
    const triggers = { random_triggers: ['red', 'green', 'blue'] }
    const one = vary(triggers)
    expect(one.every((caption) => /five, (red|green|blue)$/.test(caption))).toBe(true)
    expect(new Set(one).size).toBe(3)
    const some = vary({ ...triggers, random_triggers_max: 2 })
    const counts = some.map((caption) => caption.split(', ').length - 5)
    for (const count of [0, 1, 2]) {
      const share = counts.filter((value) => value === count).length / counts.length
      expect(Math.abs(share - 1 / 3)).toBeLessThan(5 * Math.sqrt(2 / 9 / counts.length))
    }
    expect(
      some.every((caption) => new Set(caption.split(', ')).size === caption.split(', ').length),
    ).toBe(true)
  })

  it('have the trigger and their own preservation prompt, and are none where nothing varies', () => {
    const dop = settings({ diff_output_preservation: true })
    const { variants } = samplePrompts(text, { ...set, shuffle_tokens: true }, dop, {
      count: 3,
      random: numbers(),
    })
    for (const { caption, preservation } of variants!) {
      expect(caption.startsWith('0rbit ')).toBe(true)
      expect(preservation).toBe(caption.replace('0rbit', 'person'))
    }
    const varying = { count: 3, random: numbers() }
    expect(samplePrompts(text, set, settings(), varying)).not.toHaveProperty('variants')
    const alone = settings({ unload_text_encoder: true })
    expect(
      samplePrompts(text, { ...set, shuffle_tokens: true }, alone, varying),
    ).not.toHaveProperty('variants')
  })
})

describe('drawPrompt', () => {
  const random = createRandomStreams(5)
  const numDraws = 10_000
  const drawAll = (prompts: object, caption_dropout_rate: number): string[] =>
    Array.from(
      { length: numDraws },
      (_, draw) =>
        drawPrompt(
          {
            prompts: { caption: 'c', dropped: 'd', ...prompts },
            dataset: { caption_dropout_rate },
          },
          'low',
          draw,
          random,
        ).caption,
    )
  const shareOf = (drawn: readonly string[], caption: string): number =>
    drawn.filter((value) => value === caption).length / drawn.length

  it('drops captions at the rate of the set', () => {
    expect(new Set(drawAll({}, 0))).toEqual(new Set(['c']))
    const drawn = drawAll({}, 0.05)
    expect(Math.abs(shareOf(drawn, 'd') - 0.05)).toBeLessThan(5 * Math.sqrt(0.0475 / numDraws))
    expect(shareOf(drawn, 'c') + shareOf(drawn, 'd')).toBe(1)
  })

  it('takes every variant alike, dropped ones apart', () => {
    const variants = ['p', 'q', 'r', 's'].map((caption) => ({ caption }))
    const drawn = drawAll({ variants }, 0.2)
    expect(shareOf(drawn, 'c')).toBe(0)
    expect(Math.abs(shareOf(drawn, 'd') - 0.2)).toBeLessThan(5 * Math.sqrt(0.16 / numDraws))
    for (const { caption } of variants) {
      expect(Math.abs(shareOf(drawn, caption) - 0.2)).toBeLessThan(5 * Math.sqrt(0.16 / numDraws))
    }
  })
})
