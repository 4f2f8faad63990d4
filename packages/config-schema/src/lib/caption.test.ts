import { describe, expect, it } from 'vitest'
import { captionFile, resolveCaption, shuffleTags } from './caption.ts'

it.each([
  ['clips/a.mp4', '.txt', 'clips/a.txt'],
  ['take.1/clip', '.txt', 'take.1/clip.txt'],
  ['take.1/a.b.webm', '.caption', 'take.1/a.b.caption'],
  ['clips\\a.mp4', '.txt', 'clips\\a.txt'],
])('the caption of %s with %s is %s', (clip, extension, file) => {
  expect(captionFile(clip, extension)).toBe(file)
})

describe('resolveCaption', () => {
  it.each([
    ['a dog runs', undefined, 'a dog runs'],
    ['a dog,runs,  fast', undefined, 'a dog, runs, fast'],
    ['[trigger], a dog', 'sks', 'sks, a dog'],
    ['[name] runs', 'sks', 'sks runs'],
    ['[trigger] a dog', undefined, ' a dog'],
    ['a dog', 'sks', 'sks a dog'],
    ['the sks dog', 'sks', 'the sks dog'],
    ['a dog asks', 'sks', 'a dog asks'],
    ['', 'sks', 'sks '],
    ['[trigger]', '$&', '$&'],
  ])('%j with trigger %j is %j', (caption, trigger, resolved) => {
    expect(resolveCaption(caption, { trigger })).toBe(resolved)
  })

  it('puts no trigger before the captions of a regularisation set, and still replaces the placeholder', () => {
    expect(resolveCaption('a dog', { trigger: 'sks', regularisation: true })).toBe('a dog')
    expect(resolveCaption('[trigger] dog', { trigger: 'sks', regularisation: true })).toBe(
      'sks dog',
    )
  })
})

describe('shuffleTags', () => {
  it('keeps the first tags and loses none', () => {
    let state = 1
    const random = () => (state = (state * 16807) % 2147483647) / 2147483647
    const orders = new Set<string>()
    for (let round = 0; round < 200; round++) {
      const tags = shuffleTags('sks, a, b, c', { keepTokens: 1, random }).split(', ')
      expect(tags[0]).toBe('sks')
      expect(tags.toSorted()).toEqual(['a', 'b', 'c', 'sks'])
      orders.add(tags.join())
    }
    expect(orders.size).toBe(6)
  })
})
