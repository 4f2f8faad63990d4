import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect } from 'vitest'

/** A Hub on loopback: repositories, the large-file store, commits, as the client of the Hub speaks to them. */
export class FakeHub {
  readonly repos = new Map<string, { private: boolean; files: Map<string, Buffer> }>()
  readonly store = new Map<string, Buffer>()
  /** Requests by method and path, and the tokens they bore. */
  readonly requests: string[] = []
  readonly tokens = new Set<string | undefined>()
  /** Large files that arrived, by checksum, in order. */
  readonly uploads: string[] = []
  /** Asked before each request; a status ends it. */
  fail: (request: string) => number | undefined = () => undefined
  #server!: Server

  async open(): Promise<string> {
    this.#server = createServer((request, response) => {
      void this.#answer(request, response)
    })
    await new Promise<void>((done) => this.#server.listen(0, '127.0.0.1', done))
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((done) => this.#server.close(done))
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const parts: Buffer[] = []
    for await (const part of request) parts.push(part as Buffer)
    const body = Buffer.concat(parts)
    const path = request.url!
    const line = `${request.method} ${path}`
    this.requests.push(line)
    const json = (status: number, value: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' })
      response.end(JSON.stringify(value))
    }
    const failure = this.fail(line)
    if (failure !== undefined) return json(failure, { error: `Fake status ${failure}` })
    const token = request.headers.authorization?.replace('Bearer ', '')
    if (!path.startsWith('/store/')) {
      this.tokens.add(token)
      if (token !== 'hf_secret') return json(401, { error: 'Invalid credentials' })
    }
    const origin = `http://${request.headers.host}`
    if (line === 'POST /api/repos/create') {
      const { name, organization, visibility } = JSON.parse(body.toString()) as Record<
        string,
        string
      >
      const repo = `${organization}/${name}`
      if (this.repos.has(repo)) return json(409, { error: 'You already created this model repo' })
      this.repos.set(repo, { private: visibility === 'private', files: new Map() })
      return json(200, { url: `${origin}/${repo}`, id: repo })
    }
    const preupload = /^POST \/api\/models\/(.+)\/preupload\/main$/.exec(line)
    if (preupload) {
      const { files } = JSON.parse(body.toString()) as { files: { path: string }[] }
      return json(200, {
        files: files.map(({ path: file }) => ({
          path: file,
          uploadMode: /\.(safetensors|mp4)$/.test(file) ? 'lfs' : 'regular',
        })),
      })
    }
    if (path.endsWith('.git/info/lfs/objects/batch')) {
      const { objects, transfers } = JSON.parse(body.toString()) as {
        objects: { oid: string; size: number }[]
        transfers: string[]
      }
      expect(transfers).not.toContain('xet')
      return json(200, {
        transfer: 'basic',
        objects: objects.map((object) =>
          this.store.has(object.oid)
            ? object
            : { ...object, actions: { upload: { href: `${origin}/store/${object.oid}` } } },
        ),
      })
    }
    if (request.method === 'PUT' && path.startsWith('/store/')) {
      const oid = path.slice('/store/'.length)
      expect(createHash('sha256').update(body).digest('hex')).toBe(oid)
      this.store.set(oid, body)
      this.uploads.push(oid)
      response.end()
      return
    }
    const commit = /^POST \/api\/models\/(.+)\/commit\/main$/.exec(line)
    if (commit) {
      const { files } = this.repos.get(commit[1]!)!
      for (const text of body.toString().trim().split('\n')) {
        const { key, value } = JSON.parse(text) as {
          key: string
          value: { path: string; content: string; oid: string; summary?: string }
        }
        if (key === 'file') files.set(value.path, Buffer.from(value.content, 'base64'))
        if (key === 'lfsFile') files.set(value.path, this.store.get(value.oid)!)
      }
      return json(200, {
        success: true,
        commitOid: 'c0ffee'.padEnd(40, '0'),
        commitUrl: '',
        hookOutput: '',
      })
    }
    return json(404, { error: `No ${line}` })
  }
}
