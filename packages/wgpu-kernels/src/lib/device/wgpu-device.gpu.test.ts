import { isCodedError } from '@kinora/stage'
import { afterAll, describe, expect, it } from 'vitest'

import { openTestDevice } from '../../../test/test-adapter.ts'
import { dawnFlags } from '../dawn/open-device.ts'
import type { WgpuTensor } from '../tensor/wgpu-tensor.ts'
import { createDevice, type WgpuDevice } from './wgpu-device.ts'

const device = await openTestDevice()
afterAll(() => device?.destroy())

function ramp(length: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => Math.sin(i))
}

/** A block's worth of work that allocates, shares and frees. */
function step(on: WgpuDevice) {
  const { ops } = on
  return on.scope(() => {
    const x = on.upload(ramp(20 * 32), [20, 32], 'f32')
    const w = on.upload(ramp(32 * 32), [32, 32], 'f32')
    let y = x
    for (let i = 0; i < 10; i++) {
      y = ops.checkpoint((inner, h) => inner.add(h, inner.gelu(inner.linear(h, w))), [y])
    }
    return ops.sumSquares([y])
  })
}

async function codeOf(action: () => unknown): Promise<string> {
  try {
    await action()
  } catch (error) {
    if (isCodedError(error)) return error.code
    throw error
  }
  return 'no error'
}

describe.skipIf(!device)('a device', () => {
  if (!device) return

  it('says what it is and why it was chosen', () => {
    const { info } = device
    expect(info.backend).toBe('@kinora/wgpu-kernels')
    expect(info.adapter).not.toBe('')
    expect(info.computeDTypes).toContain('f32')
    expect(info.reason).toMatch(/\.$/)
  })

  it('gives the same bytes again, also on another device of the adapter', async () => {
    const first = await device.read(step(device))
    const again = await device.read(step(device))
    const other = (await openTestDevice())!
    const elsewhere = await other.read(step(other))
    other.destroy()
    expect(again).toEqual(first)
    expect(elsewhere).toEqual(first)
  })

  it('needs no more memory for a hundred steps than for two', async () => {
    const before = device.memory().liveBytes
    const run = (): void => device.release(step(device))
    run()
    run()
    await device.sync()
    const warm = device.memory()
    for (let i = 0; i < 100; i++) run()
    await device.sync()
    const after = device.memory()
    expect(after.liveBytes).toBe(before)
    expect(after.pooledBytes).toBe(warm.pooledBytes)
    expect(after.peakBytes).toBe(warm.peakBytes)
  })

  it('gives the pool back when told', async () => {
    device.release(step(device))
    expect(device.memory().pooledBytes).toBeGreaterThan(0)
    device.trim()
    expect(device.memory().pooledBytes).toBe(0)
    expect(Array.from(await device.read(step(device))).every(Number.isFinite)).toBe(true)
  })

  it('writes 16-bit elements at odd places and leaves their neighbours', async () => {
    const bits = (n: number, from: number) => Uint16Array.from({ length: n }, (_, i) => from + i)
    const tensor = device.upload(bits(9, 0x3c00), [9], 'bf16')
    device.write(tensor, bits(1, 0x4000), 3)
    device.write(tensor, bits(3, 0x4100), 5)
    const want = [0x3c00, 0x3c01, 0x3c02, 0x4000, 0x3c04, 0x4100, 0x4101, 0x4102, 0x3c08]
    const values = Array.from(await device.read(tensor))
    const got = new Uint32Array(Float32Array.from(values).buffer)
    expect(Array.from(got, (word) => word >>> 16)).toEqual(want)
    device.release(tensor)
  })

  it('refuses what it cannot do, by code, before anything runs', async () => {
    const x = device.upload(ramp(6), [2, 3], 'f32')
    const { ops } = device
    const freed = device.scope(() => [device.zeros([4], 'f32')] as [unknown]) as [typeof x]
    device.release(freed[0])
    expect(await codeOf(() => ops.gelu(freed[0]))).toBe('WGPU_TENSOR_FREED')
    expect(await codeOf(() => device.release(freed[0]))).toBe('WGPU_TENSOR_FREED')
    expect(await codeOf(() => ops.linear(x, x.shape.length ? freed[0] : x))).toMatch(/^WGPU_/)
    expect(await codeOf(() => ops.reshape(x, [4]))).toBe('WGPU_BAD_SHAPE')
    expect(await codeOf(() => ops.add(x, device.zeros([2], 'f32')))).toBe('WGPU_BAD_SHAPE')
    expect(await codeOf(() => ops.gelu(device.zeros([2], 'u32')))).toBe('WGPU_BAD_DTYPE')
    expect(await codeOf(() => device.upload(ramp(5), [2, 3], 'f32'))).toBe('WGPU_BAD_SHAPE')
    expect(await codeOf(() => device.upload(ramp(6), [2, 3], 'f16'))).toBe('WGPU_BAD_DTYPE')
    expect(await codeOf(() => device.write(x, ramp(3), 4))).toBe('WGPU_BAD_SHAPE')
    expect(await codeOf(() => device.scope(() => Promise.resolve()))).toBe('WGPU_ASYNC_SCOPE')
    expect(await codeOf(() => device.zeros([2 ** 34], 'f32'))).toBe('WGPU_BUFFER_TOO_LARGE')
    const other = (await openTestDevice())!
    expect(await codeOf(() => other.ops.gelu(x))).toBe('WGPU_FOREIGN_TENSOR')
    other.destroy()
    expect(await codeOf(() => other.zeros([1], 'f32'))).toBe('WGPU_DESTROYED')
    device.release(x)
    await device.sync()
  })

  it('reports a lost device', async () => {
    const other = (await openTestDevice())!
    const x = other.upload(ramp(4), [4], 'f32')
    other.gpuDevice.destroy()
    await other.gpuDevice.lost
    expect(await codeOf(() => other.ops.gelu(x))).toBe('WGPU_DEVICE_LOST')
    expect(await codeOf(() => other.read(x))).toBe('WGPU_DEVICE_LOST')
    expect(await codeOf(() => other.sync())).toBe('WGPU_DEVICE_LOST')
  })

  it('names the kernel and the shapes of an invalid dispatch', async () => {
    const other = (await openTestDevice({ robust: true }))!
    const x = other.upload(ramp(8), [2, 4], 'f32') as WgpuTensor
    await other.sync()
    x.handle.pooled.buffer.destroy()
    other.ops.affine(other.ops.gelu(x), { scale: 2 })
    const error: unknown = await other.sync().catch((cause: unknown) => cause)
    expect(isCodedError(error, 'WGPU_VALIDATION')).toBe(true)
    expect((error as Error).message).toMatch(/pointwise \(.*n 2/)
    // What was reported once is not reported again.
    await other.sync()
    other.destroy()
  })

  it('reports out of memory with the sizes, as the cause of all that follows', async () => {
    const other = (await openTestDevice())!
    const limited = createDevice(withMemory(other.gpuDevice, 2 ** 20), { device: 'limited' })
    limited.zeros([1000], 'f32')
    const x = limited.zeros([2 ** 19], 'f32')
    limited.ops.gelu(x)
    const error: unknown = await limited.sync().catch((cause: unknown) => cause)
    expect(isCodedError(error, 'WGPU_OUT_OF_MEMORY')).toBe(true)
    expect((error as Error).message).toMatch(/2\.0 MiB; 4096 bytes are in use/)
    other.destroy()
  })
})

/** A GPUDevice whose driver has no room for buffers above a size, as a driver says it: by an error scope. */
function withMemory(gpuDevice: GPUDevice, largest: number): GPUDevice {
  let refused = 0
  const depth: number[] = []
  return new Proxy(gpuDevice, {
    get(target, key) {
      if (key === 'createBuffer') {
        return (descriptor: GPUBufferDescriptor) => {
          if (descriptor.size > largest) refused++
          return target.createBuffer({ ...descriptor, size: Math.min(descriptor.size, largest) })
        }
      }
      if (key === 'pushErrorScope') {
        return (filter: GPUErrorFilter) => {
          depth.push(refused)
          target.pushErrorScope(filter)
        }
      }
      if (key === 'popErrorScope') {
        return async () => {
          const before = depth.pop()!
          const failed = refused > before
          const found = await target.popErrorScope()
          return failed ? ({ message: 'out of device memory' } as GPUError) : found
        }
      }
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

describe('the flags for Dawn', () => {
  it('leave every check on in robust mode', () => {
    expect(dawnFlags({ robust: true }).join(' ')).not.toContain('disable_robustness')
    expect(dawnFlags({ robust: false }).join(' ')).toContain('disable_robustness')
  })

  it('pass the adapter on', () => {
    expect(dawnFlags({ robust: false, adapter: 'llvm' })).toContain('adapter=llvm')
  })
})

it.skipIf(!device)(
  'an adapter that does not exist is refused with the names there are',
  async () => {
    const error: unknown = await openTestDevice({ adapter: 'no such card' }).catch(
      (cause: unknown) => cause,
    )
    expect(isCodedError(error, 'WGPU_ADAPTER_NOT_FOUND')).toBe(true)
  },
)
