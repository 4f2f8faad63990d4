import type { MetricsEntry, StepEntry } from '@kinora/config-schema'
import type { WarningEvent } from '@kinora/stage'
import type { MetricsOutlet } from '../metrics-outlet.ts'
import { findSlowDown } from './slow-down.ts'

/** Steps between looks. */
const lookEvery = 8

/**
 * An outlet that warns while the run goes on when steps become slower than they were, and again when they have become twice as
 * slow as at the last warning. Runs of hours die slowly where a driver begins to swap device memory to the host.
 */
export function createSlowDownWatch(): MetricsOutlet {
  const steps: StepEntry[] = []
  const warnings: WarningEvent[] = []
  let alarmedAt = 0
  return {
    write(entry: MetricsEntry) {
      if (entry.type === 'run') {
        // Another start may be on another machine.
        steps.length = 0
        alarmedAt = 0
      }
      if (entry.type !== 'step') return
      steps.push(entry)
      if (steps.length % lookEvery !== 0) return
      const found = findSlowDown(steps)
      if (!found || found.factor < 2 * alarmedAt) return
      alarmedAt = found.factor
      warnings.push({
        type: 'warning',
        code: 'EXPLAIN_SLOWING_DOWN',
        message: `Steps take ${found.factor.toFixed(1)} times as long as at first (${found.after.toFixed(2)} s against ${found.before.toFixed(2)} s), since step ${found.sinceStep}.`,
        fix: 'Look for another program on the device, its temperature, and its free memory; Ctrl-C keeps the work, and the same command goes on.',
      })
    },
    takeWarnings: () => warnings.splice(0),
    close: async () => {},
  }
}
