import { defineErrors } from '@kinora/stage'

/** Every failure that ends a run. What only costs one clip its caption is a `skipped` event with a `CaptionSkipReason`. */
export const captionerErrors = defineErrors('CAPTIONER', {
  NO_CLIPS: {
    message: (source: string) => `${source} holds no clips.`,
    fix: 'Run clip-prep on the footage first, or name a folder that holds video files.',
  },
  SHARED_CAPTION: {
    message: (one: string, other: string) =>
      `${one} and ${other} would share one caption file, for their names differ in the extension alone.`,
    fix: 'Rename one of the two clips.',
  },
  NO_ENDPOINT: {
    message: (missing: string) => `Vision captions need ${missing}.`,
    fix: 'Set --vision.url and --vision.model. Servers on this machine listen at http://127.0.0.1:11434/v1 (Ollama), :1234/v1 (LM Studio), :8000/v1 (vLLM) or :8080/v1 (llama.cpp).',
  },
  NO_KEY: {
    message: (variable: string) => `The environment variable ${variable} is not set.`,
    fix: (variable: string) =>
      `Set ${variable} to the key of the endpoint, or leave out --vision.api-key-env where none is needed.`,
  },
  UNAUTHORISED: {
    message: (url: string, status: number) => `${url} refused the key (HTTP ${status}).`,
    fix: 'Set the environment variable that --vision.api-key-env names to a valid key.',
  },
  NOT_FOUND: {
    message: (url: string, model: string, detail: string) =>
      `${url} knows no such address or no model ${model}: ${detail}`,
    fix: 'Check --vision.url (most end in /v1) and that the model is loaded under exactly this name.',
  },
  ENDPOINT_FAILING: {
    message: (url: string, failures: number, detail: string) =>
      `${url} failed for ${failures} clips in a row, the last time with: ${detail}`,
    fix: 'Check that the server runs and takes images, then run the same command again: finished captions are kept.',
  },
  TOO_MANY_SKIPPED: {
    message: (failed: number, allowed: number) =>
      `${failed} clips have no caption, and ${allowed} may have none.`,
    fix: 'Look at the reasons above and run the same command again (what was written is kept), or raise maxSkipped.',
  },
  BAD_TOKENIZER: {
    message: (file: string, problem: string) => `${file} is no tokenizer: ${problem}`,
    fix: 'Name a tokenizer.json, such as the one in the tokenizer folder of the checkpoint.',
  },
})

/**
 * Why a clip got no new caption.
 *
 * - `human-caption`: it has one that the captioner did not write, which is kept
 * - `nothing-to-say`: the template has no word for it
 * - `unreadable`: its frames cannot be read
 * - `budget`: the cap on requests, tokens or cost is reached
 * - `unreachable`, `timeout`, `rate-limited`, `server-error`, `bad-response`: the endpoint failed, tries and all
 * - `rejected`: the endpoint refused this request
 * - `refusal`, `empty`, `garbage`, `html`, `other-script`, `prompt-echo`, `too-long`: its answer is no caption
 */
export type CaptionSkipReason =
  | 'human-caption'
  | 'nothing-to-say'
  | 'unreadable'
  | 'budget'
  | EndpointFailure
  | 'rejected'
  | AnswerProblem

/** An endpoint that did not do its part, after all tries. */
export type EndpointFailure =
  | 'unreachable'
  | 'timeout'
  | 'rate-limited'
  | 'server-error'
  | 'bad-response'

/** An answer that is no caption. */
export type AnswerProblem =
  | 'refusal'
  | 'empty'
  | 'garbage'
  | 'html'
  | 'other-script'
  | 'prompt-echo'
  | 'too-long'
