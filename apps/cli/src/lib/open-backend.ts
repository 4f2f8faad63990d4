import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Device, OpenDevice, OpenDeviceOptions } from '@kinora/kernel-api'
import type { StageEvent } from '@kinora/stage'
import { limitIdleMemory } from '@kinora/trainer-core'
import { hasCodeAndFix } from '@kinora/stage/bin'
import { z } from 'zod'
import { kinoraErrors } from './errors.ts'

const wgpuKernels = '@kinora/wgpu-kernels'
const cpuKernels = '@kinora/cpu-kernels'

/** Options of every command that computes. */
export const backendOptions = {
  backend: z
    .string()
    .min(1)
    .default('auto')
    .describe(
      `Package whose kernels compute. auto takes ${wgpuKernels} where an adapter opens, else ${cpuKernels}.`,
    ),
  adapter: z
    .string()
    .min(1)
    .optional()
    .describe("Part of an adapter's name, to choose among several."),
}

/** Of commands that ask whether a job fits. */
export const vramOption = z
  .number()
  .positive()
  .optional()
  .describe(
    'Memory of the device in GB as cards are sold (24 is 24 GiB), in place of kinora.vram_gb and of what the name of the adapter tells.',
  )

export interface BackendChoice {
  backend?: string | undefined
  adapter?: string | undefined
  /** The work will be long enough to find out first which kernels are fastest. */
  tune?: boolean | undefined
}

/** Opens the device that the options ask for, and says which one and why. Destroy it when done. */
export async function* openBackendIter({
  backend = 'auto',
  adapter,
  tune,
}: BackendChoice): AsyncGenerator<StageEvent, Device> {
  if (backend !== 'auto') return yield* open(backend, { adapter, tune })
  try {
    return yield* open(wgpuKernels, { adapter, tune })
  } catch (error) {
    // An adapter asked for by name is not replaced by something else.
    if (!hasCodeAndFix(error) || adapter !== undefined) throw error
    yield {
      type: 'warning',
      code: 'KINORA_NO_ADAPTER',
      message: `${error.message} The processor computes instead, many times slower.`,
      fix: error.fix,
    }
  }
  return yield* open(cpuKernels, {})
}

/** Opens a backend's device, and tells what it says meanwhile as it says it. */
async function* open(
  backend: string,
  options: OpenDeviceOptions,
): AsyncGenerator<StageEvent, Device> {
  const openDevice = await loadBackend(backend)
  const notes: string[] = []
  let wake = (): void => {}
  const onNote = (message: string): void => {
    notes.push(message)
    wake()
  }
  let isOpen = false
  const ended = (): void => {
    isOpen = true
    wake()
  }
  const opening = openDevice({ ...options, onNote })
  opening.then(ended, ended)
  while (!isOpen || notes.length > 0) {
    const message = notes.shift()
    if (message !== undefined) yield { type: 'note', message }
    else await new Promise<void>((resolve) => (wake = resolve))
  }
  const device = await opening
  yield take(device)
  return device
}

/** Tells a device what it may take, and says what it is. */
function take(device: Device): StageEvent {
  limitIdleMemory(device)
  const { backend, adapter, driver, computeDTypes, reason } = device.info
  const facts = [driver, computeDTypes.join(' and '), `through ${backend}`].filter(Boolean)
  return { type: 'note', message: `Computing on ${adapter} (${facts.join('; ')}). ${reason}` }
}

/**
 * `openDevice` of a backend package: by its `./node` door where it has one. A package of the user is found from the current
 * folder, ours from here.
 */
async function loadBackend(name: string): Promise<OpenDevice> {
  let failure: unknown
  for (const specifier of [`${name}/node`, name]) {
    for (const locate of [() => resolveFromHere(specifier), () => import.meta.resolve(specifier)]) {
      let url: string
      try {
        url = locate()
      } catch (error) {
        failure = error
        continue
      }
      const module = (await import(url)) as { openDevice?: unknown }
      if (typeof module.openDevice === 'function') return module.openDevice as OpenDevice
      throw kinoraErrors.BAD_BACKEND(name)
    }
  }
  const why = failure instanceof Error ? failure.message.split('\n')[0]! : String(failure)
  throw kinoraErrors.NO_BACKEND(name, why.replace(/\.$/, ''), { cause: failure })
}

function resolveFromHere(specifier: string): string {
  const require = createRequire(pathToFileURL(join(process.cwd(), 'kinora.js')))
  return pathToFileURL(require.resolve(specifier)).href
}
