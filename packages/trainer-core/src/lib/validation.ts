import type { Device } from '@kinora/kernel-api'
import type { ModuleAdapter, WanTransformer } from '@kinora/wan'
import { predictVelocity } from './train-step.ts'
import type { Sample } from './data/dataset.ts'
import { sizeName } from './estimate/training-setup.ts'
import type { MicroBatches } from './noise/prepare-micro-batch.ts'
import type { Expert } from './noise/random-streams.ts'

// The loss on clips that training never sees, at fixed timesteps with fixed noise, so that one step's figure can be compared with
// another's.

/** Clips measured at most: more would cost training time without telling more. */
const maxSamples = 16

/** An expert's loss on held-out clips. */
export interface ValidationLoss {
  /** Mean over the bands. */
  loss: number
  /** By equal parts of the expert's timesteps, from the noisy end. */
  bands: { from: number; to: number; loss: number }[]
}

/** Equal parts of an expert's timesteps, from the noisy end: lowest, highest. */
export function timestepBands(
  expert: Expert,
  boundary: number,
  numBands: number,
): { from: number; to: number }[] {
  const [least, most] = expert === 'high' ? [1000 * boundary, 1000] : [0, 1000 * boundary]
  const edge = (i: number): number => most - ((most - least) * i) / numBands
  return Array.from({ length: numBands }, (_, i) => ({ from: edge(i + 1), to: edge(i) }))
}

/** Mean squared error over held-out clips at the middle of each band of an expert's timesteps. */
export async function measureValidation(
  device: Device,
  transformer: WanTransformer,
  expert: Expert,
  adapters: ReadonlyMap<string, readonly ModuleAdapter[]>,
  samples: readonly Sample[],
  microBatches: MicroBatches,
  {
    boundary,
    numBands,
    makeRoom,
  }: {
    boundary: number
    numBands: number
    /** Called before each clip with the size of its latents: frames × rows × columns. */
    makeRoom: (size: string) => Promise<void>
  },
): Promise<ValidationLoss> {
  const measured = samples.slice(0, maxSamples)
  const ranges = timestepBands(expert, boundary, numBands)
  const sums = ranges.map(() => 0)
  // Clip by clip: those of another size need other buffers.
  for (const [i, sample] of measured.entries()) {
    for (const [band, { from, to }] of ranges.entries()) {
      const batch = await microBatches.prepareFixed(
        expert,
        sample,
        (from + to) / 2,
        i * numBands + band,
      )
      if (band === 0) await makeRoom(sizeName(batch.shape.slice(2)))
      const loss = device.scope(() => {
        const { prediction, target, mask } = predictVelocity(device, transformer, batch, adapters)
        return device.ops.loss(prediction, target, { kind: 'mse', mask })
      })
      try {
        sums[band]! += ((await device.read(loss)) as Float32Array)[0]!
      } finally {
        device.release(loss)
      }
    }
  }
  const bands = ranges.map((range, band) => ({ ...range, loss: sums[band]! / measured.length }))
  return { loss: bands.reduce((sum, { loss }) => sum + loss, 0) / numBands, bands }
}

/** What a series of validation losses says, in plain language. */
export function judgeValidation(
  expert: Expert,
  history: readonly { step: number; loss: number }[],
): string | undefined {
  if (history.length < 3) return undefined
  const last = history.at(-1)!
  const first = history[0]!
  const best = history.reduce((a, b) => (b.loss < a.loss ? b : a))
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`
  const name = `The ${expert}-noise expert`
  const gained = 1 - best.loss / first.loss
  if (best === first || gained < 0.005) {
    return `${name} learned nothing that held-out clips show: its loss on them did not fall below that of step ${first.step}.`
  }
  if (last.loss > best.loss * 1.01) {
    return `${name} overfits since step ${best.step}: its loss on held-out clips is ${percent(last.loss / best.loss - 1)} above the best. Use the best checkpoint, more clips or fewer steps.`
  }
  const earlier = history[Math.floor((history.length * 2) / 3) - 1]!
  const recent = 1 - last.loss / earlier.loss
  return recent > 0.01
    ? `${name} is still improving: ${percent(recent)} since step ${earlier.step}, ${percent(gained)} in all. More steps would help.`
    : `${name} is flat: ${percent(gained)} better than at step ${first.step}, and no better since step ${earlier.step}.`
}
