import { spawn, type ChildProcess } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { writeVideo } from '@kinora/media'

/** The program as a user starts it: from dist/, which `npm test` builds first. */
export const program = fileURLToPath(new URL('../bin/kinora.js', import.meta.url))
export const tinyWan = fileURLToPath(new URL('../../../packages/tiny-wan', import.meta.url))

export interface FinishedRun {
  exitCode: number | null
  stdout: string
  stderr: string
  /** Lines of stdout that are JSON, parsed: the events of a run with --json. */
  events: Record<string, unknown>[]
}

export interface RunOptions {
  env?: NodeJS.ProcessEnv
  cwd?: string
  /** Called with what the program printed so far, each time it printed. */
  onOutput?: (output: string, child: ChildProcess) => void
}

/** Runs `kinora …` in a process of its own. */
export function runKinora(
  args: readonly string[],
  { env = {}, cwd, onOutput }: RunOptions = {},
): Promise<FinishedRun> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, ...args], {
      cwd,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    // A test that times out must not leave its program running.
    const end = (): unknown => child.kill('SIGKILL')
    process.once('exit', end)
    child.once('close', () => process.off('exit', end))
    let stdout = ''
    let stderr = ''
    const tell = (): void => onOutput?.(`${stdout}${stderr}`, child)
    child.stdout.setEncoding('utf8').on('data', (text) => {
      stdout += text
      tell()
    })
    child.stderr.setEncoding('utf8').on('data', (text) => {
      stderr += text
      tell()
    })
    child.once('error', reject)
    child.once('close', (exitCode) => {
      const events = stdout
        .split('\n')
        .filter((line) => line.startsWith('{'))
        .map((line) => JSON.parse(line) as Record<string, unknown>)
      resolve({ exitCode, stdout, stderr, events })
    })
  })
}

/** A small clip in which a square moves, as mp4. */
export async function makeClip(
  file: string,
  { size = 64, numFrames = 9 }: { size?: number; numFrames?: number } = {},
): Promise<void> {
  const frames = Array.from({ length: numFrames }, (_, frame) => {
    const data = new Uint8Array(size * size * 3).fill(60)
    const left = 2 + frame
    for (let y = size / 4; y < size / 2; y++) {
      for (let x = left; x < left + size / 4; x++)
        data.fill(220, (y * size + x) * 3, (y * size + x + 1) * 3)
    }
    return { width: size, height: size, data }
  })
  await mkdir(dirname(file), { recursive: true })
  await writeVideo(file, frames, { fps: 16 })
}

/** A job on tiny-wan, small enough for the processor; `more` is put into the process. */
export function tinyJob({
  folder,
  clips,
  steps = 2,
  sample = '',
  train = '',
  kinora = '',
}: {
  folder: string
  clips: string
  steps?: number
  sample?: string
  train?: string
  kinora?: string
}): string {
  return `job: extension
config:
  name: tiny
  process:
    - type: diffusion_trainer
      training_folder: ${JSON.stringify(folder)}
      trigger_word: crane
      training_seed: 1
      network: {type: lora, linear: 4, linear_alpha: 4}
      save: {dtype: fp32, save_every: 1000}
      datasets:
        - {folder_path: ${JSON.stringify(clips)}, caption_ext: txt, default_caption: "[trigger]", resolution: 32, num_frames: 5}
      train: {steps: ${steps}, lr: 1e-3, noise_scheduler: flowmatch, timestep_type: linear, switch_boundary_every: 1${train}}
      model: {name_or_path: ${JSON.stringify(`${tinyWan}/checkpoint`)}, arch: wan22_14b_i2v}
      logging: {log_every: 1}
      ${sample}
      kinora: {compute: f32${kinora}}
`
}
