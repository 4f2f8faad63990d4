import { expect, it } from 'vitest'
import { createRandomStreams } from '../noise/random-streams.ts'
import { createBatches } from './batches.ts'
import type { Sample } from './dataset.ts'

const sample = (name: string, bucketIndex: number, dataset: number, batchSize: number): Sample =>
  ({ clip: name, bucketIndex, item: { dataset }, bucket: { batchSize } }) as unknown as Sample

const samples = [
  ...['a', 'b', 'c', 'd', 'e'].map((name) => sample(name, 0, 0, 2)),
  ...['f', 'g'].map((name) => sample(name, 0, 1, 2)),
  ...['h', 'i', 'j'].map((name) => sample(name, 1, 0, 1)),
]

it('takes every sample once an epoch, never mixes buckets or sets, and shuffles anew', () => {
  const batches = createBatches(samples, createRandomStreams(3), 'clipOrder')
  expect(batches.batchesPerEpoch).toBe(3 + 1 + 3)
  expect(batches.largestBatch).toBe(2)
  const epochs = [0, 1, 2].map((epoch) =>
    Array.from({ length: 7 }, (_, i) => batches.at('high', epoch * 7 + i)),
  )
  for (const epoch of epochs) {
    expect(
      epoch
        .flat()
        .map(({ clip }) => clip)
        .sort()
        .join(''),
    ).toBe('abcdefghij')
    for (const batch of epoch) {
      expect(
        new Set(batch.map(({ bucketIndex, item }) => `${bucketIndex} ${item.dataset}`)).size,
      ).toBe(1)
    }
  }
  const orders = epochs.map((epoch) =>
    epoch
      .flat()
      .map(({ clip }) => clip)
      .join(''),
  )
  expect(new Set(orders).size).toBe(3)
  // Any batch may be asked for at any time: the order is a function of its number.
  expect(batches.at('high', 0)).toEqual(epochs[0]![0])
  expect(batches.at('high', 16)).toEqual(epochs[2]![2])
})
