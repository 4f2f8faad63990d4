import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'

import type { OpenDeviceOptions } from '@kinora/kernel-api'

import { isSoftwareAdapter, type ProfileOverrides } from '../device/adapter-profile.ts'
import { requiredFeatures, requiredLimits } from '../device/device-request.ts'
import { createDevice, type WgpuDevice } from '../device/wgpu-device.ts'
import { wgpuErrors } from '../errors.ts'
import { openTuningFile, tuningFile } from './tuning-file.ts'
import { collectGarbage } from './collect-garbage.ts'
import { waitAsleep } from './wait-asleep.ts'

/** Options of `openDevice` beyond kernel-api's. */
export interface OpenDawnOptions extends OpenDeviceOptions {
  /** Times every dispatch; read with `takeProfile`. */
  profile?: boolean | undefined
  /** Treats the adapter as less than it is. */
  overrides?: ProfileOverrides | undefined
  /** File of what is known of adapters, `false` for none; in the user's cache folder unless given. */
  tuningFile?: string | false | undefined
}

/** Toggles that trade checks for speed; the robust mode leaves them out. */
const FAST_TOGGLES = [
  'disable_robustness',
  'disable_workgroup_init',
  'disable_polyfills_on_integer_div_and_mod',
]

/**
 * Toggles that are always on: experimental features behind unsafe APIs, and f16 on NVIDIA's Vulkan driver, which Dawn blocks
 * by default for conformance reasons that do not concern these kernels.
 */
const TOGGLES = ['allow_unsafe_apis', 'vulkan_enable_f16_on_nvidia']

// Dawn aborts the process when the object of create() is collected while a device lives; holding the adapter is not enough.
const open = new Set<GPU>()

/** Strings for Dawn's create(). */
export function dawnFlags(options: { adapter?: string | undefined; robust: boolean }): string[] {
  const enabled = options.robust ? TOGGLES : [...TOGGLES, ...FAST_TOGGLES]
  const flags = [`enable-dawn-features=${enabled.join(',')}`]
  if (!options.robust) flags.push('disable-dawn-features=timestamp_quantization')
  if (options.adapter !== undefined) flags.push(`adapter=${options.adapter}`)
  return flags
}

async function loadDawn(): Promise<{ create: (flags: string[]) => GPU }> {
  try {
    // Loaded when a device is opened, not when the module is: on a platform without a binary the error is then ours.
    return await import('webgpu')
  } catch (cause) {
    throw wgpuErrors.NO_DAWN(cause instanceof Error ? cause.message : String(cause), { cause })
  }
}

/**
 * Opens a device on this machine through Dawn: a hardware GPU first, else a software Vulkan driver; `info.reason` says which
 * and why. `robust` (or the environment variable `KINORA_ROBUST=1`) keeps every check of Dawn and names the exact dispatch in
 * errors.
 */
export async function openDevice(options: OpenDawnOptions = {}): Promise<WgpuDevice> {
  const robust = options.robust ?? process.env['KINORA_ROBUST'] === '1'
  const { create } = await loadDawn()
  const gpu = create(dawnFlags({ adapter: options.adapter, robust }))
  let adapter: GPUAdapter | null
  try {
    adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' })
  } catch (cause) {
    const detail = cause instanceof Error ? cause.message : String(cause)
    throw options.adapter === undefined
      ? wgpuErrors.NO_ADAPTER(`: ${detail}`, { cause })
      : wgpuErrors.ADAPTER_NOT_FOUND(options.adapter, detail, { cause })
  }
  if (!adapter) throw wgpuErrors.NO_ADAPTER('')
  const { info } = adapter
  const name = info.device || info.description || info.vendor
  let device: GPUDevice
  try {
    device = await adapter.requestDevice({
      requiredFeatures: requiredFeatures(adapter),
      requiredLimits: requiredLimits(adapter),
    })
  } catch (cause) {
    throw wgpuErrors.DEVICE_REFUSED(name, cause instanceof Error ? cause.message : String(cause), {
      cause,
    })
  }
  open.add(gpu)
  const opened = createDevice(device, info, {
    reason: chooseReason(name, isSoftwareAdapter(info), options.adapter),
    robust,
    profile: options.profile,
    overrides: options.overrides,
    waiting: isSoftwareAdapter(info) ? waitAsleep : undefined,
    collectGarbage,
    onDestroy: () => open.delete(gpu),
  })
  const onNote = options.onNote ?? ((message: string) => process.emitWarning(message))
  const file = options.tuningFile ?? tuningFile()
  try {
    await opened.prepare({
      cache: file === false ? undefined : openTuningFile(file, onNote),
      runtime: await dawnVersion(),
      tune: options.tune ?? process.env['KINORA_TUNE'] === '1',
      onNote,
    })
  } catch (error) {
    opened.destroy()
    throw error
  }
  return opened
}

/** Name and version of the package that binds Dawn. */
async function dawnVersion(): Promise<string> {
  try {
    const file = createRequire(import.meta.url).resolve('webgpu/package.json')
    const { name, version } = JSON.parse(await readFile(file, 'utf8')) as Record<string, string>
    return `${name} ${version}`
  } catch {
    return 'webgpu'
  }
}

function chooseReason(name: string, software: boolean, asked: string | undefined): string {
  if (asked !== undefined) return `${name} was asked for by name ("${asked}").`
  return software
    ? `Dawn found no hardware GPU, so the work runs on the processor through ${name}.`
    : `${name} is the first hardware GPU that Dawn found.`
}
