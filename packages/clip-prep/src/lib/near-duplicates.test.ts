import { describe, expect, it } from 'vitest'
import { groupNearDuplicates, hashPicture } from './near-duplicates.ts'

const width = 96
const height = 54

function picture(seed: number, change: (value: number, x: number, y: number) => number) {
  return Float32Array.from({ length: width * height }, (_, at) => {
    const x = at % width
    const y = Math.floor(at / width)
    const value =
      128 +
      50 * Math.sin(0.11 * x * (1 + (seed % 3)) + seed) +
      40 * Math.cos(0.17 * y * (1 + (seed % 2)) - seed) +
      20 * Math.sin(0.05 * x * y * (0.1 + 0.02 * seed))
    return change(value, x, y)
  })
}

const hash = (seed: number, change: (value: number, x: number, y: number) => number = (v) => v) =>
  hashPicture(picture(seed, change), width, height)

describe('near-duplicates', () => {
  it('hashes a picture alike when it is brighter, flatter or noisy', () => {
    const clips = [
      { id: 'plain', hashes: [hash(1)], quality: 3 },
      { id: 'bright', hashes: [hash(1, (v) => v + 25)], quality: 1 },
      { id: 'flat', hashes: [hash(1, (v) => 0.6 * v + 40)], quality: 2 },
      {
        id: 'noisy',
        hashes: [hash(1, (v, x, y) => v + ((x * 7 + y * 13) % 5) - 2)],
        quality: 0,
      },
      { id: 'other', hashes: [hash(2)], quality: 9 },
    ]
    expect(groupNearDuplicates(clips)).toEqual([['plain', 'flat', 'bright', 'noisy']])
  })

  it('joins what is alike by way of a third', () => {
    const digits = (count: number) => 'f'.repeat(count) + '0'.repeat(16 - count)
    const groups = groupNearDuplicates([
      { id: 'a', hashes: [digits(0)], quality: 1 },
      { id: 'c', hashes: [digits(4)], quality: 3 },
      { id: 'b', hashes: [digits(2)], quality: 2 },
    ])
    expect(groups).toEqual([['c', 'b', 'a']])
  })

  it('wants every picture of the shorter clip in the longer one', () => {
    const [one, two, three] = [hash(1), hash(2), hash(3)] as const
    expect(
      groupNearDuplicates([
        { id: 'whole', hashes: [one, two, three], quality: 1 },
        { id: 'part', hashes: [two, three], quality: 1 },
        { id: 'begins alike', hashes: [one, hash(5), hash(7), hash(8)], quality: 1 },
      ]),
    ).toEqual([['part', 'whole']])
  })
})
