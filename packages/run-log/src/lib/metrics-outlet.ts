import type { MetricsEntry } from '@kinora/config-schema'
import type { WarningEvent } from '@kinora/stage'

/** Somewhere metrics go. `write` never blocks and never throws. */
export interface MetricsOutlet {
  /** Takes an entry as metrics.jsonl has it, in the order of the work. */
  write(entry: MetricsEntry): void
  /** Warnings since the last call; for showing while the run goes on. */
  takeWarnings(): WarningEvent[]
  /** Sends what is left, for a bounded time. */
  close(): Promise<void>
}

/** Several outlets as one. */
export function joinOutlets(outlets: readonly MetricsOutlet[]): MetricsOutlet {
  return {
    write: (entry) => outlets.forEach((outlet) => outlet.write(entry)),
    takeWarnings: () => outlets.flatMap((outlet) => outlet.takeWarnings()),
    close: async () => {
      await Promise.all(outlets.map((outlet) => outlet.close()))
    },
  }
}
