import { createHash } from 'node:crypto'
import { copyFile, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { trainJobSchema, type BucketPlan, type TrainJob } from '@kinora/config-schema'

const tinyWan = fileURLToPath(new URL('../../tiny-wan', import.meta.url))

/** A folder with takes of tiny-wan's footage, captions, and a plan: what a run begins with. */
export interface TinyRun extends AsyncDisposable {
  folder: string
  plan: string
  cacheDir: string
  /** A job on it: `overrides` by section of the process. */
  job(overrides?: Record<string, unknown>): TrainJob
}

/** @param width and height of the bucket, multiples of 16 */
export async function makeTinyRun({
  width = 48,
  height = 48,
  numFrames = 9,
  batchSize = 1,
  regularisation = false,
} = {}): Promise<TinyRun> {
  const folder = await mkdtemp(join(tmpdir(), 'kinora-train-'))
  const takes = ['take-1', 'take-2', 'take-3']
  for (const [i, take] of takes.entries()) {
    await copyFile(join(tinyWan, 'footage', `${take}.mp4`), join(folder, `${take}.mp4`))
    if (i < 2) await writeFile(join(folder, `${take}.txt`), `[trigger],  shapes of ${take}\n`)
  }
  const plan: BucketPlan = {
    version: 1,
    tool: 'test',
    fps: 16,
    options: {},
    buckets: [
      {
        width,
        height,
        numFrames,
        resolution: width,
        batchSize,
        items: takes.map((take, i) => ({
          clip: `${take}.mp4`,
          dataset: regularisation && i === 2 ? 1 : 0,
          frameIndices: Array.from({ length: numFrames }, (_, frame) => frame * 2),
          speedUp: 1,
          resize: { width, height },
          crop: { x: 0, y: 0, width, height },
          flip: i === 1,
          weight: 1,
          regularisation: regularisation && i === 2,
        })),
      },
    ],
    skipped: [],
  }
  const planFile = join(folder, 'bucket-plan.json')
  await writeFile(planFile, JSON.stringify(plan))
  return {
    folder,
    plan: planFile,
    cacheDir: join(folder, 'cache'),
    job: (overrides = {}) =>
      trainJobSchema.parse({
        job: 'extension',
        config: {
          name: 'tiny',
          process: [
            {
              type: 'diffusion_trainer',
              training_folder: folder,
              trigger_word: 'krane',
              datasets: [
                { folder_path: folder, num_frames: numFrames, default_caption: 'shapes' },
                ...(regularisation
                  ? [{ folder_path: folder, num_frames: numFrames, is_reg: true }]
                  : []),
              ],
              model: { name_or_path: join(tinyWan, 'checkpoint'), arch: 'wan22_14b_i2v' },
              ...overrides,
              network: { linear: 4, ...(overrides['network'] as object) },
              train: {
                steps: 6,
                lr: 1e-3,
                timestep_type: 'linear',
                switch_boundary_every: 2,
                ...(overrides['train'] as object),
              },
              save: { save_every: 2, dtype: 'fp32', ...(overrides['save'] as object) },
              logging: { log_every: 1 },
            },
          ],
        },
      }),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  }
}

/** SHA-256 of the .safetensors files of a folder, by name. */
export async function hashes(folder: string): Promise<Record<string, string>> {
  const files = (await readdir(folder)).filter((file) => file.endsWith('.safetensors')).sort()
  const hash = async (file: string): Promise<string> =>
    createHash('sha256')
      .update(await readFile(join(folder, file)))
      .digest('hex')
  return Object.fromEntries(
    await Promise.all(files.map(async (file) => [file, await hash(file)] as const)),
  )
}
