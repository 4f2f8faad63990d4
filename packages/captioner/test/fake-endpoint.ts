import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** What the fake was sent. */
export interface SeenRequest {
  at: number
  path: string
  authorization: string | undefined
  body: {
    model?: string
    max_tokens?: number
    messages: {
      role: string
      content: { type: string; text?: string; image_url?: { url: string } }[]
    }[]
    [field: string]: unknown
  }
}

/** How the fake behaves for one request. */
export type Behaviour =
  | { say: string; usage?: { prompt_tokens: number; completion_tokens: number } | null }
  | { choice: Record<string, unknown> }
  | { status: number; headers?: Record<string, string>; text?: string }
  | { raw: string; type?: string }
  | 'stall'
  | 'stall-in-body'
  | 'hang-up'
  | 'endless'

/** A chat endpoint on loopback that does as it is told: answers, fails, stalls, limits and lies. */
export interface FakeEndpoint extends AsyncDisposable {
  url: string
  seen: SeenRequest[]
  /** Most requests that were open at once. */
  maxOpen: number
}

/** @param behave what to do with the n-th request, counted from 0 */
export async function startFakeEndpoint(
  behave: (n: number, request: SeenRequest) => Behaviour | Promise<Behaviour>,
): Promise<FakeEndpoint> {
  const seen: SeenRequest[] = []
  let open = 0
  const fake = { maxOpen: 0 }
  const server = createServer((request, response) => {
    open++
    fake.maxOpen = Math.max(fake.maxOpen, open)
    response.on('close', () => open--)
    void answer(request, response)
  })

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = ''
    for await (const chunk of request) text += String(chunk)
    const entry: SeenRequest = {
      at: performance.now(),
      path: request.url ?? '',
      authorization: request.headers.authorization,
      body: JSON.parse(text),
    }
    const behaviour = await behave(seen.push(entry) - 1, entry)
    if (behaviour === 'stall') return
    if (behaviour === 'hang-up') return void request.socket.destroy()
    if (behaviour === 'stall-in-body') {
      response.writeHead(200, { 'content-type': 'application/json' }).write('{"choices": [')
      return
    }
    if (behaviour === 'endless') {
      response.writeHead(200, { 'content-type': 'application/json' })
      const block = ' '.repeat(1 << 16)
      const pump = (): void => {
        while (!response.destroyed && response.write(block));
        if (!response.destroyed) response.once('drain', pump)
      }
      return pump()
    }
    if ('status' in behaviour) {
      response.writeHead(behaviour.status, behaviour.headers).end(behaviour.text ?? '')
      return
    }
    if ('raw' in behaviour) {
      response
        .writeHead(200, { 'content-type': behaviour.type ?? 'application/json' })
        .end(behaviour.raw)
      return
    }
    const choice =
      'choice' in behaviour
        ? behaviour.choice
        : { finish_reason: 'stop', message: { role: 'assistant', content: behaviour.say } }
    const usage =
      'usage' in behaviour ? behaviour.usage : { prompt_tokens: 100, completion_tokens: 20 }
    response
      .writeHead(200, { 'content-type': 'application/json' })
      .end(JSON.stringify({ choices: [choice], ...(usage && { usage }) }))
  }

  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return Object.assign(fake, {
    url: `http://127.0.0.1:${port}/v1`,
    seen,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  })
}
