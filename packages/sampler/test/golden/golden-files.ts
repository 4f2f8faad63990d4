import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { openDevice as openCpuDevice } from '@kinora/cpu-kernels'
import type { Device } from '@kinora/kernel-api'
import { expect } from 'vitest'

/** Folder of the reference tensors: `KINORA_GOLDEN`, or the repository's own. */
export const goldenFolder =
  process.env['KINORA_GOLDEN'] ??
  fileURLToPath(new URL('../../../../tooling/golden', import.meta.url))

export function goldenFile(name: string): string {
  return join(goldenFolder, name)
}

/** The checkpoint whose outputs `sampling.safetensors` holds. */
export const tinyCheckpoint = fileURLToPath(
  new URL('../../../tiny-wan/checkpoint', import.meta.url),
)

/**
 * The device the golden tests run on: `KINORA_TEST_DEVICE` (`wgpu` or `cpu`); not set, a WebGPU adapter where one opens, else
 * the processor.
 */
export async function openTestDevice(): Promise<Device> {
  const wanted = process.env['KINORA_TEST_DEVICE']
  if (wanted !== undefined && wanted !== 'wgpu' && wanted !== 'cpu') {
    throw new Error(`KINORA_TEST_DEVICE is ${wanted}; it must be wgpu or cpu.`)
  }
  if (wanted !== 'cpu') {
    try {
      const { openDevice } = await import('@kinora/wgpu-kernels/node')
      return announce(await openDevice())
    } catch (error) {
      if (wanted === 'wgpu') throw error
    }
  }
  return announce(await openCpuDevice())
}

function announce(device: Device): Device {
  print(`sampling golden tests on ${device.info.adapter} (${device.info.backend})`)
  return device
}

/** ‖got − want‖ / ‖want‖; NaN if any element is not a number. */
export function relativeError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  if (got.length !== want.length) {
    throw new Error(`There are ${got.length} numbers where ${want.length} are wanted.`)
  }
  let difference = 0
  let size = 0
  for (let i = 0; i < want.length; i++) {
    difference += (got[i]! - want[i]!) ** 2
    size += want[i]! ** 2
  }
  return Math.sqrt(difference / (size || 1))
}

/** Prints a figure beside its bar, and fails above it. */
export function expectAtMost(what: string, figure: number, bar: number): void {
  print(`${figure <= bar ? 'ok  ' : 'FAIL'} ${what}: ${figure.toExponential(2)} (at most ${bar})`)
  expect(figure, what).toBeLessThanOrEqual(bar)
}

/** Prints a figure beside its bar, and fails below it. */
export function expectAtLeast(what: string, figure: number, bar: number): void {
  print(`${figure >= bar ? 'ok  ' : 'FAIL'} ${what}: ${figure.toFixed(1)} (at least ${bar})`)
  expect(figure, what).toBeGreaterThanOrEqual(bar)
}

function print(line: string): void {
  process.stdout.write(`${line}\n`)
}
