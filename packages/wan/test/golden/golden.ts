import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { openDevice as openCpuDevice } from '@kinora/cpu-kernels'
import { numElements, type Device, type Tensor } from '@kinora/kernel-api'
import { openSafetensors, type SafetensorsFile } from '@kinora/safetensors'
import { SafetensorsWeights } from '@kinora/wan'
import { expect } from 'vitest'

// What the golden tests share: the files, the device, and the one measure.

/** `KINORA_GOLDEN`, or the files of this repository. */
export const goldenFolder =
  process.env['KINORA_GOLDEN'] ??
  fileURLToPath(new URL('../../../../tooling/golden', import.meta.url))

/** The checkpoint that some of the files were made with: `KINORA_GOLDEN_CHECKPOINT`, or tiny-wan's. */
export const goldenCheckpoint =
  process.env['KINORA_GOLDEN_CHECKPOINT'] ??
  fileURLToPath(new URL('../../../tiny-wan/checkpoint', import.meta.url))

export interface Golden extends AsyncDisposable {
  readonly name: string
  readonly metadata: Readonly<Record<string, string>>
  /** The reference's configuration, from the header. */
  readonly config: unknown
  /** The parameters under `weight.`. */
  readonly weights: SafetensorsWeights
  has(tensor: string): boolean
  shape(tensor: string): readonly number[]
  f32(tensor: string): Promise<Float32Array>
  i32(tensor: string): Promise<Int32Array>
  /** Tensor names that begin so. */
  startingWith(prefix: string): string[]
  /** Uploads a float tensor in its own shape, or in another of the same size. */
  upload(device: Device, tensor: string, shape?: readonly number[]): Promise<Tensor>
}

/** @param name without `.safetensors` */
export async function openGolden(name: string): Promise<Golden> {
  const file = await openSafetensors(join(goldenFolder, `${name}.safetensors`))
  return goldenOf(name, file)
}

function goldenOf(name: string, file: SafetensorsFile): Golden {
  const byTensor = new Map([...file.tensors.keys()].map((tensor) => [tensor, file]))
  const f32 = (tensor: string) => file.readF32(tensor)
  const shape = (tensor: string) => {
    const info = file.tensors.get(tensor)
    if (!info) throw new Error(`${file.file} has no ${tensor}`)
    return info.shape
  }
  return {
    name,
    metadata: file.metadata,
    config: JSON.parse(file.metadata['config'] ?? '{}'),
    weights: new SafetensorsWeights(byTensor, 'weight.'),
    has: (tensor) => file.tensors.has(tensor),
    shape,
    f32,
    i32: async (tensor) => {
      const bytes = await file.read(tensor)
      return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
    },
    startingWith: (prefix) => [...file.tensors.keys()].filter((key) => key.startsWith(prefix)),
    upload: async (device, tensor, as = shape(tensor)) =>
      device.upload(await f32(tensor), as, 'f32'),
    [Symbol.asyncDispose]: () => file.close(),
  }
}

/** A JSON file of the golden folder. */
export function readGoldenJson(name: string): unknown {
  return JSON.parse(readFileSync(join(goldenFolder, name), 'utf8'))
}

/**
 * The device the golden tests run on: `KINORA_TEST_DEVICE` (`wgpu` or `cpu`); not set, a WebGPU adapter where one opens, else
 * the processor. With `REQUIRE_GPU=1` a missing adapter is a failure.
 */
export async function openTestDevice(): Promise<Device> {
  const wanted = process.env['KINORA_TEST_DEVICE']
  if (wanted !== undefined && wanted !== 'wgpu' && wanted !== 'cpu') {
    throw new Error(`KINORA_TEST_DEVICE is ${wanted}; it must be wgpu or cpu.`)
  }
  if (wanted === 'cpu') return say(await openCpuDevice())
  try {
    const { openDevice } = await import('@kinora/wgpu-kernels/node')
    return say(await openDevice())
  } catch (error) {
    if (wanted === 'wgpu' || process.env['REQUIRE_GPU'] === '1') throw error
    print(`no WebGPU adapter: ${(error as Error).message}`)
    return say(await openCpuDevice())
  }
}

function say(device: Device): Device {
  print(`golden tests on ${device.info.adapter} (${device.info.backend})`)
  return device
}

/** ‖actual − expected‖ / ‖expected‖; not a number if any element is not. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) {
    throw new Error(`${actual.length} elements cannot be compared with ${expected.length}`)
  }
  let difference = 0
  let norm = 0
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2
    norm += expected[i]! ** 2
  }
  return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm)
}

/** Prints a figure beside its bar and fails when it is above. */
export function expectWithin(what: string, figure: number, bar: number): void {
  print(
    `${figure <= bar ? '  ' : '! '}${what.padEnd(56)} ${figure.toExponential(2)}  bar ${bar.toExponential(0)}`,
  )
  expect(figure, what).toBeLessThanOrEqual(bar)
}

function print(line: string): void {
  process.stdout.write(`${line}\n`)
}

/** Reads a float tensor back and frees it. */
export async function take(device: Device, tensor: Tensor): Promise<Float32Array> {
  const values = (await device.read(tensor)) as Float32Array
  device.release(tensor)
  return values
}

/** Row-major [..., inner] to another order of axes, on the host. */
export function permuted(
  values: Float32Array,
  shape: readonly number[],
  axes: readonly number[],
): Float32Array {
  const strides = shape.map((_, axis) => numElements(shape.slice(axis + 1)))
  const outShape = axes.map((axis) => shape[axis]!)
  const out = new Float32Array(values.length)
  const index = axes.map(() => 0)
  for (let i = 0; i < out.length; i++) {
    let from = 0
    for (let axis = 0; axis < axes.length; axis++) from += index[axis]! * strides[axes[axis]!]!
    out[i] = values[from]!
    for (let axis = axes.length - 1; axis >= 0; axis--) {
      index[axis]!++
      if (index[axis]! < outShape[axis]!) break
      index[axis] = 0
    }
  }
  return out
}
