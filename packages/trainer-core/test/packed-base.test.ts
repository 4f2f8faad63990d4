import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { openDevice } from '@kinora/cpu-kernels'
import type { Device } from '@kinora/kernel-api'
import { quantizeCheckpoint } from '@kinora/wan'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cacheDataset, calibrate, train } from '../src/index.ts'
import type { StepMetrics } from '../src/lib/metrics.ts'
import { makeTinyRun, type TinyRun } from './tiny-job.ts'

// The frozen base packed, swapped and streamed: none of it may change what is trained but the packing itself.

let device: Device
let run: TinyRun
beforeAll(async () => {
  device = await openDevice()
  run = await makeTinyRun({ width: 32, height: 32, numFrames: 5 })
  await cacheDataset({ job: run.job(), plan: run.plan, cacheDir: run.cacheDir }, { device })
}, 120_000)
afterAll(async () => {
  await run[Symbol.asyncDispose]()
  device.destroy()
})

interface Outcome {
  loras: Record<string, string>
  losses: number[]
  /** The most of a step but the last. */
  peakBytes: number
  parkedBytes: number
}

interface Changes {
  model?: Record<string, unknown>
  train?: Record<string, unknown>
  network?: Record<string, unknown>
}

/** Four steps, turn by turn. */
function jobWith({ model = {}, train: training = {}, network = {} }: Changes) {
  const { name_or_path, arch } = run.job().config.process[0].model
  return run.job({
    model: { name_or_path, arch, ...model },
    train: { steps: 4, switch_boundary_every: 1, ...training },
    save: { save_every: 0 },
    network,
  })
}

async function trainWith(out: string, changes: Changes): Promise<Outcome> {
  const folder = join(run.folder, out)
  let parkedBytes = 0
  let peakBytes = 0
  let steps = 0
  const watched = new Proxy(device, {
    get(target, key) {
      if (key === 'resetPeak') {
        return () => {
          const memory = target.memory()
          parkedBytes = Math.max(parkedBytes, memory.parkedBytes)
          if (steps++ > 0) peakBytes = Math.max(peakBytes, memory.peakBytes)
          target.resetPeak()
        }
      }
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
  const job = jobWith(changes)
  await train({ job, plan: run.plan, cacheDir: run.cacheDir, out: folder }, { device: watched })
  const loras: Record<string, string> = {}
  for (const file of (await readdir(folder)).filter((name) =>
    name.endsWith('_noise.safetensors'),
  )) {
    loras[file] = createHash('sha256')
      .update(await readFile(join(folder, file)))
      .digest('hex')
  }
  const entries = (await readFile(join(folder, 'metrics.jsonl'), 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as StepMetrics)
    .filter(({ type }) => type === 'step')
  expect(device.memory()).toMatchObject({ liveBytes: 0, parkedBytes: 0 })
  return {
    loras,
    losses: entries.map(({ loss }) => loss),
    peakBytes,
    parkedBytes,
  }
}

describe('training on a packed base', () => {
  it('gives the same bytes resident, swapped by turns, streamed and from a packed checkpoint, in less and less memory', async () => {
    const packed = { quantize: true, qtype: 'uint4', quantize_te: false }
    const dense = await trainWith('dense', {})
    const resident = await trainWith('resident', { model: packed })
    const swapped = await trainWith('swapped', { model: { ...packed, low_vram: true } })
    const streamed = await trainWith('streamed', {
      model: { ...packed, low_vram: true, layer_offloading: true },
    })
    const half = await trainWith('half', {
      model: { ...packed, layer_offloading: true, layer_offloading_transformer_percent: 0.5 },
    })
    expect(Object.keys(resident.loras)).toHaveLength(2)
    for (const other of [swapped, streamed, half]) {
      expect(other.loras).toEqual(resident.loras)
      expect(other.losses).toEqual(resident.losses)
    }
    expect(resident.loras).not.toEqual(dense.loras)
    resident.losses.forEach((loss, i) =>
      expect(Math.abs(loss - dense.losses[i]!)).toBeLessThan(0.15),
    )
    expect(resident.parkedBytes).toBe(0)
    expect(swapped.parkedBytes).toBeGreaterThan(0)
    expect(resident.peakBytes).toBeLessThan(dense.peakBytes)
    expect(swapped.peakBytes).toBeLessThan(resident.peakBytes)
    expect(streamed.peakBytes).toBeLessThan(swapped.peakBytes)
    expect(half.peakBytes).toBeLessThan(resident.peakBytes)

    const out = join(run.folder, 'packed-checkpoint')
    await quantizeCheckpoint(
      { checkpoint: run.job().config.process[0].model.name_or_path, out },
      { device },
    )
    const loaded = await trainWith('loaded', { model: { ...packed, name_or_path: out } })
    expect(loaded.losses).toEqual(resident.losses)
    expect(loaded.loras).toEqual(resident.loras)
  }, 180_000)

  it.each(['dora', 'lokr'])(
    'gives the same bytes for a %s, resident or streamed',
    async (type) => {
      const packed = { quantize: true, qtype: 'uint4', quantize_te: false }
      const network = { type }
      const resident = await trainWith(`${type}-resident`, { network, model: packed })
      const streamed = await trainWith(`${type}-streamed`, {
        network,
        model: { ...packed, low_vram: true, layer_offloading: true },
      })
      expect(streamed.loras).toEqual(resident.loras)
      expect(streamed.losses).toEqual(resident.losses)
      expect(resident.losses.every(Number.isFinite)).toBe(true)
    },
    120_000,
  )

  it('measures on what a job trains on, and packs with an adapter that minds it', async () => {
    const statistics = join(run.folder, 'sizes.safetensors')
    const { plan, cacheDir } = run
    await calibrate({ job: run.job(), plan, cacheDir, out: statistics, numPasses: 2 }, { device })
    const out = join(run.folder, 'with-adapter')
    const { recovered } = await quantizeCheckpoint(
      {
        checkpoint: run.job().config.process[0].model.name_or_path,
        out,
        scheme: 'uint4+ara',
        rank: 4,
        statistics,
      },
      { device },
    )
    expect(recovered.transformer).toBeGreaterThan(0.1)
    const trained = await trainWith('on-adapter', { model: { name_or_path: out } })
    expect(trained.losses.every(Number.isFinite)).toBe(true)
    expect(device.memory().liveBytes).toBe(0)
  }, 180_000)

  it('is not streamed where nothing is computed again', async () => {
    await expect(
      trainWith('refused', {
        model: { layer_offloading: true },
        train: { gradient_checkpointing: false },
      }),
    ).rejects.toMatchObject({ code: 'TRAINER_OFFLOADING_WITHOUT_CHECKPOINTING' })
  })
})
