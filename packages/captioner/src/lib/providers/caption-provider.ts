import type { RunContext } from '@kinora/stage'
import type { CaptionSkipReason } from '../errors.ts'
import type { CaptionSettings } from '../options.ts'
import type { Dataset, DatasetClip } from '../read-dataset.ts'
import type { SelectFrames } from '../select-frames.ts'

/** What captioning is given that cannot be written in a config file. */
export interface CaptionContext extends RunContext {
  /** Default: the global one. */
  fetch?: typeof globalThis.fetch | undefined
  /** Where the key of an endpoint is looked up. Default: `process.env`. */
  env?: Readonly<Record<string, string | undefined>> | undefined
  /** Reads the frames that a model is shown. Default: with the system's ffmpeg. */
  selectFrames?: SelectFrames | undefined
  /** Numbers in [0, 1) that spread further tries out. Default: `Math.random`. */
  random?: (() => number) | undefined
}

/** The words for one clip, or why there are none. Trigger, prefix and suffix come later. */
export type CaptionOutcome =
  | { text: string; cached: boolean }
  | { reason: CaptionSkipReason; detail: string }

/** What a run has used so far. */
export interface CaptionUsage {
  /** Requests sent, further tries included. */
  requests: number
  /** Answers taken from the cache. */
  cached: number
  inputTokens: number
  outputTokens: number
  /** By the prices given; 0 without. */
  cost: number
  /** True where the endpoint did not say how many tokens it used, so that they are reckoned from lengths. */
  estimated: boolean
}

/** A source of captions. All of them pass the suite in test/provider-suite.ts. */
export interface CaptionProvider {
  /** Clips worked on at once. */
  concurrency: number
  /**
   * Words for a clip: one line, not empty. What goes wrong with this clip alone is an outcome; a thrown error ends the
   * run. The same clip and settings may be asked again.
   */
  caption(clip: DatasetClip, signal: AbortSignal): Promise<CaptionOutcome>
  /** What a dry run says of a clip, without asking anything. */
  preview(clip: DatasetClip): Promise<Record<string, unknown>>
  usage(): CaptionUsage
}

/** Makes a provider for a run. Throws a coded error for settings that cannot work, before anything is spent. */
export type CreateCaptionProvider = (
  dataset: Dataset,
  settings: CaptionSettings,
  context: CaptionContext,
) => Promise<CaptionProvider>

export const noUsage: CaptionUsage = {
  requests: 0,
  cached: 0,
  inputTokens: 0,
  outputTokens: 0,
  cost: 0,
  estimated: false,
}
