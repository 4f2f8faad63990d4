import type { MetricsEntry } from '@kinora/config-schema'

/**
 * The scalars that TensorBoard shows of a metrics entry, by tag. Losses and norms have a curve an expert, since those of the two
 * experts are of different size and would look like one jumping curve.
 */
export function scalarsOf(entry: MetricsEntry): Record<string, number> {
  switch (entry.type) {
    case 'step': {
      const { expert, seconds, memory } = entry
      const [first] = entry.timesteps
      return {
        [`loss/${expert}_noise`]: entry.loss,
        ...(entry.unweightedLoss === undefined
          ? {}
          : { [`loss_unweighted/${expert}_noise`]: entry.unweightedLoss }),
        ...(entry.preservationLoss === undefined
          ? {}
          : { [`loss_preservation/${expert}_noise`]: entry.preservationLoss }),
        [`grad_norm/${expert}_noise`]: entry.gradNorm,
        learning_rate: entry.learningRate,
        ...(first === undefined ? {} : { [`timestep/${expert}_noise`]: mean(entry.timesteps) }),
        [`loss_scale/${expert}_noise`]: entry.lossScale,
        ...Object.fromEntries(
          Object.entries(seconds).flatMap(([phase, value]) =>
            typeof value === 'number' ? [[`seconds/${phase}`, value]] : [],
          ),
        ),
        'memory_mib/live': memory.liveMiB,
        'memory_mib/peak': memory.peakMiB,
      }
    }
    case 'validation': {
      const scalars: Record<string, number> = {}
      for (const [expert, measured] of Object.entries(entry.experts)) {
        scalars[`validation/${expert}_noise`] = measured.loss
        for (const { from, to, loss } of measured.bands ?? []) {
          scalars[`validation_band/${expert}_noise_${Math.round(from)}-${Math.round(to)}`] = loss
        }
      }
      return scalars
    }
    case 'preview':
    case 'save':
    case 'run':
    case 'error':
      return {}
    default:
      return entry satisfies never
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}
