import { appendFile, readFile } from 'node:fs/promises'
import type { MetricsEntry } from '@kinora/config-schema'
import { codeSystemError, writeFileAtomic } from '@kinora/stage'
import type { Expert } from './noise/random-streams.ts'

/** One line of metrics.jsonl: what a step did. */
export interface StepMetrics {
  type: 'step'
  /** Steps done, this one included. */
  step: number
  expert: Expert
  /** Steps of this expert done, this one included. */
  expertStep: number
  /** Mean over the micro-batches, weights applied. */
  loss: number
  /** Mean of the loss before weights, where they differ. */
  unweightedLoss?: number
  /** The preservation part of the loss, where the job has one. */
  preservationLoss?: number | undefined
  /** L2 norm over the expert's LoRA before clipping. */
  gradNorm: number
  learningRate: number
  /** 0 to 1000, one an item. */
  timesteps: number[]
  /** Of the noised latents of the first micro-batch: batch, channels, frames, rows, columns. */
  shape: readonly number[]
  lossScale: number
  seconds: {
    /** Waiting for cached latents and noise. */
    data: number
    /** Queueing the passes. */
    queue: number
    /** Waiting for the device. */
    device: number
    /** Loading an expert's weights. */
    load: number
    total: number
  }
  memory: { liveMiB: number; peakMiB: number }
}

/** A line about the run: what it began with, what changed, what was measured beside steps. */
export interface RunMetrics {
  type: 'run' | 'validation' | 'save' | 'preview' | 'error'
  step: number
  [key: string]: unknown
}

/**
 * Where metrics go beside metrics.jsonl, such as TensorBoard or a webhook. It must neither block nor throw: a run does not end
 * because of who watches it.
 */
export interface MetricsSink {
  /** Takes an entry as metrics.jsonl has it, in the order of the work. A resumed run begins with a `run` entry of its step. */
  write(entry: MetricsEntry): void
}

/** metrics.jsonl: one JSON object a line, appended as training goes. */
export class MetricsFile {
  readonly file: string
  readonly #sink: MetricsSink | undefined

  constructor(file: string, sink?: MetricsSink) {
    this.file = file
    this.#sink = sink
  }

  /** Drops lines of steps after `step`, which a resumed run will do again, and a last line cut off by a crash. */
  async rewindTo(step: number): Promise<void> {
    let text: string
    try {
      text = await readFile(this.file, 'utf8')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
      throw codeSystemError(error, this.file)
    }
    const kept = text.split('\n').filter((line) => {
      try {
        return (JSON.parse(line) as { step: number }).step <= step
      } catch {
        return false
      }
    })
    await writeFileAtomic(this.file, kept.map((line) => `${line}\n`).join(''))
  }

  async append(entry: StepMetrics | RunMetrics): Promise<void> {
    try {
      await appendFile(this.file, `${JSON.stringify(entry)}\n`)
    } catch (error) {
      throw codeSystemError(error, this.file)
    }
    try {
      this.#sink?.write(entry as MetricsEntry)
    } catch {
      // Metrics are in the file; what watches them has no say in the run.
    }
  }
}
