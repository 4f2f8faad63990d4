import type { MetricsEntry } from '@kinora/config-schema'
import type { WarningEvent } from '@kinora/stage'
import type { MetricsOutlet } from '../metrics-outlet.ts'

export interface WebhookOptions {
  url: string
  /** Name of the run, sent with each entry. */
  run: string
  /** Steps between posts; other entries (saves, validations, previews, errors) are always sent. Default 1. */
  every?: number
  /** Tries of one post, the first included. Default 4. */
  maxTries?: number
  /** Wait before the second try, doubled before each further one. Default 500. */
  retryMs?: number
  /** Longest wait for an answer. Default 10 000. */
  timeoutMs?: number
  /** How long `close` waits for what is left. Default 5 000. */
  closeMs?: number
}

/** Entries that wait for a slow receiver; when there are more, the oldest steps are left out. */
const maxWaiting = 256
/** A receiver may ask for patience (Retry-After) of up to this long. */
const maxRetryMs = 30_000

/**
 * Posts metrics as JSON: `{ "run": name, "entry": { … } }`, one entry a request, in order.
 *
 * Nothing here holds up or ends a run: entries wait in a bounded queue, tries are bounded, and what could not be delivered is one
 * warning. The warning names the host alone, since the address of a webhook is often its secret.
 */
export function createWebhookOutlet({
  url,
  run,
  every = 1,
  maxTries = 4,
  retryMs = 500,
  timeoutMs = 10_000,
  closeMs = 5_000,
}: WebhookOptions): MetricsOutlet {
  const waiting: MetricsEntry[] = []
  const warnings: WarningEvent[] = []
  const closing = new AbortController()
  let sending: Promise<void> | undefined
  let numSteps = 0
  let numLost = 0
  let lastFailure = ''
  let warned = false

  async function drain(): Promise<void> {
    for (let entry = waiting.shift(); entry !== undefined; entry = waiting.shift()) {
      const failure = await deliver(entry)
      if (failure !== undefined) lose(failure)
    }
  }

  /** @returns why it could not be delivered */
  async function deliver(entry: MetricsEntry): Promise<string | undefined> {
    let failure = ''
    let wait = retryMs
    for (let attempt = 1; attempt <= maxTries; attempt++) {
      if (closing.signal.aborted) return failure || 'the run ended before it answered'
      const answer = await post(entry)
      if (answer === 'ok') return undefined
      failure = answer.failure
      if (!answer.retry) return failure
      if (attempt < maxTries) await pause(Math.min(answer.afterMs ?? wait, maxRetryMs))
      wait *= 2
    }
    return failure
  }

  async function post(
    entry: MetricsEntry,
  ): Promise<'ok' | { failure: string; retry: boolean; afterMs?: number }> {
    try {
      const response = await fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ run, entry }),
        signal: AbortSignal.any([AbortSignal.timeout(timeoutMs), closing.signal]),
      })
      // The connection is free for the next post only when the answer is read.
      await response.arrayBuffer()
      if (response.ok) return 'ok'
      const { status } = response
      const after = Number(response.headers.get('retry-after') ?? NaN)
      return {
        failure: `it answered ${status}`,
        retry: status >= 500 || status === 408 || status === 429,
        ...(Number.isFinite(after) ? { afterMs: after * 1000 } : {}),
      }
    } catch (error) {
      const { name, message, cause } = error as Error & { cause?: { code?: string } }
      const why = name === 'TimeoutError' ? `no answer in ${timeoutMs / 1000} s` : message
      return { failure: cause?.code ?? why, retry: true }
    }
  }

  function pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer)
        closing.signal.removeEventListener('abort', done)
        resolve()
      }
      const timer = setTimeout(done, ms)
      // A run that ends does not stay for a webhook.
      timer.unref()
      closing.signal.addEventListener('abort', done)
    })
  }

  function lose(failure: string): void {
    numLost++
    lastFailure = failure
    if (warned) return
    warned = true
    warnings.push({
      type: 'warning',
      code: 'RUN_LOG_WEBHOOK_FAILED',
      message: `The webhook at ${hostOf(url)} did not take an entry: ${failure}.`,
      fix: 'The run goes on, and metrics.jsonl has everything; check kinora.webhook of the job.',
    })
  }

  return {
    write(entry) {
      if (entry.type === 'step' && numSteps++ % every !== 0) return
      waiting.push(entry)
      if (waiting.length > maxWaiting) {
        const oldest = waiting.findIndex(({ type }) => type === 'step')
        waiting.splice(Math.max(0, oldest), 1)
        lose('it is slower than the run')
      }
      sending ??= drain().finally(() => {
        sending = undefined
      })
    },
    takeWarnings: () => warnings.splice(0),
    async close() {
      const timer = setTimeout(() => closing.abort(), closeMs)
      while (sending !== undefined) await sending
      clearTimeout(timer)
      if (numLost > 1) {
        warnings.push({
          type: 'warning',
          code: 'RUN_LOG_WEBHOOK_FAILED',
          message: `${numLost} entries were not delivered to ${hostOf(url)}: ${lastFailure}.`,
          fix: 'metrics.jsonl has everything.',
        })
      }
    },
  }
}

function hostOf(url: string): string {
  return URL.canParse(url) ? new URL(url).host : 'an address that is none'
}
