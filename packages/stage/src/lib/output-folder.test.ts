import { spawn } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { lockFolder, requireFreeSpace, writeFileAtomic } from './output-folder.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-folder-'))
})
afterEach(() => rm(folder, { recursive: true }))

describe('writeFileAtomic', () => {
  it('writes text, bytes and streams, making folders', async () => {
    const file = join(folder, 'deep', 'a.txt')
    await writeFileAtomic(file, 'one')
    expect(await readFile(file, 'utf8')).toBe('one')
    await writeFileAtomic(file, [Buffer.from('tw'), Buffer.from('o')])
    expect(await readFile(file, 'utf8')).toBe('two')
    expect(await readdir(join(folder, 'deep'))).toEqual(['a.txt'])
  })

  it('leaves the old file and no temporary one when the data fails half-way', async () => {
    const file = join(folder, 'a.txt')
    await writeFileAtomic(file, 'old')
    async function* failing() {
      yield Buffer.from('ne')
      throw new Error('source ended')
    }
    await expect(writeFileAtomic(file, failing())).rejects.toThrow('source ended')
    expect(await readFile(file, 'utf8')).toBe('old')
    expect(await readdir(folder)).toEqual(['a.txt'])
  })

  it('says which path is a file where a folder is needed', async () => {
    await writeFileAtomic(join(folder, 'a'), 'file')
    await expect(writeFileAtomic(join(folder, 'a', 'b.txt'), 'x')).rejects.toMatchObject({
      code: 'STAGE_NOT_A_FOLDER',
    })
  })
})

describe('lockFolder', () => {
  it('refuses a folder that another run holds, in this process or another', async () => {
    const out = join(folder, 'out')
    const lock = await lockFolder(out)
    await expect(lockFolder(out)).rejects.toMatchObject({
      code: 'STAGE_FOLDER_IN_USE',
      message: expect.stringContaining(`process ${process.pid}`),
      fix: expect.stringContaining('.kinora.lock'),
    })
    await lock.release()
    expect(await readdir(out)).toEqual([])
    await using _ = await lockFolder(out)
    expect(await readdir(out)).toEqual(['.kinora.lock'])
  })

  it('takes over the lock of a process that is gone', async () => {
    const child = spawn(process.execPath, ['-e', ''])
    await new Promise((done) => child.once('exit', done))
    await writeLock({ pid: child.pid, host: hostname(), processStart: '1', since: 'then' })
    await using _ = await lockFolder(folder)
    expect(await readFile(join(folder, '.kinora.lock'), 'utf8')).toContain(`"pid":${process.pid}`)
  })

  it.runIf(process.platform === 'linux')(
    'takes over the lock of a process whose id now belongs to another',
    async () => {
      await writeLock({ pid: process.pid, host: hostname(), processStart: '1', since: 'then' })
      await using _ = await lockFolder(folder)
      expect(await readFile(join(folder, '.kinora.lock'), 'utf8')).not.toContain(
        '"processStart":"1"',
      )
    },
  )

  it('respects the lock of another machine until its heartbeat is ten minutes old', async () => {
    await writeLock({ pid: 1, host: 'elsewhere', processStart: null, since: 'then' })
    await expect(lockFolder(folder)).rejects.toMatchObject({
      message: expect.stringContaining('process 1 on elsewhere'),
    })
    const old = new Date(Date.now() - 11 * 60_000)
    await utimes(join(folder, '.kinora.lock'), old, old)
    await using _ = await lockFolder(folder)
  })

  it('lets exactly one of many claimants have a stale lock', async () => {
    await writeLock({ pid: 2 ** 30, host: hostname(), processStart: '1', since: 'then' })
    const claims = await Promise.allSettled(Array.from({ length: 8 }, () => lockFolder(folder)))
    const held = claims.filter((claim) => claim.status === 'fulfilled')
    expect(held).toHaveLength(1)
    await held[0]!.value.release()
    expect(await readdir(folder)).toEqual([])
  })

  async function writeLock(holder: unknown): Promise<void> {
    await mkdir(folder, { recursive: true })
    await writeFile(join(folder, '.kinora.lock'), `${JSON.stringify(holder)}\n`)
  }
})

describe('requireFreeSpace', () => {
  it('refuses before the work when the disk cannot hold it', async () => {
    await requireFreeSpace(folder, 1)
    await expect(requireFreeSpace(folder, 2 ** 60)).rejects.toMatchObject({
      code: 'STAGE_NOT_ENOUGH_SPACE',
    })
  })
})
