import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { MetricsEntry } from '@kinora/config-schema'
import { afterEach, describe, expect, it } from 'vitest'
import { createWebhookOutlet } from './webhook-outlet.ts'

type Answer = (request: IncomingMessage, response: ServerResponse, attempt: number) => void

let server: Server | undefined
afterEach(async () => {
  server?.closeAllConnections()
  await new Promise((resolve) => (server ? server.close(resolve) : resolve(undefined)))
  server = undefined
})

/** A receiver on loopback; `answer` says how it behaves. */
async function receiver(answer: Answer): Promise<{ url: string; bodies: unknown[] }> {
  const bodies: unknown[] = []
  let attempts = 0
  server = createServer((request, response) => {
    let text = ''
    request.setEncoding('utf8').on('data', (part) => {
      text += part
    })
    request.on('end', () => {
      bodies.push(JSON.parse(text))
      answer(request, response, ++attempts)
    })
  })
  await new Promise<void>((resolve) => server!.listen(0, '127.0.0.1', resolve))
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/secret-path`, bodies }
}

const ok: Answer = (_, response) => response.end('ok')

const step = (number: number): MetricsEntry => ({
  type: 'step',
  step: number,
  expert: 'high',
  expertStep: number,
  loss: 1 / number,
  gradNorm: 1,
  learningRate: 1e-4,
  timesteps: [950],
  lossScale: 1,
  seconds: { total: 1 },
  memory: { liveMiB: 1, peakMiB: 1 },
})

const stepsOf = (bodies: readonly unknown[]): number[] =>
  bodies.map((body) => (body as { entry: { step: number } }).entry.step)

describe('createWebhookOutlet', () => {
  it('posts each entry as JSON, in order', async () => {
    const { url, bodies } = await receiver(ok)
    const outlet = createWebhookOutlet({ url, run: 'crane' })
    for (let i = 1; i <= 5; i++) outlet.write(step(i))
    await outlet.close()
    expect(bodies[0]).toEqual({ run: 'crane', entry: step(1) })
    expect(stepsOf(bodies)).toEqual([1, 2, 3, 4, 5])
    expect(outlet.takeWarnings()).toEqual([])
  })

  it('posts every nth step, and all else always', async () => {
    const { url, bodies } = await receiver(ok)
    const outlet = createWebhookOutlet({ url, run: 'crane', every: 3 })
    for (let i = 1; i <= 7; i++) {
      outlet.write(step(i))
      if (i === 5) outlet.write({ type: 'save', step: 5 })
    }
    await outlet.close()
    expect(stepsOf(bodies)).toEqual([1, 4, 5, 7])
  })

  it('tries again after failures of the receiver, and only so often', async () => {
    const { url, bodies } = await receiver((_, response, attempt) => {
      response.writeHead(attempt <= 2 ? 503 : 200).end()
    })
    const outlet = createWebhookOutlet({ url, run: 'a', retryMs: 1 })
    outlet.write(step(1))
    await outlet.close()
    expect(stepsOf(bodies)).toEqual([1, 1, 1])
    expect(outlet.takeWarnings()).toEqual([])
  })

  it('gives up after its tries, goes on with the next entry, and warns without the address', async () => {
    const { url, bodies } = await receiver((_, response) => {
      response.writeHead(500).end()
    })
    const outlet = createWebhookOutlet({ url, run: 'a', retryMs: 1, maxTries: 3 })
    outlet.write(step(1))
    outlet.write(step(2))
    await outlet.close()
    expect(stepsOf(bodies)).toEqual([1, 1, 1, 2, 2, 2])
    const warnings = outlet.takeWarnings()
    expect(warnings.map(({ code }) => code)).toEqual([
      'RUN_LOG_WEBHOOK_FAILED',
      'RUN_LOG_WEBHOOK_FAILED',
    ])
    expect(warnings[0]!.message).toContain('it answered 500')
    expect(warnings[1]!.message).toContain('2 entries')
    expect(JSON.stringify(warnings)).not.toContain('secret-path')
  })

  it('does not try again what is refused for good', async () => {
    const { url, bodies } = await receiver((_, response) => {
      response.writeHead(404).end()
    })
    const outlet = createWebhookOutlet({ url, run: 'a', retryMs: 1 })
    outlet.write(step(1))
    await outlet.close()
    expect(bodies).toHaveLength(1)
    expect(outlet.takeWarnings()[0]!.message).toContain('404')
  })

  it('never holds up the run: a receiver that does not answer costs the time of closing alone', async () => {
    const { url } = await receiver(() => {})
    const outlet = createWebhookOutlet({ url, run: 'a', closeMs: 150 })
    const began = performance.now()
    for (let i = 1; i <= 1000; i++) outlet.write(step(i))
    expect(performance.now() - began).toBeLessThan(100)
    await outlet.close()
    expect(performance.now() - began).toBeLessThan(2000)
    expect(outlet.takeWarnings().at(-1)!.message).toMatch(/\d+ entries were not delivered/)
  })

  it('survives an address where nobody listens, and one that is none', async () => {
    for (const url of ['http://127.0.0.1:1/', 'no address']) {
      const outlet = createWebhookOutlet({ url, run: 'a', retryMs: 1, maxTries: 2 })
      outlet.write(step(1))
      await outlet.close()
      expect(outlet.takeWarnings()).toHaveLength(1)
    }
  })
})
