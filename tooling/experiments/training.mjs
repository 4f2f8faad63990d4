// One LoRA pair: a recipe's job, made small, trained by `kinora train`.

import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseTrainJob, recipe } from '../../packages/config-schema/dist/index.js'
import { kinora, tinyWan } from './kinora.mjs'
import { common } from './plan.mjs'

/**
 * The recipe for a device that holds everything, brought to tiny-wan's size: its rank, optimiser, timesteps, dropout and turns
 * stay; steps, learning rate and sizes are those of a network of 2.3 million parameters; previews are made elsewhere.
 */
export function experimentJob(name, { goal, trigger, change }, { clips, out }) {
  const text = recipe(goal, 80, {
    name,
    clips,
    checkpoint: join(tinyWan, 'checkpoint'),
    triggerWord: trigger,
  })
  const { job, config, meta } = parseTrainJob(text, { fileName: `${name}.yaml` })
  const [process] = config.process
  const { train, save, model, kinora: ours } = process
  process.training_folder = join(out, 'runs')
  process.sample = { samples: [] }
  for (const dataset of process.datasets) {
    dataset.resolution = [common.size]
    dataset.num_frames = common.numFrames
  }
  Object.assign(train, {
    steps: common.steps,
    lr: common.learningRate,
    gradient_checkpointing: false,
    disable_sampling: true,
    dtype: 'fp32',
  })
  Object.assign(save, { dtype: 'fp32', save_every: common.steps })
  Object.assign(model, { quantize: false, quantize_te: false })
  Object.assign(ours, { compute: 'f32', cache_dir: join(out, 'cache') })
  process.logging.log_every = 1
  change?.(process)
  return { job, config, meta }
}

/**
 * Trains a run, goes on where one was stopped, or finds it done.
 *
 * @returns { key, folder, loras: { high, low }, secondsPerStep, settings }
 */
export async function trainRun(name, run, { clips, out }) {
  const job = experimentJob(name, run, { clips, out })
  const text = `${JSON.stringify(job, null, 2)}\n`
  const key = await hashOf([text.replaceAll(out, ''), ...(await filesOf(clips))])
  const folder = join(out, 'runs', name)
  const keyFile = join(out, 'runs', `${name}.key`)
  const known = await readFile(keyFile, 'utf8').catch(() => '')
  if (known !== key) {
    await rm(folder, { recursive: true, force: true })
    await mkdir(join(out, 'runs'), { recursive: true })
    await writeFile(keyFile, key)
  }
  const jobFile = join(out, 'runs', `${name}.json`)
  await writeFile(jobFile, text)
  const loras = {
    high: join(folder, `${name}_high_noise.safetensors`),
    low: join(folder, `${name}_low_noise.safetensors`),
  }
  const reused = (await readFile(loras.low).catch(() => null)) !== null
  if (!reused) await kinora(['train', jobFile])
  return { key, folder, loras, reused, secondsPerStep: await secondsPerStep(folder) }
}

/** The median, which a busy moment does not move. */
async function secondsPerStep(folder) {
  const text = await readFile(join(folder, 'metrics.jsonl'), 'utf8')
  const entries = text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
  const seconds = entries
    .filter(({ type }) => type === 'step')
    .map((entry) => entry.seconds.total ?? entry.seconds)
    .toSorted((a, b) => a - b)
  return seconds[Math.floor(seconds.length / 2)]
}

async function filesOf(folder) {
  const names = (await readdir(folder, { recursive: true })).toSorted()
  const contents = []
  for (const name of names.filter((one) => /\.(mp4|txt)$/.test(one))) {
    contents.push(name, await readFile(join(folder, name)))
  }
  return contents
}

/** SHA-256 over texts and bytes. */
export async function hashOf(parts) {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part).update('\0')
  return hash.digest('hex')
}
