import { cp, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Device, MemoryUse } from '@kinora/kernel-api'
import { openSafetensors } from '@kinora/safetensors'
import { CodedError, type StageEvent } from '@kinora/stage'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { cacheDataset, leanPlan, train, trainIter, type TrainContext } from '../src/index.ts'
import { openTestDevice } from './open-test-device.ts'
import { hashes, makeTinyRun, type TinyRun } from './tiny-job.ts'

const small = { width: 32, height: 32, numFrames: 5 }

let device: Device
let made: TinyRun
let run: TinyRun
let liveBytes: number
beforeAll(async () => {
  device = await openTestDevice()
  made = await makeTinyRun(small)
  await cacheDataset({ job: made.job(), plan: made.plan, cacheDir: made.cacheDir }, { device })
}, 120_000)
afterAll(async () => {
  await made[Symbol.asyncDispose]()
  device.destroy()
})
beforeEach(async () => {
  run = await makeTinyRun(small)
  await cp(made.cacheDir, run.cacheDir, { recursive: true })
  liveBytes = device.memory().liveBytes
})
afterEach(async () => {
  await run[Symbol.asyncDispose]()
  expect(device.memory().liveBytes).toBe(liveBytes)
})

const optionsOf = (out: string, overrides: Record<string, unknown> = {}) => ({
  job: run.job(overrides),
  plan: run.plan,
  cacheDir: run.cacheDir,
  out: join(run.folder, out),
})

const outOfMemory = 'SOME_OUT_OF_MEMORY'
const lost = 'SOME_DEVICE_LOST'

/** A device whose next call of one of these methods, some skipped, fails when told to; one that is lost fails from then on. */
function fragile(base = device): {
  device: Device
  fail: (code: string, methods: readonly (keyof Device)[], skipped?: number) => void
} {
  let next: { code: string; methods: readonly PropertyKey[]; skipped: number } | undefined
  const error = (code: string): CodedError =>
    new CodedError(code, 'It asked for 7 bytes.', 'Ask for less.')
  const waits = ['read', 'sync', 'fill', 'park', 'makeRoom']
  return {
    device: new Proxy(base, {
      get: (of, name) => {
        const value: unknown = Reflect.get(of, name, of)
        if (typeof value !== 'function') return value
        return (...args: unknown[]) => {
          if (next?.methods.includes(name) && next.skipped-- <= 0) {
            const { code } = next
            const methods = [...waits, 'upload', 'discard']
            next = code === lost ? { code, methods, skipped: 0 } : undefined
            if (waits.includes(String(name))) return Promise.reject(error(code))
            throw error(code)
          }
          return Reflect.apply(value, of, args) as unknown
        }
      },
    }),
    fail: (code, methods, skipped = 0) => (next = { code, methods, skipped }),
  }
}

/** Trains until it is done or fails. */
async function runOn(
  device: Device,
  out: string,
  overrides: Record<string, unknown>,
  watch: (event: StageEvent) => void = () => {},
  preview?: TrainContext['preview'],
  memoryBytes?: number,
): Promise<{ events: StageEvent[]; error: CodedError | undefined }> {
  const events: StageEvent[] = []
  try {
    const options = { ...optionsOf(out, overrides), memoryBytes }
    for await (const event of trainIter(options, { device, preview })) {
      events.push(event)
      watch(event)
    }
    return { events, error: undefined }
  } catch (error) {
    return { events, error: error as CodedError }
  }
}

/** Files of a run that nothing happened to. They do not depend on where the experts are. */
async function filesOfWholeRun(changes: Record<string, unknown>) {
  const overrides = { ...changes }
  delete overrides['model']
  const key = JSON.stringify(overrides)
  let files = wholeRuns.get(key)
  if (!files) {
    await train(optionsOf('whole', overrides), { device })
    wholeRuns.set(key, (files = await hashes(join(run.folder, 'whole'))))
  }
  return files
}
const wholeRuns = new Map<string, Record<string, string>>()

/** Calls back when a step is done. */
const after =
  (step: number, act: () => void, phase = 'train') =>
  (event: StageEvent): void => {
    if (event.type === 'progress' && event.phase === phase && event.done === step) act()
  }

async function lastEntry(out: string): Promise<unknown> {
  const text = await readFile(join(run.folder, out, 'metrics.jsonl'), 'utf8')
  return JSON.parse(text.trim().split('\n').at(-1)!)
}

const sample = { sample_every: 2, samples: [{ prompt: 'x' }] }
const lowVram = () => ({ ...run.job().config.process[0].model, low_vram: true })
const at32 = String.raw`at 32×32×5, for which [\d.]+ GiB were planned \([\d.]+ GiB live, [\d.]+ GiB idle: It asked for 7 bytes\)\.`
const planned = String.raw`; steps at 32×32×5 were planned to take [\d.]+ GiB \([\d.]+ GiB live, [\d.]+ GiB idle: It asked for 7 bytes\)\.`

const kept = 'The steps before are kept, and the same command goes on'
const leaner = `${kept}, keeping as little of each block as there is`
const fromLastSave = 'The same command goes on from the last save'

describe('a run whose device fails', () => {
  // Six steps, two of each expert in turn, saved after 2 and 4.
  it.each([
    {
      what: 'in a step',
      code: outOfMemory,
      methods: ['read'],
      when: after.bind(undefined, 3),
      told: `The device ran out of memory in step 4 ${at32}`,
      fix: leaner,
      goesOnFrom: 3,
    },
    {
      what: 'in a step',
      code: lost,
      methods: ['read'],
      when: after.bind(undefined, 3),
      told: `The device was lost in step 4 ${at32}`,
      fix: fromLastSave,
      goesOnFrom: 2,
    },
    {
      what: 'in the first step after it went on',
      code: outOfMemory,
      // The expert is loaded before.
      methods: ['makeRoom'],
      skipped: 1,
      first: 3,
      when: (act: () => void) => (event: StageEvent) => event.type === 'started' && act(),
      told: `The device ran out of memory in step 4 ${at32}`,
      fix: leaner,
      goesOnFrom: 3,
    },
    {
      what: 'while an update is applied',
      code: outOfMemory,
      methods: ['sync'],
      when: after.bind(undefined, 3),
      told: `The device ran out of memory in step 4 ${at32}`,
      fix: fromLastSave,
      goesOnFrom: 2,
    },
    {
      what: 'while the other expert is loaded beside the first',
      code: outOfMemory,
      methods: ['fill', 'upload'],
      when: after.bind(undefined, 2),
      told: `The device ran out of memory bringing the low-noise expert to it for step 3${planned}`,
      fix: `${kept}\\.`,
      goesOnFrom: 2,
    },
    {
      what: 'while the other expert takes the place of the first',
      code: outOfMemory,
      methods: ['park'],
      low: true,
      when: after.bind(undefined, 2),
      told: `The device ran out of memory bringing the low-noise expert to it for step 3${planned}`,
      fix: `${kept}\\.`,
      goesOnFrom: 2,
    },
    {
      what: 'when experts have taken turns',
      code: lost,
      methods: ['read'],
      low: true,
      when: after.bind(undefined, 3),
      told: `The device was lost in step 4 ${at32}`,
      fix: fromLastSave,
      goesOnFrom: 2,
    },
    {
      what: 'in validation, before that step is saved',
      code: outOfMemory,
      methods: ['read'],
      validation: { fraction: 0.3, bands: 1, every: 2 },
      when: after.bind(undefined, 4),
      told: `The device ran out of memory in validation at step 4 ${at32}`,
      fix: `${kept}\\.`,
      goesOnFrom: 4,
    },
    {
      what: 'while a step is saved',
      code: outOfMemory,
      methods: ['read'],
      when: after.bind(undefined, 4),
      told: `The device ran out of memory saving step 4${planned}`,
      fix: `${kept}\\.`,
      goesOnFrom: 4,
    },
    {
      what: 'while a step is saved',
      code: lost,
      methods: ['read'],
      when: after.bind(undefined, 4),
      told: `The device was lost saving step 4${planned}`,
      fix: fromLastSave,
      goesOnFrom: 2,
    },
  ] as const)(
    '$what ($code) names step, size and memory, and goes on from step $goesOnFrom',
    async ({ code, methods, when, told, fix, goesOnFrom, ...more }) => {
      const overrides = {
        ...('low' in more ? { model: lowVram() } : {}),
        ...('validation' in more ? { kinora: { validation: more.validation } } : {}),
      }
      const whole = await filesOfWholeRun(overrides)
      if ('first' in more) {
        await train(optionsOf('a', { ...overrides, train: { steps: more.first } }), { device })
      }
      // What a lost device held is nobody's to free.
      const own = code === lost ? await openTestDevice() : undefined
      const { device: failing, fail } = fragile(own)
      const skipped = 'skipped' in more ? more.skipped : 0
      const { error } = await runOn(failing, 'a', overrides, (event) =>
        when(() => fail(code, methods, skipped))(event),
      )
      own?.destroy()
      expect(error).toMatchObject({ code: code.replace('SOME', 'TRAINER') })
      expect(error!.message).toMatch(new RegExp(told))
      expect(error!.fix).toMatch(new RegExp(`^${fix}`))
      expect(await lastEntry('a')).toMatchObject({ type: 'error', code: error!.code })
      const { events } = await runOn(device, 'a', overrides)
      const message = `Going on from step ${goesOnFrom}.`
      expect(events).toContainEqual({ type: 'note', message })
      const a = await hashes(join(run.folder, 'a'))
      if (!('first' in more)) expect(a).toEqual(whole)
      for (const expert of ['high', 'low']) {
        const file = `tiny_${expert}_noise.safetensors`
        expect(a[file]).toBe(whole[file])
      }
    },
  )

  it('tells the cheapest ways to take less that it can go on with', async () => {
    const { device: failing, fail } = fragile()
    const settings = { train: { optimizer: 'adamw', gradient_checkpointing: false } }
    const failNow = after(1, () => fail(outOfMemory, ['read']))
    const { error } = await runOn(failing, 'a', { ...settings, network: { linear: 32 } }, failNow)
    expect(error!.message).toMatch(
      /\nThe cheapest ways to take less:\n- model\.low_vram: true: [\d.]+ GiB of the device/,
    )
    // Neither can be changed once a run has begun.
    expect(error!.message).not.toMatch(/adamw8bit|network\.linear/)
    expect(error!.fix).toContain('make one of these changes')
  })

  it('keeps as little of blocks as there is at a size whose plan was too bold', async () => {
    const { device: failing, fail } = fragile()
    const kept = async (): Promise<string[]> => {
      await using file = await openSafetensors(
        join(run.folder, 'a', 'state', 'training_state.safetensors'),
      )
      const state = JSON.parse(file.metadata['kinora']!) as {
        recompute: Record<string, { keep: string[] }>
      }
      return Object.values(state.recompute)[0]!.keep
    }
    await runOn(failing, 'a', { train: { steps: 2 } }, undefined, undefined, 64e9)
    expect((await kept()).length).toBeGreaterThan(5)
    const failNow = after(3, () => fail(outOfMemory, ['read']))
    const { error } = await runOn(failing, 'a', {}, failNow, undefined, 64e9)
    expect(error!.fix).toMatch(/^The steps before .* goes on, keeping as little of each block/)
    expect(await kept()).toEqual(leanPlan('f32').keep)
    const { error: again, events } = await runOn(device, 'a', {}, undefined, undefined, 64e9)
    expect(again).toBeUndefined()
    expect(events).toContainEqual({ type: 'note', message: 'Going on from step 3.' })
  })

  it('says whose memory it was, and leaves what has no code alone', async () => {
    const { device: failing, fail } = fragile()
    const host = await runOn(
      failing,
      'a',
      { model: lowVram() },
      after(2, () => fail('SOME_HOST_OUT_OF_MEMORY', ['park'])),
    )
    expect(host.error!.message).toMatch(/^The host ran out of memory bringing the low-noise expert/)
    expect(host.error!.fix).toContain('offload less')
    const bug = new Error('no code')
    const thrown = runOn(device, 'b', {}, () => {
      throw bug
    })
    expect((await thrown).error).toBe(bug)
  })
})

describe('previews', () => {
  it('that run out of memory are a warning, and training goes on to the same bytes', async () => {
    const whole = await filesOfWholeRun({})
    const { device: failing, fail } = fragile()
    const preview = async (): Promise<void> => {
      fail(outOfMemory, ['read'])
      const x = failing.zeros([4], 'f32')
      await failing.read(x).finally(() => failing.release(x))
    }
    const { events, error } = await runOn(failing, 'a', { sample }, undefined, preview)
    expect(error).toBeUndefined()
    const warnings = events.filter(({ type }) => type === 'warning')
    expect(warnings).toHaveLength(4)
    expect(warnings[0]).toMatchObject({ code: 'TRAINER_PREVIEW_FAILED', message: /7 bytes/ })
    expect(await hashes(join(run.folder, 'a'))).toEqual(whole)
  })

  it('that lose the device end the run, which goes on from the last save', async () => {
    const whole = await filesOfWholeRun({})
    const { device: failing, fail } = fragile()
    const preview: TrainContext['preview'] = ({ step }) => {
      if (step === 4) fail(lost, ['read', 'sync'])
      // It need not notice itself.
      return Promise.reject(new Error('a black frame'))
    }
    const { error } = await runOn(failing, 'a', { sample }, undefined, preview)
    expect(error).toMatchObject({ code: 'TRAINER_DEVICE_LOST' })
    expect(error!.message).toMatch(new RegExp(`lost making previews at step 4${planned}`))
    const { events } = await runOn(device, 'a', {})
    expect(events).toContainEqual({ type: 'note', message: 'Going on from step 4.' })
    expect(await hashes(join(run.folder, 'a'))).toEqual(whole)
  })

  it('that lose it after the last step take nothing from what is done', async () => {
    await using own = Object.assign(await openTestDevice(), {
      [Symbol.asyncDispose]: () => Promise.resolve(own.destroy()),
    })
    const { device: failing, fail } = fragile(own)
    const preview: TrainContext['preview'] = ({ step }) => {
      if (step === 6) fail(lost, ['read', 'sync', 'discard', 'park'])
      return Promise.resolve()
    }
    const { error, events } = await runOn(
      failing,
      'a',
      { sample, model: lowVram() },
      undefined,
      preview,
    )
    expect(error).toBeUndefined()
    expect(events.filter(({ type }) => type === 'warning')).toHaveLength(1)
  })
})

describe('room on the device', () => {
  /** A device that says where room was made, and for how many bytes. */
  function watched(log: string[], idle: MemoryUse[] = []): Device {
    return new Proxy(device, {
      get: (of, name) => {
        const value: unknown = Reflect.get(of, name, of)
        if (typeof value !== 'function') return value
        if (name !== 'makeRoom') return value.bind(of) as unknown
        return async (bytes: number) => {
          log.push(bytes === Infinity ? 'all' : bytes > 0 ? 'some' : 'none')
          await of.makeRoom(bytes)
          idle.push(of.memory())
        }
      },
    })
  }
  const logSteps = (log: string[]) => (event: StageEvent) => {
    if (event.type === 'progress') log.push(`${event.phase} ${event.done}`)
  }

  it('is made before previews, before an expert is loaded, and before the step after either', async () => {
    const log: string[] = []
    const preview = (): Promise<void> => {
      log.push('preview')
      return Promise.resolve()
    }
    await runOn(watched(log), 'a', { train: { steps: 4 }, sample }, logSteps(log), preview)
    expect(log.join(', ')).toBe(
      [
        // For the first expert too, which is loaded after the previews.
        'all, preview, all, some, train 1, train 2',
        'all, preview, all, some, train 3, train 4',
        'all, preview',
      ].join(', '),
    )
  })

  it('is made between validation and steps only where sizes differ', async () => {
    const log: string[] = []
    const overrides = {
      train: { steps: 2, switch_boundary_every: 1 },
      kinora: { validation: { fraction: 0.3, bands: 2, every: 1 } },
    }
    await runOn(watched(log), 'a', overrides, logSteps(log))
    expect(log.join(', ')).toBe(
      [
        'all, some, validation 1, all, some, validation 1',
        'train 1, validation 2, validation 2',
        'train 2, validation 3, validation 3',
      ].join(', '),
    )
  })

  it('that a step fills is empty when a preview begins, and so after one that fails', async () => {
    const idle: MemoryUse[] = []
    const idleInPreview: number[] = []
    const preview = (): Promise<void> => {
      idleInPreview.push(device.memory().pooledBytes)
      return Promise.reject(new Error('no image'))
    }
    const log: string[] = []
    await runOn(watched(log, idle), 'a', { train: { steps: 2 }, sample }, undefined, preview)
    const most = 2 ** 20
    for (const bytes of idleInPreview) expect(bytes).toBeLessThan(most)
    for (const { pooledBytes } of idle) expect(pooledBytes).toBeLessThan(most)
    expect(idleInPreview).toHaveLength(2)
  })
})
