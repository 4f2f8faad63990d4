import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { afterEach, beforeEach, expect, it } from 'vitest'

import { openTuningFile, tuningFile } from './tuning-file.ts'

let folder: string
let notes: string[]
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-tuning-'))
  notes = []
})
afterEach(() => rm(folder, { recursive: true }))
const open = () => openTuningFile(join(folder, 'deep', 'tuning.json'), (note) => notes.push(note))

it('keeps records of several adapters, and leaves nothing half-written', async () => {
  await open().save('a', { refused: [], block: '128x128x32' })
  await open().save('b', { refused: ['conv3d'] })
  expect(await open().load('a')).toEqual({ refused: [], block: '128x128x32' })
  expect(await open().load('b')).toEqual({ refused: ['conv3d'] })
  expect(await open().load('c')).toBeUndefined()
  expect(await readdir(join(folder, 'deep'))).toEqual(['tuning.json'])
  expect(notes).toEqual([])
})

it('many that save at once leave a whole file', async () => {
  const names = Array.from({ length: 20 }, (_, i) => `adapter ${i}`)
  await Promise.all(names.map((name) => open().save(name, { refused: [] })))
  const text = await readFile(join(folder, 'deep', 'tuning.json'), 'utf8')
  expect(Object.keys(JSON.parse(text).adapters).length).toBeGreaterThan(0)
  expect(notes).toEqual([])
})

it('ignores a damaged file with a note, and records it does not know', async () => {
  await open().save('a', { refused: [] })
  const file = join(folder, 'deep', 'tuning.json')
  await writeFile(file, '{"format": 1, "adapters": {"a": {"refu')
  expect(await open().load('a')).toBeUndefined()
  expect(notes).toHaveLength(1)
  await open().save('b', { refused: [] })
  expect(await open().load('b')).toEqual({ refused: [] })
  const adapters = {
    x: { refused: ['warp'] },
    y: { refused: [], block: 'huge' },
    z: { refused: [] },
  }
  await writeFile(file, JSON.stringify({ format: 1, adapters }))
  expect(await open().load('x')).toBeUndefined()
  expect(await open().load('y')).toBeUndefined()
  expect(await open().load('z')).toEqual({ refused: [] })
})

it('tells of a folder it cannot write to, and goes on', async () => {
  await writeFile(join(folder, 'deep'), 'a file where the folder should be')
  await open().save('a', { refused: [] })
  expect(notes.join('\n')).toMatch(/could not be written/)
})

it("lies in the user's cache folder", () => {
  expect(tuningFile({ XDG_CACHE_HOME: '/caches' }, 'linux')).toBe('/caches/kinora/wgpu-tuning.json')
  expect(tuningFile({}, 'darwin')).toMatch(/Library.Caches.kinora.wgpu-tuning\.json$/)
})
