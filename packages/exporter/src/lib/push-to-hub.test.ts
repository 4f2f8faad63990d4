import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { StageEvent } from '@kinora/stage'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { FakeHub } from '../../test/fake-hub.ts'
import { pushToHub, pushToHubIter } from './push-to-hub.ts'

let hub: FakeHub
let hubUrl: string
let folder: string
let contents: Record<string, Buffer>
beforeEach(async () => {
  hub = new FakeHub()
  hubUrl = await hub.open()
  folder = await mkdtemp(join(tmpdir(), 'kinora-push-'))
  contents = {
    'README.md': Buffer.from('# crane\n'),
    'crane_high_noise.safetensors': randomBytes(50_000),
    'crane_low_noise.safetensors': randomBytes(60_000),
    'previews/0.mp4': randomBytes(2_000),
  }
  await mkdir(join(folder, 'previews'))
  for (const [name, bytes] of Object.entries(contents)) await writeFile(join(folder, name), bytes)
  await writeFile(join(folder, '.kinora.lock'), 'not for others')
})
afterEach(async () => {
  await hub.close()
  await rm(folder, { recursive: true, force: true })
})

const envOf = (token?: string) => ({ HF_ENDPOINT: hubUrl, HF_TOKEN: token })
const push = (token: string | undefined = 'hf_secret') =>
  pushToHub({ folder, repo: 'me/crane' }, { env: envOf(token) })

describe('pushToHub', () => {
  it('makes the repository and uploads every file, hidden ones left out', async () => {
    const events: StageEvent[] = []
    const run = pushToHubIter(
      { folder, repo: 'me/crane', private: true },
      { env: envOf('hf_secret') },
    )
    let next = await run.next()
    while (!next.done) {
      events.push(next.value)
      next = await run.next()
    }
    expect(next.value).toEqual({
      repo: 'me/crane',
      url: `${hubUrl}/me/crane`,
      numFiles: 4,
      commit: 'c0ffee'.padEnd(40, '0'),
    })
    const repo = hub.repos.get('me/crane')!
    expect(repo.private).toBe(true)
    expect([...repo.files.keys()].toSorted()).toEqual(Object.keys(contents).toSorted())
    for (const [name, bytes] of Object.entries(contents)) {
      expect(repo.files.get(name)!.equals(bytes), name).toBe(true)
    }
    expect([...hub.tokens]).toEqual(['hf_secret'])
    expect(events.at(0)).toMatchObject({ type: 'started', total: 4 })
    expect(events.filter(({ type }) => type === 'progress').at(-1)).toMatchObject({ done: 4 })
    expect(JSON.stringify(events)).not.toContain('hf_secret')
  })

  it('takes a repository that is there', async () => {
    await push()
    await writeFile(join(folder, 'README.md'), '# crane, again\n')
    await push()
    expect(hub.repos.get('me/crane')!.files.get('README.md')!.toString()).toBe('# crane, again\n')
  })

  it('goes on after a transfer broke: what arrived is not sent again, and nothing half is committed', async () => {
    // The low-noise file never arrives, in any attempt.
    const low = createHash('sha256').update(contents['crane_low_noise.safetensors']!).digest('hex')
    hub.fail = (line) => (line === `PUT /store/${low}` ? 503 : undefined)
    await expect(push()).rejects.toMatchObject({ code: 'EXPORTER_HUB_FAILED' })
    expect(hub.repos.get('me/crane')!.files.size).toBe(0)
    const arrived = hub.uploads.length
    hub.fail = () => undefined
    await push()
    expect(hub.uploads.slice(arrived)).toEqual([low])
    expect(new Set(hub.uploads).size).toBe(hub.uploads.length)
    expect(hub.repos.get('me/crane')!.files.size).toBe(4)
  })

  it('tries again by itself when the Hub stumbles', async () => {
    let stumbles = 2
    hub.fail = (line) => (/commit/.test(line) && stumbles-- > 0 ? 500 : undefined)
    expect((await push()).commit).toMatch(/^c0ffee/)
  })

  it('refuses before any request without a token, or with a name that is none', async () => {
    await expect(push('')).rejects.toMatchObject({
      code: 'EXPORTER_NO_TOKEN',
      message: expect.stringContaining('me/crane'),
      fix: expect.stringContaining('HF_TOKEN'),
    })
    for (const repo of ['crane', 'me/crane/deep', '../x', 'me/']) {
      await expect(pushToHub({ folder, repo }, { env: envOf('hf_secret') })).rejects.toMatchObject({
        code: 'EXPORTER_BAD_REPO',
      })
    }
    expect(hub.requests).toEqual([])
  })

  it('says that a token may not write, once, and does not print it', async () => {
    const error = await push('hf_wrong').catch((thrown: unknown) => thrown as Error)
    expect(error).toMatchObject({ code: 'EXPORTER_HUB_REFUSED' })
    expect(String(error)).toContain('401')
    expect(JSON.stringify(error) + String(error)).not.toContain('hf_wrong')
    expect(hub.requests).toHaveLength(1)
  })

  it('refuses an empty folder, and one that is not there', async () => {
    await mkdir(join(folder, 'empty'))
    const context = { env: envOf('hf_secret') }
    await expect(
      pushToHub({ folder: join(folder, 'empty'), repo: 'me/a' }, context),
    ).rejects.toMatchObject({ code: 'EXPORTER_NOTHING_TO_PUSH' })
    await expect(
      pushToHub({ folder: join(folder, 'none'), repo: 'me/a' }, context),
    ).rejects.toMatchObject({ code: expect.stringMatching(/^STAGE_/) })
  })
})
