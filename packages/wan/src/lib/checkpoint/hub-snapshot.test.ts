import { lstat, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { CopiedCheckpoint, tinyWan } from '../../../test/copied-checkpoint.ts'
import { FakeHub } from '../../../test/fake-hub.ts'
import type { DownloadProgress } from './hub-snapshot.ts'
import { openCheckpoint } from './open-checkpoint.ts'

const weights = 'transformer/diffusion_pytorch_model.safetensors'
const vae = 'vae/diffusion_pytorch_model.safetensors'

let cacheDir: string
beforeEach(async () => {
  cacheDir = await mkdtemp(join(tmpdir(), 'kinora-hub-'))
})
afterEach(() => rm(cacheDir, { recursive: true, force: true }))

const repoFolder = () => join(cacheDir, 'models--tiny--wan')
const open = (hub: FakeHub, more: object = {}) =>
  openCheckpoint('tiny/wan', { cacheDir, hubUrl: hub.url, ...more })

/** A file has the bytes of the original. (`toEqual` on megabytes takes seconds.) */
const isSame = async (dir: string, file: string) =>
  (await readFile(join(dir, file))).equals(await readFile(join(tinyWan, file)))

describe('a checkpoint on the Hub', () => {
  it('is downloaded once, laid out as huggingface_hub does, and found again', async () => {
    await using hub = await FakeHub.over(tinyWan, { 'README.md': Buffer.from('not fetched') })
    const progress: DownloadProgress[] = []
    const checkpoint = await open(hub, { onProgress: (p: DownloadProgress) => progress.push(p) })
    expect(checkpoint.dir).toBe(join(repoFolder(), 'snapshots', hub.commit))
    expect((await lstat(join(checkpoint.dir, weights))).isSymbolicLink()).toBe(true)
    expect(await isSame(checkpoint.dir, weights)).toBe(true)
    expect(await readFile(join(repoFolder(), 'refs', 'main'), 'utf8')).toBe(hub.commit)
    expect(hub.requests.some((request) => request.startsWith('README'))).toBe(false)
    expect(progress.at(-1)!.doneBytes).toBe(progress.at(-1)!.totalBytes)
    // Configuration first: the weights of a model that is refused are never asked for.
    expect(hub.requests.findIndex((r) => r.includes('.safetensors'))).toBeGreaterThan(5)

    const before = hub.requests.length
    expect((await open(hub)).dir).toBe(checkpoint.dir)
    expect(hub.requests.length).toBe(before)
  })

  it('is used from the cache when the network is away', async () => {
    const hub = await FakeHub.over(tinyWan)
    const { dir } = await open(hub)
    const { url } = hub
    await hub[Symbol.asyncDispose]()
    expect((await openCheckpoint('tiny/wan', { cacheDir, hubUrl: url })).dir).toBe(dir)
    await expect(openCheckpoint('tiny/other', { cacheDir, hubUrl: url })).rejects.toMatchObject({
      code: 'CHECKPOINT_HUB_FAILED',
    })
  })

  it('goes on where a broken transfer stopped', async () => {
    await using hub = await FakeHub.over(tinyWan)
    hub.faults.set(weights, { kind: 'cut', bytes: 1_000_000 })
    const { dir } = await open(hub)
    const requests = hub.requests.filter((request) => request.startsWith(weights))
    expect(requests).toHaveLength(2)
    const [, start] = /bytes=(\d+)-/.exec(requests[1]!)!
    expect(Number(start)).toBeGreaterThan(0)
    expect(Number(start)).toBeLessThanOrEqual(1_000_000)
    expect(await isSame(dir, weights)).toBe(true)
  })

  it('goes on in a later run, checking what the earlier one left', async () => {
    await using hub = await FakeHub.over(tinyWan)
    hub.faults.set(vae, { kind: 'cut', bytes: 2_000_000 })
    const controller = new AbortController()
    const aborted = open(hub, {
      signal: controller.signal,
      onProgress: ({ file }: DownloadProgress) => {
        if (file === vae) setTimeout(() => controller.abort(), 100)
      },
    })
    await expect(aborted).rejects.toThrow('aborted')
    const left = (await readdir(join(repoFolder(), 'blobs'))).filter((f) =>
      f.endsWith('.incomplete'),
    )
    expect(left).toHaveLength(1)
    await open(hub)
    const resumed = hub.requests.filter((request) => request.startsWith(vae)).at(-1)!
    expect(resumed).toMatch(/bytes=[1-9]\d+-/)
    expect(
      (await readdir(join(repoFolder(), 'blobs'))).some((f) => f.endsWith('.incomplete')),
    ).toBe(false)
  })

  it('starts a file over when the server will not send a part of it', async () => {
    await using hub = await FakeHub.over(tinyWan)
    hub.faults.set(weights, { kind: 'cut', bytes: 1_000_000 })
    // The server stops sending parts after the first cut.
    const fetchOnce: typeof fetch = (input, init) => {
      const range = new Headers(init?.headers).get('Range')
      if (String(input).endsWith(weights) && range !== null && range !== 'bytes=0-0') {
        hub.faults.set(weights, { kind: 'ignore-range' })
      }
      return fetch(input, init)
    }
    const { dir } = await open(hub, { fetch: fetchOnce })
    expect(hub.requests.filter((request) => request.startsWith(weights))).toHaveLength(3)
    expect(await isSame(dir, weights)).toBe(true)
  })

  it('refuses a file whose checksum is wrong, and fetches it afresh the next time', async () => {
    await using hub = await FakeHub.over(tinyWan)
    hub.faults.set(weights, { kind: 'corrupt' })
    await expect(open(hub)).rejects.toMatchObject({
      code: 'CHECKPOINT_HUB_CORRUPT',
      message: expect.stringContaining(weights) as string,
    })
    const { dir } = await open(hub)
    expect(await isSame(dir, weights)).toBe(true)
  })

  it('gives up after some attempts without progress, and says why', async () => {
    await using hub = await FakeHub.over(tinyWan)
    hub.faults.set(weights, { kind: 'status', status: 503, times: 100 })
    await expect(open(hub)).rejects.toMatchObject({
      code: 'CHECKPOINT_HUB_FAILED',
      message: expect.stringContaining(weights) as string,
    })
    expect(hub.requests.filter((request) => request.startsWith(weights))).toHaveLength(5)
  })

  it('says so when there is no such model or revision, and when a token is needed', async () => {
    await using hub = await FakeHub.over(tinyWan)
    await expect(openCheckpoint('tiny/other', { cacheDir, hubUrl: hub.url })).rejects.toMatchObject(
      { code: 'CHECKPOINT_HUB_NOT_FOUND' },
    )
    await expect(open(hub, { revision: 'v9' })).rejects.toMatchObject({
      code: 'CHECKPOINT_HUB_NOT_FOUND',
      message: expect.stringContaining('v9') as string,
    })
    hub.token = 'hf_secret'
    await expect(open(hub)).rejects.toMatchObject({ code: 'CHECKPOINT_HUB_UNAUTHORIZED' })
    expect((await open(hub, { accessToken: 'hf_secret' })).boundaryRatio).toBe(0.9)
  })

  it('is refused before its weights are fetched when it is another model', async () => {
    await using copy = await CopiedCheckpoint.make()
    await copy.json('transformer/config.json', { in_channels: 16 })
    await using hub = await FakeHub.over(copy.dir)
    await expect(open(hub)).rejects.toMatchObject({ code: 'CHECKPOINT_TEXT_TO_VIDEO' })
    expect(hub.requests.some((request) => request.includes('.safetensors'))).toBe(false)

    await copy.remove('model_index.json')
    await copy.write('high_noise_model/config.json', '{}')
    await using original = await FakeHub.over(copy.dir)
    await expect(
      openCheckpoint('tiny/wan', { cacheDir, hubUrl: original.url }),
    ).rejects.toMatchObject({ code: 'CHECKPOINT_ORIGINAL_LAYOUT' })
    expect(original.requests).toHaveLength(0)
  })
})
