import { trainJobSchema, type TrainProcess } from '@kinora/config-schema'
import { describe, expect, it } from 'vitest'
import { createRandomStreams } from './noise/random-streams.ts'
import { createDropout } from './step-settings.ts'
import type { TrainedLora } from './lora-adapters.ts'

function processWith(network: object, train: object = {}): TrainProcess {
  return trainJobSchema.parse({
    job: 'extension',
    config: {
      name: 'x',
      process: [
        {
          type: 'sd_trainer',
          datasets: [{ folder_path: 'clips' }],
          model: { name_or_path: 'base', arch: 'wan22_14b_i2v' },
          network,
          train,
        },
      ],
    },
  }).config.process[0]
}

const rank = 16
const numModules = 50
const learner = {
  expert: 'low' as const,
  lora: {
    options: { rank, scale: 1 },
    targets: Array(numModules).fill({}),
  } as Partial<TrainedLora> as TrainedLora,
}
const random = createRandomStreams(7)

describe('createDropout', () => {
  const dropoutAt = (network: object, step: number) =>
    createDropout(processWith(network), random, learner, step)

  it('is nothing where nothing is dropped', () => {
    expect(dropoutAt({}, 0)).toBeUndefined()
    expect(dropoutAt({ dropout: 0, network_kwargs: { rank_dropout: 0 } }, 0)).toBeUndefined()
  })

  it('drops ranks and modules at their rates, and makes up for the ranks', () => {
    const network = { network_kwargs: { rank_dropout: 0.25, module_dropout: 0.1 } }
    let [droppedRanks, droppedModules, sum] = [0, 0, 0]
    const numSteps = 200
    for (let step = 0; step < numSteps; step++) {
      const { module, ranks } = dropoutAt(network, step)!(0)
      for (let m = 0; m < numModules; m++) {
        if (module(m) === false) droppedModules++
        for (const factor of ranks!(m)) {
          sum += factor
          if (factor === 0) droppedRanks++
          else expect(factor).toBeCloseTo(4 / 3, 6)
        }
      }
    }
    const numDrawn = numSteps * numModules
    // Five standard deviations of a binomial share.
    const margin = (p: number, n: number): number => 5 * Math.sqrt((p * (1 - p)) / n)
    expect(Math.abs(droppedModules / numDrawn - 0.1)).toBeLessThan(margin(0.1, numDrawn))
    const numRanks = numDrawn * rank
    expect(Math.abs(droppedRanks / numRanks - 0.25)).toBeLessThan(margin(0.25, numRanks))
    expect(Math.abs(sum / numRanks - 1)).toBeLessThan(0.01)
  })

  it('drops other elements of every module, micro-batch and step, and the same ones again', () => {
    const streams = new Set<number>()
    for (const step of [0, 1]) {
      const process = processWith({ dropout: 0.3 }, { gradient_accumulation: 2 })
      for (const microBatch of [0, 1]) {
        for (const again of [false, true]) {
          const { module, ranks } = createDropout(process, random, learner, step)!(microBatch)
          expect(ranks).toBeUndefined()
          for (let m = 0; m < numModules; m++) {
            const dropped = module(m)
            expect(dropped).toMatchObject({ elements: { probability: 0.3, seed: 7 } })
            const { stream } = (dropped as { elements: { stream: number } }).elements
            expect(streams.has(stream)).toBe(again)
            streams.add(stream)
          }
        }
      }
    }
    expect(streams.size).toBe(2 * 2 * numModules)
  })
})
