import type { StageEvent } from '@kinora/stage'
import { readdir } from 'node:fs/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  startFakeEndpoint,
  type Behaviour,
  type FakeEndpoint,
} from '../../../test/fake-endpoint.ts'
import { makeDataset, type TestDataset } from '../../../test/make-dataset.ts'
import { captionClips, captionClipsIter, type CaptionResult } from '../caption-clips.ts'
import type { CaptionClipsOptions } from '../options.ts'
import type { SelectFrames } from '../select-frames.ts'
import type { CaptionContext } from './caption-provider.ts'

const say = 'A red square glides upwards while the camera follows.'

let dataset: TestDataset
let endpoint: FakeEndpoint | undefined
beforeEach(async () => {
  dataset = await makeDataset({ 'a.mp4': {}, 'b.mp4': {}, 'c.mp4': {} })
})
afterEach(async () => {
  await endpoint?.[Symbol.asyncDispose]()
  endpoint = undefined
  await dataset[Symbol.asyncDispose]()
})

/** Decoding takes most of the time of a run; only the tests that are about frames do it. */
const fakeFrames: SelectFrames = async (_file, { frames }) =>
  Array.from({ length: frames }, (_, i) => ({ time: i / 16, jpeg: Uint8Array.of(0xff, 0xd8, i) }))
const realFrames = { selectFrames: undefined }

interface Run {
  vision?: NonNullable<CaptionClipsOptions['vision']>
  options?: Partial<CaptionClipsOptions>
  context?: CaptionContext
}

async function run(
  behave: Behaviour | ((n: number) => Behaviour | Promise<Behaviour>),
  { vision, options, context }: Run = {},
): Promise<CaptionResult & { events: StageEvent[] }> {
  await endpoint?.[Symbol.asyncDispose]()
  endpoint = await startFakeEndpoint(typeof behave === 'function' ? behave : () => behave)
  const events: StageEvent[] = []
  const iterator = captionClipsIter(
    {
      source: dataset.folder,
      provider: 'vision',
      vision: { url: endpoint.url, model: 'fake', retryBaseMs: 1, concurrency: 1, ...vision },
      ...options,
    },
    { selectFrames: fakeFrames, ...context },
  )
  for (;;) {
    const next = await iterator.next()
    if (next.done) return { ...next.value, events }
    events.push(next.value)
  }
}

describe('a request', () => {
  it('shows frames of the whole clip as JPEG data URIs, after the instruction', async () => {
    await run({ say }, { vision: { frames: 5, frameSize: 64 }, context: realFrames })
    const [{ path, body, authorization }] = endpoint!.seen as [FakeEndpoint['seen'][number]]
    expect(path).toBe('/v1/chat/completions')
    expect(authorization).toBeUndefined()
    expect(body).toMatchObject({ model: 'fake', temperature: 0.2, max_tokens: 400 })
    const [instruction, ...frames] = body.messages[0]!.content
    expect(instruction!.text).toMatch(/^These are 5 frames of one short clip/)
    expect(frames).toHaveLength(5)
    for (const frame of frames) {
      expect(frame.type).toBe('image_url')
      const [, base64] = frame.image_url!.url.split('data:image/jpeg;base64,')
      expect([...Buffer.from(base64!, 'base64').subarray(0, 2)]).toEqual([0xff, 0xd8])
    }
    // The clip moves, so its frames differ.
    expect(new Set(frames.map((frame) => frame.image_url!.url)).size).toBe(5)
  })

  it('carries the key of the environment, which lands nowhere on disk', async () => {
    const key = 'sk-very-secret-0123456789'
    const answer = await run(
      (n) =>
        n === 0 ? { status: 400, text: `{"error": {"message": "bad key? ${key}"}}` } : { say },
      { vision: { apiKeyEnv: 'MY_KEY' }, context: { env: { MY_KEY: key } } },
    )
    expect(endpoint!.seen[0]!.authorization).toBe(`Bearer ${key}`)
    expect(answer.clips[0]).toMatchObject({
      reason: 'rejected',
      detail: expect.stringContaining('[key]'),
    })
    expect(JSON.stringify(answer)).not.toContain(key)
    for (const name of await readdir(dataset.folder, { recursive: true })) {
      if (/\.(json|jsonl|txt)$/.test(name)) expect(await dataset.read(name)).not.toContain(key)
    }
  })

  it('can leave out and add fields, for servers that want others', async () => {
    await run({ say }, { vision: { extraBody: { max_tokens: null, max_completion_tokens: 99 } } })
    expect(endpoint!.seen[0]!.body).toMatchObject({ max_completion_tokens: 99 })
    expect(endpoint!.seen[0]!.body).not.toHaveProperty('max_tokens')
  })

  it.each([
    ['motion', /what moves and how/, /Say nothing about colours/],
    ['style', /the look and not the content/, /Name no person/],
    ['character', /what the character does/, /Call the character "sks robot"/],
  ] as const)('asks for what a %s LoRA needs', async (goal, wanted, also) => {
    await run({ say }, { options: { goal, trigger: 'sks', className: 'robot' } })
    const text = endpoint!.seen[0]!.body.messages[0]!.content[0]!.text!
    expect(text).toMatch(wanted)
    expect(text).toMatch(also)
    expect(text).toMatch(/at most 60 words/)
  })

  it('keeps to the concurrency', async () => {
    const slow = async (): Promise<Behaviour> => {
      await new Promise((resolve) => setTimeout(resolve, 100))
      return { say }
    }
    await run(slow, { vision: { concurrency: 2 } })
    expect(endpoint!.maxOpen).toBe(2)
  })
})

describe('captions', () => {
  it('are written beside the clips, with the trigger in front', async () => {
    const { counts, usage } = await run({ say }, { options: { trigger: 'crn' } })
    expect(await dataset.read('a.txt')).toBe(`crn, ${say}\n`)
    expect(counts).toEqual({ written: 3, unchanged: 0, kept: 0, failed: 0, planned: 0 })
    expect(usage).toMatchObject({
      requests: 3,
      inputTokens: 300,
      outputTokens: 60,
      estimated: false,
    })
  })

  it('are asked for once: a second run takes them from the cache, whatever the trigger', async () => {
    await run({ say })
    const again = await run({ status: 500 }, { options: { trigger: 'crn' } })
    expect(endpoint!.seen).toHaveLength(0)
    expect(again.usage).toMatchObject({ requests: 0, cached: 3 })
    expect(await dataset.read('a.txt')).toBe(`crn, ${say}\n`)
  })

  it.each<[string, Run]>([
    ['the model', { vision: { model: 'other' } }],
    ['the instruction', { vision: { extraPrompt: 'Mention the shapes.' } }],
    ['the goal', { options: { goal: 'style' } }],
    ['the frames', { vision: { frames: 3 } }],
    ['the sampling', { vision: { temperature: 0 } }],
  ])('are asked for again when %s changes', async (_what, changed) => {
    await run({ say })
    await run({ say }, changed)
    expect(endpoint!.seen).toHaveLength(3)
  })

  it('of a person are never touched, and cost no request', async () => {
    await dataset.write('b.txt', 'mine')
    const { clips } = await run({ say })
    expect(endpoint!.seen).toHaveLength(2)
    expect(await dataset.read('b.txt')).toBe('mine')
    expect(clips[1]).toMatchObject({ status: 'kept', reason: 'human-caption' })
  })

  it('work for a folder of bare clips', async () => {
    await using bare = await makeDataset({ 'sub/x.mp4': {} }, { manifest: false })
    const answer = await run({ say }, { options: { source: bare.folder }, context: realFrames })
    expect(answer.counts.written).toBe(1)
    expect(await bare.read('sub/x.txt')).toBe(`${say}\n`)
  })

  it('are planned in a dry run, which asks and writes nothing', async () => {
    const { clips, counts } = await run(
      { say },
      { options: { dryRun: true }, vision: { apiKeyEnv: 'UNSET_KEY' } },
    )
    expect(endpoint!.seen).toHaveLength(0)
    expect(counts.planned).toBe(3)
    expect(clips[0]!.request).toMatchObject({
      model: 'fake',
      frameTimes: [0, 0.2, 0.4, 0.6, 0.8, 1],
      prompt: expect.stringMatching(/what moves/),
    })
    expect((await readdir(dataset.folder)).toSorted()).toEqual([
      'a.mp4',
      'b.mp4',
      'c.mp4',
      'manifest.jsonl',
    ])
  })
})

describe('an endpoint that fails', () => {
  it.each<[string, Behaviour]>([
    ['HTTP 500', { status: 500 }],
    ['HTTP 503 without Retry-After', { status: 503 }],
    ['HTTP 429 without Retry-After', { status: 429 }],
    ['HTTP 408', { status: 408 }],
    ['a connection that breaks', 'hang-up'],
    ['a stall', 'stall'],
    ['a stall in the middle of the answer', 'stall-in-body'],
    ['a web page in place of an answer', { raw: '<html>Bad gateway</html>', type: 'text/html' }],
    ['JSON that is no chat answer', { raw: '{"ok": true}' }],
    ['half an answer', { raw: '{"choices": [{"message": {"content": "A r' }],
    ['an answer without end', 'endless'],
  ])('is asked again after %s', async (_what, failure) => {
    const { counts, usage } = await run((n) => (n % 2 === 0 ? failure : { say }), {
      vision: { timeoutMs: 300 },
    })
    expect(counts.written).toBe(3)
    expect(usage.requests).toBe(6)
  })

  it.each<[string, Behaviour, string]>([
    [
      'server-error',
      { status: 500, text: '{"error": {"message": "out of memory"}}' },
      'out of memory',
    ],
    ['timeout', 'stall', 'No answer within 100 ms'],
    ['bad-response', { raw: '[]' }, 'not in the chat format'],
    ['unreachable', 'hang-up', '2 tries'],
  ])(
    'costs one clip its caption as %s after all tries, and the run goes on',
    async (reason, failure, detail) => {
      const { clips, events } = await run((n) => (n < 2 ? failure : { say }), {
        vision: { retries: 1, timeoutMs: 100 },
      })
      expect(clips.map((clip) => clip.status)).toEqual(['failed', 'written', 'written'])
      expect(clips[0]).toMatchObject({ reason, detail: expect.stringContaining(detail) })
      expect(events).toContainEqual(
        expect.objectContaining({ type: 'skipped', item: 'a.mp4', reason }),
      )
    },
  )

  it('ends the run when it fails clip after clip', async () => {
    const failing = run({ status: 500 }, { vision: { retries: 0, maxFailures: 2 } })
    await expect(failing).rejects.toMatchObject({ code: 'CAPTIONER_ENDPOINT_FAILING' })
    expect(endpoint!.seen).toHaveLength(2)
  })

  it.each([
    [401, 'CAPTIONER_UNAUTHORISED'],
    [403, 'CAPTIONER_UNAUTHORISED'],
    [404, 'CAPTIONER_NOT_FOUND'],
  ])('ends the run at HTTP %i, which no further try mends', async (status, code) => {
    await expect(run({ status })).rejects.toMatchObject({ code })
    expect(endpoint!.seen).toHaveLength(1)
  })

  it('is not asked again about a request it rejects', async () => {
    const { clips } = await run((n) =>
      n === 0 ? { status: 400, text: 'too many images' } : { say },
    )
    expect(clips[0]).toMatchObject({
      reason: 'rejected',
      detail: 'HTTP 400: too many images',
    })
    expect(endpoint!.seen).toHaveLength(3)
  })

  it('waits longer from try to try, by at least half the doubled base', async () => {
    await run((n) => (n < 3 ? { status: 500 } : { say }), { vision: { retryBaseMs: 40 } })
    const gaps = endpoint!.seen.slice(1, 4).map(({ at }, i) => at - endpoint!.seen[i]!.at)
    expect(gaps[0]!).toBeGreaterThanOrEqual(19)
    expect(gaps[1]!).toBeGreaterThanOrEqual(39)
    expect(gaps[2]!).toBeGreaterThanOrEqual(79)
  })

  it('is unreachable where nobody listens', async () => {
    const url = 'http://127.0.0.1:9/v1'
    const { clips } = await run({ say }, { vision: { url, retries: 0 } })
    expect(clips[0]).toMatchObject({ reason: 'unreachable' })
  })
})

describe('rate limits', () => {
  it('are waited out for as long as Retry-After says, by every request', async () => {
    const limited: Behaviour = { status: 429, headers: { 'retry-after': '1' } }
    const { counts } = await run((n) => (n === 0 ? limited : { say }), {
      vision: { concurrency: 1 },
    })
    expect(counts.written).toBe(3)
    const [first, second] = endpoint!.seen
    expect(second!.at - first!.at).toBeGreaterThanOrEqual(990)
  })

  it('may give a date', async () => {
    const date = new Date(Date.now() + 1500).toUTCString()
    const { counts } = await run((n) =>
      n === 0 ? { status: 429, headers: { 'retry-after': date } } : { say },
    )
    expect(counts.written).toBe(3)
  })

  it('past what may be waited for cost the clip its caption', async () => {
    const limited: Behaviour = { status: 429, headers: { 'retry-after': '3600' } }
    const { clips } = await run((n) => (n === 0 ? limited : { say }))
    expect(clips[0]).toMatchObject({
      reason: 'rate-limited',
      detail: expect.stringContaining('it asks to wait 3600 s'),
    })
    expect(endpoint!.seen).toHaveLength(3)
  })
})

describe('a model that lies', () => {
  it.each<[string, Behaviour]>([
    ['empty', { say: '' }],
    ['empty', { say: '<think>Let me look at the frames' }],
    ['empty', { choice: { message: { role: 'assistant', content: null } } }],
    ['refusal', { say: "I'm sorry, but I can't help with that." }],
    ['refusal', { choice: { finish_reason: 'content_filter', message: { content: '' } } }],
    ['refusal', { choice: { message: { content: null, refusal: 'Not allowed.' } } }],
    ['html', { say: '<!DOCTYPE html><html><body>Login</body></html>' }],
    ['other-script', { say: '一个红色的方块向上移动，相机跟随。' }],
    ['other-script', { say: 'Красный квадрат медленно движется вверх за камерой.' }],
    ['garbage', { say: 'the the the the the the the the the the the the' }],
    ['garbage', { say: '{"caption": "a square"}' }],
    ['garbage', { say: '!!!!!!!!' }],
    [
      'prompt-echo',
      {
        say: 'Describe what moves and how: name the subject in a few plain words, then its movement in the order it happens.',
      },
    ],
    ['too-long', { say: Array.from({ length: 130 }, (_, i) => `word${i}`).join(' ') }],
    ['too-long', { choice: { finish_reason: 'length', message: { content: 'A red square and' } } }],
  ])('is found out (%s) and told: %j', async (reason, lie) => {
    const { clips, counts } = await run((n) => (n === 1 ? lie : { say }))
    expect(counts).toMatchObject({ written: 2, failed: 1 })
    expect(clips[1]).toMatchObject({ clip: 'b.mp4', status: 'failed', reason })
    expect(await readdir(dataset.folder)).not.toContain('b.txt')
  })

  it('is asked again in the next run: only captions are kept', async () => {
    await run((n) => (n === 1 ? { say: '' } : { say }))
    const { counts } = await run({ say: 'A blue disc rolls away.' })
    expect(endpoint!.seen).toHaveLength(1)
    expect(counts).toMatchObject({ written: 1, unchanged: 2 })
    expect(await dataset.read('b.txt')).toBe('A blue disc rolls away.\n')
  })
})

describe('the budget', () => {
  it.each<[string, NonNullable<CaptionClipsOptions['vision']>, number]>([
    ['requests', { maxRequests: 2 }, 2],
    // One request is reckoned at 6 × 500 tokens, its text and 400 out; what it took was 120.
    ['tokens', { maxTotalTokens: 3700 }, 2],
    ['cost', { maxCost: 0.0041, inputPrice: 1, outputPrice: 2 }, 2],
    ['nothing at all', { maxRequests: 0 }, 0],
  ])('ends a run at its cap of %s', async (_what, vision, asked) => {
    const { counts, events, clips } = await run({ say }, { vision })
    expect(endpoint!.seen).toHaveLength(asked)
    expect(counts).toMatchObject({ written: asked, failed: 3 - asked })
    expect(clips.at(-1)).toMatchObject({ reason: 'budget' })
    expect(events).toContainEqual(expect.objectContaining({ code: 'CAPTIONER_BUDGET_REACHED' }))
  })

  it('holds for requests under way at once', async () => {
    await run({ say }, { vision: { maxRequests: 2, concurrency: 3 } })
    expect(endpoint!.seen).toHaveLength(2)
  })

  it('waits for requests under way that may take less than expected', async () => {
    const { usage } = await run({ say }, { vision: { maxTotalTokens: 3700, concurrency: 3 } })
    expect(usage.requests).toBe(2)
  })

  it('is free again after a request that failed', async () => {
    const { counts } = await run((n) => (n === 0 ? { status: 500 } : { say }), {
      vision: { maxTotalTokens: 4000, concurrency: 3 },
    })
    expect(counts.written).toBe(3)
  })

  it('counts further tries', async () => {
    const { usage } = await run({ status: 500 }, { vision: { maxRequests: 4, retries: 9 } })
    expect(usage.requests).toBe(4)
    expect(endpoint!.seen).toHaveLength(4)
  })

  it('does not stop captions that are known already', async () => {
    await run({ say })
    const { counts } = await run({ say }, { vision: { maxRequests: 0 } })
    expect(counts).toMatchObject({ unchanged: 3, failed: 0 })
  })

  it('reckons tokens where the server does not say', async () => {
    const { usage } = await run({ say, usage: null })
    expect(usage.estimated).toBe(true)
    expect(usage.inputTokens).toBeGreaterThan(3 * 3000)
  })
})

describe('settings that cannot work', () => {
  it.each<[string, NonNullable<CaptionClipsOptions['vision']>]>([
    ['CAPTIONER_NO_ENDPOINT', { model: 'm' }],
    ['CAPTIONER_NO_ENDPOINT', { url: 'http://127.0.0.1:9/v1' }],
    ['CAPTIONER_NO_KEY', { url: 'http://127.0.0.1:9/v1', model: 'm', apiKeyEnv: 'NOT_SET' }],
    ['CAPTIONER_BAD_OPTIONS', { url: 'http://user:key@127.0.0.1:9/v1', model: 'm' }],
    ['CAPTIONER_BAD_OPTIONS', { url: 'file:///etc/passwd', model: 'm' }],
    ['CAPTIONER_BAD_OPTIONS', { apiKeyEnv: 'sk-12345' }],
  ])('are refused with %s before anything is asked: %j', async (code, vision) => {
    const refused = captionClips(
      { source: dataset.folder, provider: 'vision', vision },
      { env: {} },
    )
    await expect(refused).rejects.toMatchObject({ code })
  })
})

it('an abort ends a stalled run at once and leaves nothing half-written', async () => {
  const controller = new AbortController()
  const stalled = run((n) => (n === 0 ? { say } : 'stall'), {
    context: { signal: controller.signal },
  })
  setTimeout(() => controller.abort(), 700)
  await expect(stalled).rejects.toMatchObject({ name: 'AbortError' })
  const files = await readdir(dataset.folder)
  expect(files).toContain('a.txt')
  expect(files.filter((name) => /\.tmp$|^\.\d/.test(name))).toEqual([])
})

it('a clip that cannot be read is told and the run goes on', async () => {
  await dataset.write('b.mp4', 'this is no video')
  const { clips, counts } = await run({ say }, { context: realFrames })
  expect(clips[1]).toMatchObject({ reason: 'unreadable' })
  expect(counts).toMatchObject({ written: 2, failed: 1 })
})
