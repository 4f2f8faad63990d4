import type { Expert, RandomStreams } from '../noise/random-streams.ts'
import type { Sample } from './dataset.ts'

// Which samples a micro-batch holds. Every epoch shuffles the samples of each bucket, cuts them into batches, and shuffles the
// batches of all buckets; a batch holds one bucket and one dataset. The order depends on (seed, expert, epoch) only.

export interface Batches {
  readonly batchesPerEpoch: number
  /** Most samples a batch may have. */
  readonly largestBatch: number
  /**
   * The samples of an expert's micro-batch.
   *
   * @param index counts the expert's micro-batches of this kind from 0, through all epochs
   */
  at(expert: Expert, index: number): readonly Sample[]
}

export function createBatches(
  samples: readonly Sample[],
  random: RandomStreams,
  purpose: 'clipOrder' | 'regularisationOrder',
): Batches {
  const groups = new Map<string, Sample[]>()
  for (const sample of samples) {
    const key = `${sample.bucketIndex} ${sample.item.dataset}`
    const group = groups.get(key)
    if (group) group.push(sample)
    else groups.set(key, [sample])
  }
  const lists = [...groups.values()]
  const sizeOf = (group: readonly Sample[]): number =>
    Math.min(group[0]!.bucket.batchSize, group.length)
  const batchesPerEpoch = lists.reduce(
    (sum, group) => sum + Math.ceil(group.length / sizeOf(group)),
    0,
  )

  function epochOf(expert: Expert, epoch: number): (readonly Sample[])[] {
    const stream = epoch * (lists.length + 1)
    const batches = lists.flatMap((group, g) => {
      const order = random.permutation(purpose, expert, stream + g, group.length)
      const shuffled = Array.from(order, (i) => group[i]!)
      const size = sizeOf(group)
      return Array.from({ length: Math.ceil(group.length / size) }, (_, i) =>
        shuffled.slice(i * size, (i + 1) * size),
      )
    })
    const order = random.permutation(purpose, expert, stream + lists.length, batches.length)
    return Array.from(order, (i) => batches[i]!)
  }

  const newest = new Map<Expert, { epoch: number; batches: (readonly Sample[])[] }>()
  return {
    batchesPerEpoch,
    largestBatch: Math.max(0, ...lists.map(sizeOf)),
    at(expert, index) {
      const epoch = Math.floor(index / batchesPerEpoch)
      let entry = newest.get(expert)
      if (entry?.epoch !== epoch) {
        entry = { epoch, batches: epochOf(expert, epoch) }
        newest.set(expert, entry)
      }
      return entry.batches[index % batchesPerEpoch]!
    },
  }
}
