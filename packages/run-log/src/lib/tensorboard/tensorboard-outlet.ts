import { appendFile, mkdir } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import type { WarningEvent } from '@kinora/stage'
import type { MetricsOutlet } from '../metrics-outlet.ts'
import { encodeEvent, type EventContent } from './event-message.ts'
import { scalarsOf } from './scalars-of.ts'
import { tfRecord } from './tf-record.ts'

export interface TensorBoardOptions {
  /** Folder of this run's event files; made with the first event. */
  folder: string
  /** Milliseconds since 1970. */
  now?: () => number
}

/**
 * Writes event files that TensorBoard reads. Each start of a run gets a file of its own, which begins with a session start at
 * its step, so that TensorBoard drops what an interrupted run had done beyond it.
 *
 * A folder that cannot be written ends in one warning, not in an error.
 */
export function createTensorBoardOutlet({
  folder,
  now = Date.now,
}: TensorBoardOptions): MetricsOutlet {
  let file: string | undefined
  let pending: Uint8Array[] = []
  let writing: Promise<void> | undefined
  let failed = false
  const warnings: WarningEvent[] = []

  const add = (step: number, content: EventContent): void => {
    pending.push(tfRecord(encodeEvent(now() / 1000, step, content)))
  }

  async function flush(): Promise<void> {
    while (pending.length > 0) {
      const records = pending
      pending = []
      await mkdir(folder, { recursive: true })
      await appendFile(file!, Buffer.concat(records))
    }
  }

  function start(): void {
    writing ??= flush()
      .catch((error: unknown) => {
        failed = true
        warnings.push({
          type: 'warning',
          code: 'RUN_LOG_TENSORBOARD_FAILED',
          message: `TensorBoard's files cannot be written: ${(error as Error).message}.`,
          fix: 'The run goes on, and metrics.jsonl has everything; check the folder log_dir of the job.',
        })
      })
      .finally(() => {
        writing = undefined
        if (pending.length > 0 && !failed) start()
      })
  }

  return {
    write(entry) {
      if (failed) return
      if (file === undefined) {
        const seconds = Math.floor(now() / 1000)
        // The part after the number is free; TensorBoard asks for "tfevents" alone.
        const name = `events.out.tfevents.${seconds}.${hostname()}.${process.pid}.${entry.step}`
        file = join(folder, name)
        add(0, { fileVersion: 'brain.Event:2' })
        if (entry.type === 'run') add(entry.step + 1, { sessionStart: true })
      }
      const scalars = scalarsOf(entry)
      if (Object.keys(scalars).length === 0 && entry.type !== 'run') return
      if (Object.keys(scalars).length > 0) add(entry.step, { scalars })
      start()
    },
    takeWarnings: () => warnings.splice(0),
    async close() {
      while (writing !== undefined) await writing
    },
  }
}
