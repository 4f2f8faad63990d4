import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'

/** What goes wrong with a file, once or as often as `times` says. */
export interface Fault {
  kind: 'cut' | 'corrupt' | 'ignore-range' | 'status'
  /** Bytes sent before the connection is cut. */
  bytes?: number
  status?: number
  times?: number
}

/** The parts of the Hub's HTTP interface that a download uses, over a folder, on loopback. */
export class FakeHub implements AsyncDisposable {
  readonly commit = '0123456789abcdef0123456789abcdef01234567'
  readonly faults = new Map<string, Fault>()
  /** `path range` of every file request but the probes for a size. */
  readonly requests: string[] = []
  /** Refuses everything without this token, with 401. */
  token: string | undefined
  readonly #files = new Map<string, Buffer>()
  readonly #server = createServer((request, response) => {
    this.#answer(request, response)
  })

  static async over(folder: string, changes: Record<string, Buffer> = {}): Promise<FakeHub> {
    const hub = new FakeHub()
    for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() && !entry.isSymbolicLink()) continue
      const file = join(entry.parentPath, entry.name)
      hub.#files.set(file.slice(folder.length + 1), await readFile(file))
    }
    for (const [path, data] of Object.entries(changes)) hub.#files.set(path, data)
    hub.#server.listen(0, '127.0.0.1')
    await once(hub.#server, 'listening')
    return hub
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  size(path: string): number {
    return this.#files.get(path)!.length
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#server.listening) return
    this.#server.closeAllConnections()
    this.#server.close()
    await once(this.#server, 'close')
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { pathname } = new URL(request.url!, this.url)
    const json = (status: number, value: unknown) => {
      response.writeHead(status, { 'Content-Type': 'application/json' })
      response.end(JSON.stringify(value))
    }
    if (this.token && request.headers.authorization !== `Bearer ${this.token}`) {
      return json(401, { error: 'Invalid username or password.' })
    }
    if (pathname.startsWith('/api/models/tiny/wan/revision/')) {
      const revision = pathname.split('/').at(-1)!
      if (revision !== 'main' && revision !== this.commit) {
        return json(404, { error: 'Invalid rev id' })
      }
      return json(200, { _id: '1', id: 'tiny/wan', sha: this.commit, lastModified: '2026-01-01' })
    }
    if (pathname === `/api/models/tiny/wan/tree/${this.commit}`) {
      return json(
        200,
        [...this.#files].map(([path, data]) => this.#entry(path, data)),
      )
    }
    const prefix = `/tiny/wan/resolve/${this.commit}/`
    if (pathname.startsWith(prefix)) {
      return this.#sendFile(pathname.slice(prefix.length), request, response)
    }
    json(404, { error: 'Repository not found' })
  }

  /** As the Hub: weights by SHA-256, small files by what git calls them. */
  #entry(path: string, data: Buffer) {
    const oid = createHash('sha1').update(`blob ${data.length}\0`).update(data).digest('hex')
    const entry = { type: 'file', path, size: data.length, oid }
    if (!path.endsWith('.safetensors')) return entry
    const sha256 = createHash('sha256').update(data).digest('hex')
    return { ...entry, lfs: { oid: sha256, size: data.length, pointerSize: 134 } }
  }

  #sendFile(path: string, request: IncomingMessage, response: ServerResponse): void {
    const whole = this.#files.get(path)
    if (!whole) {
      response.writeHead(404, { 'X-Error-Code': 'EntryNotFound' })
      response.end()
      return
    }
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? []
    const isProbe = from === '0' && to === '0'
    if (!isProbe) this.requests.push(`${path} ${request.headers.range ?? 'whole'}`)
    const fault = isProbe ? undefined : this.#takeFault(path)
    if (fault?.kind === 'status') {
      response.writeHead(fault.status!)
      response.end()
      return
    }
    const ranged = from !== undefined && fault?.kind !== 'ignore-range'
    let data = ranged ? whole.subarray(Number(from), Number(to) + 1) : whole
    if (fault?.kind === 'corrupt') {
      data = Buffer.from(data)
      data[data.length >> 1]! ^= 0xff
    }
    response.writeHead(ranged ? 206 : 200, {
      'Content-Length': data.length,
      'Content-Type': 'application/octet-stream',
      ETag: '"x"',
      ...(ranged ? { 'Content-Range': `bytes ${from}-${to}/${whole.length}` } : {}),
    })
    if (fault?.kind === 'cut') {
      response.write(data.subarray(0, fault.bytes), () => {
        // Time for the bytes to leave before the connection goes.
        setTimeout(() => response.destroy(), 20)
      })
    } else response.end(data)
  }

  #takeFault(path: string): Fault | undefined {
    const fault = this.faults.get(path)
    if (!fault) return undefined
    fault.times = (fault.times ?? 1) - 1
    if (fault.times <= 0) this.faults.delete(path)
    return fault
  }
}
