import { normals, numElements, type Ops, type Tensor } from '@kinora/kernel-api'
import type { CpuDevice } from '@kinora/cpu-kernels'
import { createTape, type TapeOptions } from '../src/lib/autograd/tape.ts'

/** Standard normal values of a shape, on the device. */
export function randomTensor(
  device: CpuDevice,
  seed: number,
  shape: readonly number[],
  scale = 1,
): Tensor {
  const values = Float64Array.from(normals(seed, 1, numElements(shape)), (value) => value * scale)
  return device.upload(values, shape, 'f32')
}

const dot = (a: Float64Array, b: Float64Array): number => {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}

/**
 * Compares the tape's gradient of Σ c · fn(...) for a random c with central differences along random directions, in f64.
 *
 * @returns for each wanted tensor, |difference| over the larger of the two magnitudes (or 1e-8)
 */
export function gradientErrors(
  device: CpuDevice,
  fn: (ops: Ops) => Tensor,
  wanted: readonly Tensor[],
  { step = 1e-5, ...tapeOptions }: TapeOptions & { step?: number } = {},
): number[] {
  return device.scope(() => {
    const tape = createTape(device, { watch: wanted, ...tapeOptions })
    const out = device.scope(() => fn(tape.ops))
    const c = randomTensor(device, 999, out.shape)
    const grads = tape.backward([{ tensor: out, grad: c }], wanted)
    const cotangent = device.readF64(c)
    const value = (): number => device.scope(() => dot(device.readF64(fn(device.ops)), cotangent))
    const errors = wanted.map((tensor, index) => {
      const direction = Float64Array.from(normals(7 + index, 2, numElements(tensor.shape)))
      const at = device.readF64(tensor)
      const moved = (by: number): number => {
        device.write(
          tensor,
          at.map((x, i) => x + by * direction[i]!),
        )
        return value()
      }
      const expected = (moved(step) - moved(-step)) / (2 * step)
      device.write(tensor, at)
      const grad = grads.get(tensor)
      const found = grad ? dot(device.readF64(grad), direction) : 0
      return Math.abs(found - expected) / Math.max(Math.abs(found), Math.abs(expected), 1e-8)
    })
    tape.dispose()
    return errors
  })
}
