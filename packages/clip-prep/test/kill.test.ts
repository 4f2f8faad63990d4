import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { prepareClips } from '../src/index.ts'
import { panning, writeShots } from './footage.ts'

// A run that is killed (signal 9) and started again loses no finished clip and ends with the bytes of one that was not.

const packageFolder = fileURLToPath(new URL('..', import.meta.url))

let folder: string
let footage: string
let program: string
let programFolder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-clip-prep-kill-'))
  footage = join(folder, 'footage')
  await mkdir(footage)
  for (const take of [1, 2]) {
    await writeShots(join(footage, `take-${take}.mp4`), [
      { seed: 10 * take, numFrames: 30, x: panning(3) },
      { seed: 10 * take + 1, numFrames: 30, x: panning(4) },
    ])
  }
  // Plain Node cannot run the sources, so they go into one file, at a place from where what cannot be bundled is found; beside
  // it, the package.json that the version is read from.
  programFolder = await mkdtemp(join(packageFolder, '..', 'media', 'node_modules', '.kill-test-'))
  program = join(programFolder, 'dist', 'lib', 'bin.mjs')
  await build({
    entryPoints: [join(packageFolder, 'src', 'bin.ts')],
    outfile: program,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    conditions: ['@kinora/source'],
    external: ['sharp', 'fluent-ffmpeg'],
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)",
    },
    logLevel: 'error',
  })
  await copyFile(join(packageFolder, 'package.json'), join(programFolder, 'package.json'))
}, 120_000)
afterAll(async () => {
  await rm(programFolder, { recursive: true, force: true })
  await rm(folder, { recursive: true, force: true })
})

/** Runs the program; kills it when `when` says so of an event. */
async function run(out: string, when: (event: Record<string, unknown>) => boolean) {
  const child = spawn(process.execPath, [program, footage, '--out', out, '--jobs', '1', '--json'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let killed = false
  const ended = once(child, 'close') as Promise<[number | null]>
  const events: Record<string, unknown>[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    if (killed) continue
    const event = JSON.parse(line) as Record<string, unknown>
    events.push(event)
    if (when(event)) {
      killed = true
      child.kill('SIGKILL')
    }
  }
  const [code] = await ended
  return { code, events }
}

const clipTimes = async (out: string) => {
  const names = await readdir(join(out, 'clips')).catch((): string[] => [])
  const whole = names.filter((name) => !name.startsWith('.'))
  const times = await Promise.all(whole.map((name) => stat(join(out, 'clips', name))))
  return Object.fromEntries(whole.map((name, index) => [name, times[index]!.mtimeMs]))
}

it('loses no finished clip when it is killed', async () => {
  const straight = join(folder, 'straight')
  const expected = await prepareClips({ source: footage, out: straight, jobs: 1 })
  expect(expected.clips).toHaveLength(4)

  const out = join(folder, 'killed')
  const isCut = (done: number) => (event: Record<string, unknown>) =>
    event['type'] === 'progress' && event['phase'] === 'cut' && event['done'] === done
  const isAnalysed = (event: Record<string, unknown>) =>
    event['type'] === 'progress' && event['phase'] === 'analyse' && event['done'] === 1
  for (const when of [isAnalysed, isCut(1), isCut(3)]) {
    const before = await clipTimes(out)
    const { code, events } = await run(out, when)
    expect(code).not.toBe(0)
    expect(when(events.at(-1)!)).toBe(true)
    // What was finished before was neither cut again nor touched.
    expect(await clipTimes(out)).toMatchObject(before)
  }
  const before = await clipTimes(out)
  expect(Object.keys(before).length).toBeGreaterThanOrEqual(3)
  const { code, events } = await run(out, () => false)
  expect(code).toBe(0)
  expect(await clipTimes(out)).toMatchObject(before)
  const cut = events.filter((event) => event['type'] === 'progress' && event['phase'] === 'cut')
  expect(cut.length).toBeLessThanOrEqual(1)
  for (const { file } of expected.clips)
    expect(await readFile(join(out, file))).toEqual(await readFile(join(straight, file)))
  // The killed runs left their unfinished files; nothing takes them for output.
  const names = await readdir(join(out, 'clips'))
  expect(names.filter((name) => !name.startsWith('.')).toSorted()).toEqual(
    expected.clips.map(({ file }) => file.slice(6)).toSorted(),
  )
}, 120_000)
