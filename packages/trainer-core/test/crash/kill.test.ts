import { createHash } from 'node:crypto'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFile, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { openDevice } from '@kinora/cpu-kernels'
import { build } from 'esbuild'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { cacheDataset, type TrainOptions } from '../../src/index.ts'
import { makeTinyRun, type TinyRun } from '../tiny-job.ts'

// A run that is killed (signal 9) at random moments and started again must end with the bytes of one that was not.

const numKills = Number(process.env['KINORA_KILLS'] ?? 2)
const packageFolder = fileURLToPath(new URL('../..', import.meta.url))

let run: TinyRun
let worker: string
beforeAll(async () => {
  run = await makeTinyRun({ width: 32, height: 32, numFrames: 5 })
  const device = await openDevice()
  await cacheDataset({ job: run.job(), plan: run.plan, cacheDir: run.cacheDir }, { device })
  device.destroy()
  // Plain Node cannot run the sources, so they go into one file; beside it, the package.json that metadata is read from.
  const bundleFolder = join(run.folder, 'bundle')
  worker = join(bundleFolder, 'dist', 'lib', 'train-worker.mjs')
  await build({
    entryPoints: [fileURLToPath(new URL('train-worker.ts', import.meta.url))],
    outfile: worker,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    conditions: ['@kinora/source'],
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)",
    },
    logLevel: 'error',
  })
  await copyFile(join(packageFolder, 'package.json'), join(bundleFolder, 'package.json'))
}, 120_000)
afterAll(() => run[Symbol.asyncDispose]())

async function start(
  options: TrainOptions,
): Promise<{ kill(): void; code: Promise<number | null> }> {
  const file = join(run.folder, `${options.out!.split('/').at(-1)}.json`)
  await writeFile(file, JSON.stringify(options))
  const child = spawn(process.execPath, [worker, file], { stdio: ['ignore', 'inherit', 'inherit'] })
  return {
    kill: () => child.kill('SIGKILL'),
    code: once(child, 'exit').then(([code]) => code as number | null),
  }
}

const optionsOf = (out: string): TrainOptions => ({
  job: run.job({ train: { steps: 6 }, save: { save_every: 1, max_step_saves_to_keep: 2 } }),
  plan: run.plan,
  cacheDir: run.cacheDir,
  out: join(run.folder, out),
})

/** SHA-256 of every weight and state file of a run. */
async function hashesOf(out: string): Promise<Record<string, string>> {
  const files = (await readdir(join(run.folder, out), { recursive: true }))
    .filter((file) => file.endsWith('.safetensors') && !basename(file).startsWith('.'))
    .sort()
  const hash = async (file: string): Promise<string> =>
    createHash('sha256')
      .update(await readFile(join(run.folder, out, file)))
      .digest('hex')
  return Object.fromEntries(
    await Promise.all(files.map(async (file) => [file, await hash(file)] as const)),
  )
}

it(
  `ends with the same bytes after ${numKills} kills`,
  { timeout: 30_000 + 15_000 * numKills },
  async () => {
    const began = performance.now()
    expect(await (await start(optionsOf('whole'))).code).toBe(0)
    const wholeMs = performance.now() - began
    let kills = 0
    // Long enough for some progress each time, short enough to hit all of it: loading, steps, saves.
    for (let attempt = 0; kills < numKills && attempt < 3 * numKills; attempt++) {
      const child = await start(optionsOf('killed'))
      await Promise.race([child.code, sleep(wholeMs * (0.3 + 0.5 * Math.random()))])
      child.kill()
      if ((await child.code) !== 0) {
        kills++
        continue
      }
      // It finished first: begin again, so that every kill hits a run at work.
      const left = await hashesOf('killed')
      expect(left).toEqual(await hashesOf('whole'))
      await rm(join(run.folder, 'killed'), { recursive: true })
    }
    expect(await (await start(optionsOf('killed'))).code).toBe(0)
    expect(await hashesOf('killed')).toEqual(await hashesOf('whole'))
    // What a kill left half-written is cleared away.
    const files = await readdir(join(run.folder, 'killed'), { recursive: true })
    expect(files.filter((file) => basename(file).startsWith('.'))).toEqual([])
  },
)
