import { describe, expect, it } from 'vitest'
import { motion } from '../../test/make-dataset.ts'
import { composeCaption, hasWord, templateCaption } from './compose-caption.ts'
import { describeMotion } from './describe-motion.ts'
import { captionClipsOptions, type CaptionClipsOptions } from './options.ts'
import type { DatasetClip } from './read-dataset.ts'

function settings(options: Partial<CaptionClipsOptions>) {
  return captionClipsOptions.parse({ source: 'data', ...options })
}

function clip(measured?: Parameters<typeof motion>[0], name = 'a.mp4'): DatasetClip {
  const record = measured && ({ motion: motion(measured) } as DatasetClip['record'])
  return { file: name, name, record }
}

describe('describeMotion', () => {
  it.each([
    [{ camera: 'static' }, 'the camera is still'],
    [{ camera: 'subject', subject: 0.2 }, 'the camera is still while the subject moves'],
    [{ camera: 'orbit', parallax: 0.5 }, 'the camera orbits around the subject'],
    [{ camera: 'pan-left', panPerSecond: -0.2 }, 'the camera pans left'],
    [{ camera: 'pan-right', panPerSecond: 0.03 }, 'the camera slowly pans right'],
    [{ camera: 'tilt-up', tiltPerSecond: 0.9 }, 'the camera quickly tilts up'],
    [{ camera: 'tilt-down', tiltPerSecond: -0.2 }, 'the camera tilts down'],
    [{ camera: 'zoom-in', zoomPerSecond: 0.3 }, 'the camera moves in'],
    [{ camera: 'zoom-out', zoomPerSecond: -0.1 }, 'the camera slowly pulls back'],
    [{ camera: 'roll', rollPerSecond: 30 }, 'the camera rolls'],
    [
      { camera: 'mixed', panPerSecond: 0.3, tiltPerSecond: 0.25, zoomPerSecond: 0.4 },
      'the camera pans right, tilts up and moves in',
    ],
    [{ camera: 'mixed', panPerSecond: -0.3, tiltPerSecond: 0.01 }, 'the camera pans left'],
    [{ camera: 'mixed' }, 'the camera moves'],
  ] as const)('%j is "%s"', (measured, words) => {
    expect(describeMotion(motion(measured))).toBe(words)
  })

  it('says nothing where the measurement is not sure', () => {
    expect(describeMotion(motion({ camera: 'orbit', confidence: 0.3 }))).toBeUndefined()
  })
})

describe('templateCaption', () => {
  const panning = clip({ camera: 'pan-left', panPerSecond: -0.2 })
  it.each<[string, DatasetClip, Partial<CaptionClipsOptions>, string | undefined]>([
    ['names the measured motion', panning, { trigger: 'sks' }, 'sks, the camera pans left'],
    ['names the motion as told', panning, { motionName: 'whip pan' }, 'whip pan'],
    ['is the trigger alone where nothing was measured', clip(), { trigger: 'sks' }, 'sks'],
    ['is nothing where nothing is known', clip(), {}, undefined],
    [
      'names the look of a style, not what happens',
      panning,
      { goal: 'style', trigger: 'sks', look: 'flat pastel gouache' },
      'sks, flat pastel gouache',
    ],
    [
      'names a character by trigger and class',
      panning,
      { goal: 'character', trigger: 'sks', className: 'robot' },
      'sks robot',
    ],
    [
      'is the default caption where there is one',
      panning,
      { defaultCaption: '[trigger], [motion], at night' },
      '[trigger], the camera pans left, at night',
    ],
    [
      'leaves out the part of a default caption that has no words',
      clip(),
      { defaultCaption: '[trigger], [motion], at night' },
      '[trigger], at night',
    ],
  ])('%s', (_what, subject, options, caption) => {
    expect(templateCaption(subject, settings(options))).toBe(caption)
  })
})

describe('composeCaption', () => {
  it.each<[string, Partial<CaptionClipsOptions>, string]>([
    ['a dog runs', {}, 'a dog runs'],
    ['[trigger] runs', {}, '[trigger] runs'],
    ['[trigger] runs', { trigger: 'sks' }, 'sks runs'],
    ['[name] runs', { trigger: 'sks' }, 'sks runs'],
    ['a dog runs', { trigger: 'sks' }, 'sks, a dog runs'],
    // AI Toolkit would take the trigger inside "asks" for the trigger.
    ['he asks', { trigger: 'sks' }, 'sks, he asks'],
    ['the SKS dog', { trigger: 'sks' }, 'sks, the SKS dog'],
    ['a dog', { prefix: 'A video of', suffix: 'on grass.' }, 'A video of a dog on grass.'],
    [' a \n dog , runs\u200B ', {}, 'a dog, runs'],
    ['[trigger] runs', { trigger: '$&' }, '$& runs'],
  ])('makes %j with %j into %j', (body, options, caption) => {
    expect(composeCaption(body, clip(), settings(options))).toBe(caption)
  })

  it('shuffles tags by seed and clip, and keeps the first ones', () => {
    const tags = 'a, b, c, d, e, f'
    const shuffled = (name: string, seed: number, keepTokens = 2) =>
      composeCaption(tags, clip(undefined, name), settings({ shuffle: true, keepTokens, seed }))
    const one = shuffled('x.mp4', 1)
    expect(one).toMatch(/^a, b, /)
    expect(one.split(', ').toSorted()).toEqual(['a', 'b', 'c', 'd', 'e', 'f'])
    expect(shuffled('x.mp4', 1)).toBe(one)
    const others = [shuffled('y.mp4', 1), shuffled('x.mp4', 2), shuffled('z.mp4', 3)]
    expect(new Set([one, ...others]).size).toBeGreaterThan(1)
  })

  it('keeps the trigger first when it shuffles', () => {
    for (let seed = 0; seed < 10; seed++) {
      const options = settings({ shuffle: true, trigger: 'sks', seed })
      expect(composeCaption('a, b, c', clip(), options)).toMatch(/^sks, /)
    }
  })
})

it.each([
  ['the sks dog', 'sks', true],
  ['sks, dog', 'sks', true],
  ['sks-style', 'sks', true],
  ['asks', 'sks', false],
  ['sks2', 'sks', false],
  ['ßsks', 'sks', false],
  ['a c++ cat', 'c++', true],
])('in %j the word %j: %j', (text, word, found) => {
  expect(hasWord(text, word)).toBe(found)
})
