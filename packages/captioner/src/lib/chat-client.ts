import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import type { Budget, Reservation } from './budget.ts'
import { captionerErrors, type EndpointFailure } from './errors.ts'
import type { VisionSettings } from './options.ts'

// One request to an OpenAI-compatible chat endpoint, tried again after failures that may pass.

/** Answers are a few hundred words; a body past this is no answer. */
const maxBodyBytes = 1 << 20
const maxBackoffMs = 30_000

const responseSchema = z.looseObject({
  choices: z
    .array(
      z.looseObject({
        finish_reason: z.string().nullish(),
        message: z.looseObject({
          content: z
            .union([
              z.string(),
              z.array(z.looseObject({ type: z.string(), text: z.string().optional() })),
            ])
            .nullish(),
          refusal: z.string().nullish(),
        }),
      }),
    )
    .min(1),
  usage: z
    .looseObject({
      prompt_tokens: z.number().nonnegative(),
      completion_tokens: z.number().nonnegative(),
    })
    .nullish()
    .catch(undefined),
})

interface ChatRequest {
  body: Record<string, unknown>
  /** Expected size, for the budget. */
  expected: { input: number; output: number }
}

type ChatReply =
  | { content: string; refused: boolean; cutOff: boolean }
  | { reason: EndpointFailure | 'rejected' | 'budget'; detail: string }

export interface ChatClient {
  /** Throws only for what no later request could mend: a refused key, a wrong address or model. */
  ask(request: ChatRequest, signal: AbortSignal): Promise<ChatReply>
}

export interface ChatClientOptions {
  /** Address of chat completions. */
  url: string
  settings: VisionSettings
  key: string | undefined
  budget: Budget
  fetch: typeof globalThis.fetch
  random: () => number
}

/** How one try ended. */
type Try =
  | { reply: Extract<ChatReply, { content: string }> }
  | { failure: EndpointFailure; detail: string; retryAfterMs?: number | undefined }
  | { rejected: string }

export function createChatClient(options: ChatClientOptions): ChatClient {
  const { settings, budget, random } = options
  // A server that says Retry-After means all of us, not the one request.
  let notBefore = 0

  async function waitTurn(signal: AbortSignal): Promise<void> {
    for (let wait = notBefore - Date.now(); wait > 0; wait = notBefore - Date.now()) {
      await sleep(wait, undefined, { signal })
    }
  }

  return {
    async ask(request, signal) {
      for (let attempt = 0; ; attempt++) {
        await waitTurn(signal)
        const reservation = await budget.reserve(request.expected)
        if (!reservation) {
          return { reason: 'budget', detail: 'The budget of this run does not allow the request.' }
        }
        const tried = await tryOnce(options, request, reservation, signal).finally(() =>
          // A try without an answer has cost no tokens; others wait for its room.
          reservation.settle({ input: 0, output: 0 }, false),
        )
        if ('reply' in tried) return tried.reply
        if ('rejected' in tried) return { reason: 'rejected', detail: tried.rejected }
        const { failure, detail, retryAfterMs } = tried
        const tooLong = retryAfterMs !== undefined && retryAfterMs > settings.maxWaitMs
        if (attempt >= settings.retries || tooLong) {
          const why = tooLong
            ? `it asks to wait ${Math.ceil(retryAfterMs / 1000)} s`
            : `${attempt + 1} tries`
          return { reason: failure, detail: `${detail} (${why})` }
        }
        if (retryAfterMs !== undefined) {
          // A little later than asked, and not all at once.
          notBefore = Math.max(notBefore, Date.now() + retryAfterMs * (1 + 0.1 * random()))
        } else {
          const backoff = Math.min(maxBackoffMs, settings.retryBaseMs * 2 ** attempt)
          await sleep(backoff * (0.5 + 0.5 * random()), undefined, { signal })
        }
      }
    },
  }
}

async function tryOnce(
  { url, settings, key, fetch }: ChatClientOptions,
  { body, expected }: ChatRequest,
  reservation: Reservation,
  signal: AbortSignal,
): Promise<Try> {
  // The key must not come back in a message that is printed or kept.
  const redact = (text: string): string => (key ? text.replaceAll(key, '[key]') : text)
  const timeout = AbortSignal.timeout(settings.timeoutMs)
  let response: Response
  let text: string
  try {
    response = await fetch(url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(key !== undefined && { authorization: `Bearer ${key}` }),
      },
      body: JSON.stringify(body),
      signal: AbortSignal.any([signal, timeout]),
    })
    text = redact(await readBody(response))
  } catch (error) {
    signal.throwIfAborted()
    if (timeout.aborted) {
      return { failure: 'timeout', detail: `No answer within ${settings.timeoutMs} ms.` }
    }
    return { failure: 'unreachable', detail: redact(networkReason(error)) }
  }

  if (response.status !== 200) {
    const { status } = response
    const detail = `HTTP ${status}: ${serverMessage(text)}`
    if (status === 401 || status === 403) throw captionerErrors.UNAUTHORISED(url, status)
    if (status === 404) throw captionerErrors.NOT_FOUND(url, settings.model ?? '', detail)
    if (status === 429 || status === 503) {
      const retryAfterMs = readRetryAfter(response.headers.get('retry-after'))
      const failure = status === 429 ? 'rate-limited' : 'server-error'
      return { failure, detail, retryAfterMs }
    }
    if (status >= 500 || status === 408 || status === 425) {
      return { failure: 'server-error', detail }
    }
    return status >= 400 ? { rejected: detail } : { failure: 'bad-response', detail }
  }

  const parsed = responseSchema.safeParse(parseJson(text))
  if (!parsed.success) {
    return {
      failure: 'bad-response',
      detail: `The answer is not in the chat format: ${start(text)}`,
    }
  }
  const { choices, usage } = parsed.data
  const [{ message, finish_reason: finish }] = choices as [(typeof choices)[number]]
  const content =
    typeof message.content === 'string'
      ? message.content
      : (message.content ?? []).map((part) => part.text ?? '').join('')
  if (usage) {
    reservation.settle({ input: usage.prompt_tokens, output: usage.completion_tokens }, false)
  } else {
    reservation.settle({ input: expected.input, output: estimateTokens(content) }, true)
  }
  return {
    reply: {
      content: message.refusal && content === '' ? message.refusal : content,
      refused: finish === 'content_filter' || Boolean(message.refusal),
      cutOff: finish === 'length',
    },
  }
}

/** Tokens of English text: about four letters each. */
export function estimateTokens(text: string): number {
  return Math.ceil(text.length / 4)
}

async function readBody(response: Response): Promise<string> {
  const decoder = new TextDecoder()
  let text = ''
  let bytes = 0
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length
    if (bytes > maxBodyBytes) throw new Error('the answer is over 1 MiB')
    text += decoder.decode(chunk, { stream: true })
  }
  return text + decoder.decode()
}

/** `Retry-After` in milliseconds: seconds, or a date. */
function readRetryAfter(header: string | null): number | undefined {
  if (header === null || header.trim() === '') return undefined
  const seconds = Number(header)
  const ms = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(header) - Date.now()
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined
}

function networkReason(error: unknown): string {
  // undici says only "fetch failed"; what failed is in the cause.
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  const { code, message } = cause as { code?: string; message?: string }
  return message || code || String(error)
}

function serverMessage(text: string): string {
  const value = parseJson(text) as { error?: { message?: unknown } | string } | undefined
  const error = value?.error
  const message = typeof error === 'string' ? error : error?.message
  return typeof message === 'string' ? start(message) : start(text)
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function start(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim()
  return line === '' ? 'nothing' : line.length > 200 ? `${line.slice(0, 200)}…` : line
}
