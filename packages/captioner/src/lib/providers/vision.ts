import { checkFfmpeg } from '@kinora/media'
import { isCodedError } from '@kinora/stage'
import { join } from 'node:path'
import { answerKey, fileSha256, openAnswerCache } from '../answer-cache.ts'
import { Budget } from '../budget.ts'
import { createChatClient, estimateTokens } from '../chat-client.ts'
import { checkAnswer } from '../check-answer.ts'
import { captionerErrors, type EndpointFailure } from '../errors.ts'
import { captionPrompt } from '../prompt.ts'
import type { DatasetClip } from '../read-dataset.ts'
import { frameTimes, selectFrames, type SelectedFrame } from '../select-frames.ts'
import type { CaptionOutcome, CaptionProvider, CreateCaptionProvider } from './caption-provider.ts'

/** Tokens of one picture for the budget, where the server does not say: common models cut 512 px into about this many. */
const tokensPerImage = 500

/**
 * Captions from a model that sees frames of the clip, through any server with OpenAI’s chat completions and image_url data
 * URIs: vLLM, Ollama, LM Studio, llama.cpp, clouds. Answers are kept by content, so a run that was stopped or repeated asks
 * for nothing twice.
 */
export const createVisionProvider: CreateCaptionProvider = async (dataset, settings, context) => {
  const { vision, dryRun } = settings
  const { url, model, apiKeyEnv } = vision
  if (url === undefined) throw captionerErrors.NO_ENDPOINT('the address of an endpoint')
  if (model === undefined) throw captionerErrors.NO_ENDPOINT('the name of a model')
  const key = apiKeyEnv === undefined ? undefined : (context.env ?? process.env)[apiKeyEnv]?.trim()
  if (apiKeyEnv !== undefined && !key && !dryRun) throw captionerErrors.NO_KEY(apiKeyEnv)
  if (!dryRun && !context.selectFrames) await checkFfmpeg()

  const address = chatAddress(url)
  const budget = new Budget(vision)
  const cache = openAnswerCache(vision.cacheDir ?? join(dataset.folder, '.captioner-cache'))
  const client = createChatClient({
    url: address,
    settings: vision,
    key: key || undefined,
    budget,
    fetch: context.fetch ?? globalThis.fetch,
    random: context.random ?? Math.random,
  })
  const readFrames = context.selectFrames ?? selectFrames
  let failuresInRow = 0

  function frameCount(clip: DatasetClip): number {
    const { record } = clip
    return record ? frameTimes(record.numFrames, record.fps, vision.frames).length : vision.frames
  }

  const caption = async (clip: DatasetClip, signal: AbortSignal): Promise<CaptionOutcome> => {
    const prompt = captionPrompt(clip, settings, frameCount(clip))
    const sampling = requestFields(settings.vision)
    let asked: string
    let frames: SelectedFrame[]
    try {
      const clipSha256 = clip.record?.sha256 ?? (await fileSha256(clip.file, signal))
      const { frames: numFrames, frameSize } = vision
      asked = answerKey({ clipSha256, prompt, numFrames, frameSize, ...sampling })
      const known = await cache.read(asked)
      if (known !== undefined) {
        budget.countCached()
        return { text: known, cached: true }
      }
      frames = await readFrames(clip.file, vision, signal)
    } catch (error) {
      signal.throwIfAborted()
      if (isCodedError(error, 'MEDIA_NO_FFMPEG')) throw error
      return { reason: 'unreadable', detail: (error as Error).message }
    }
    const reply = await client.ask(
      {
        body: { ...sampling, messages: [userMessage(prompt, frames)] },
        expected: {
          input: estimateTokens(prompt) + frames.length * tokensPerImage,
          output: vision.maxTokens,
        },
      },
      signal,
    )
    if ('reason' in reply) {
      countFailure(reply.reason, reply.detail)
      return reply
    }
    failuresInRow = 0
    if (reply.refused)
      return { reason: 'refusal', detail: `The model refused. ${reply.content}`.trim() }
    if (reply.cutOff) {
      return {
        reason: 'too-long',
        detail: `The answer broke off after ${vision.maxTokens} tokens.`,
      }
    }
    const checked = checkAnswer(reply.content, { ...vision, prompt })
    if ('problem' in checked) return { reason: checked.problem, detail: checked.detail }
    await cache.write(asked, { model, prompt, text: checked.text })
    return { text: checked.text, cached: false }
  }

  function countFailure(reason: EndpointFailure | 'rejected' | 'budget', detail: string): void {
    if (reason === 'budget') return
    failuresInRow++
    if (failuresInRow >= vision.maxFailures) {
      throw captionerErrors.ENDPOINT_FAILING(address, failuresInRow, detail)
    }
  }

  return {
    concurrency: vision.concurrency,
    caption,
    async preview(clip) {
      const prompt = captionPrompt(clip, settings, frameCount(clip))
      const { record } = clip
      return {
        url: address,
        ...requestFields(vision),
        prompt,
        ...(record && { frameTimes: frameTimes(record.numFrames, record.fps, vision.frames) }),
        expectedTokens:
          estimateTokens(prompt) + frameCount(clip) * tokensPerImage + vision.maxTokens,
      }
    },
    usage: () => budget.usage(),
  } satisfies CaptionProvider
}

/** All of a request but its messages. */
function requestFields({
  model,
  temperature,
  maxTokens,
  extraBody,
}: {
  model?: string | undefined
  temperature: number
  maxTokens: number
  extraBody: Record<string, unknown>
}): Record<string, unknown> {
  const fields = { model, temperature, max_tokens: maxTokens, ...extraBody }
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null))
}

function userMessage(prompt: string, frames: readonly SelectedFrame[]): Record<string, unknown> {
  return {
    role: 'user',
    content: [
      { type: 'text', text: prompt },
      ...frames.map(({ jpeg }) => ({
        type: 'image_url',
        image_url: { url: `data:image/jpeg;base64,${Buffer.from(jpeg).toString('base64')}` },
      })),
    ],
  }
}

function chatAddress(url: string): string {
  const base = url.replace(/\/+$/, '')
  return base.endsWith('/chat/completions') ? base : `${base}/chat/completions`
}
