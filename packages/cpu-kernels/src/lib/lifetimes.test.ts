import type { Tensor } from '@kinora/kernel-api'
import { describe, expect, test } from 'vitest'
import { openDevice } from './open-device.ts'

// What this device checks beyond the conformance suite: it is the strict one, on which lifetime bugs of networks and of the
// tape are to be found.

const device = await openDevice()
const { ops } = device
const make = (n = 4) => device.upload(new Float32Array(n).fill(1), [n], 'f32')
const code = (expected: string, message?: RegExp) =>
  expect.objectContaining({
    code: `CPU_KERNELS_${expected}`,
    ...(message ? { message: expect.stringMatching(message) } : {}),
  })

describe('a freed tensor', () => {
  test('is refused by ops, after its scope and after its release, with its shape told', () => {
    let leaked: Tensor | undefined
    device.scope(() => {
      leaked = make(3)
    })
    expect(() => ops.gelu(leaked!)).toThrow(code('FREED_TENSOR', /^gelu .*\[3\] f32/))
    const released = make()
    device.release(released)
    expect(() => ops.add(make(), released)).toThrow(code('FREED_TENSOR', /^add/))
    expect(() => device.write(released, Float32Array.of(1))).toThrow(code('FREED_TENSOR'))
    expect(() => device.retain(released)).toThrow(code('FREED_TENSOR'))
    expect(() => device.release(released)).toThrow(code('FREED_TENSOR', /^release/))
  })

  test('is refused by read', async () => {
    const tensor = make()
    device.release(tensor)
    await expect(device.read(tensor)).rejects.toEqual(code('FREED_TENSOR'))
  })

  test('does not take the storage of its reshapes along', async () => {
    const x = make(6)
    const y = ops.reshape(x, [2, 3])
    device.release(x)
    expect(() => ops.gelu(x)).toThrow(code('FREED_TENSOR'))
    expect([...(await device.read(y))]).toEqual([1, 1, 1, 1, 1, 1])
    device.release(y)
  })
})

test('a scope over an asynchronous function is refused, and frees what was made', () => {
  const { liveBytes } = device.memory()
  expect(() => device.scope(async () => make())).toThrow(code('ASYNC_SCOPE'))
  expect(device.memory().liveBytes).toBe(liveBytes)
})

test('tensors of another device, and things that are no tensors, are refused', async () => {
  const other = await openDevice()
  const foreign = other.upload(Float32Array.of(1), [1], 'f32')
  expect(() => ops.gelu(foreign)).toThrow(code('FOREIGN_TENSOR'))
  expect(() => ops.gelu({ shape: [1], dtype: 'f32', handle: {} })).toThrow(code('FOREIGN_TENSOR'))
  other.destroy()
})

test('a destroyed device refuses everything', async () => {
  const gone = await openDevice()
  const tensor = gone.zeros([2], 'f32')
  gone.destroy()
  expect(() => gone.zeros([1], 'f32')).toThrow(code('DESTROYED'))
  expect(() => gone.ops.gelu(tensor)).toThrow(code('DESTROYED'))
  expect(gone.memory()).toEqual(expect.objectContaining({ liveBytes: 0, pooledBytes: 0 }))
})

test('freed storage is reused, counted as pooled meanwhile', () => {
  const { pooledBytes } = device.memory()
  device.release(device.zeros([12_345], 'f32'))
  expect(device.memory().pooledBytes).toBe(pooledBytes + 4 * 12_345)
  const again = device.zeros([12_345], 'f32')
  expect(device.memory().pooledBytes).toBe(pooledBytes)
  device.release(again)
})

test('f64 keeps what f32 would round, through ops and to readF64', async () => {
  const f64 = await openDevice({ precision: 'f64' })
  const x = f64.upload(Float64Array.of(1 + 2 ** -40), [1], 'f32')
  expect(f64.readF64(f64.ops.affine(x, { offset: -1 }))[0]).toBe(2 ** -40)
  expect((await f64.read(x))[0]).toBe(1)
  f64.destroy()
})

describe('arguments that do not fit are refused by the op that gets them', () => {
  const t = (...shape: number[]) => device.zeros(shape, 'f32')
  const cases: [string, () => unknown][] = [
    ['linear', () => ops.linear(t(2, 3), t(5, 4))],
    ['linear', () => ops.linear(t(2, 3), t(5, 3), { bias: t(4) })],
    [
      'linear',
      () => ops.linear(t(2, 3), t(5, 3), { adapters: [{ a: t(2, 3), b: t(5, 3), scale: 1 }] }),
    ],
    ['linearGrad', () => ops.linearGrad(t(2, 4), t(2, 3), t(5, 3), { needsX: true })],
    ['attention', () => ops.attention(t(1, 2, 1, 4), t(1, 3, 1, 8), t(1, 3, 1, 4))],
    [
      'attention',
      () => ops.attention(t(1, 2, 1, 4), t(1, 3, 1, 4), t(1, 3, 1, 4), { keyBias: t(3) }),
    ],
    ['layerNorm', () => ops.layerNorm(t(2, 3), { eps: 1e-6, weight: t(2) })],
    ['rmsNorm', () => ops.rmsNorm(t(2, 3), t(2), { eps: 1e-6 })],
    ['rope', () => ops.rope(t(1, 2, 1, 3), t(2, 1), t(2, 1))],
    ['add', () => ops.add(t(2, 3), t(2))],
    ['gatedAdd', () => ops.gatedAdd(t(2, 3), t(2, 3), t(1, 3))],
    ['conv3d', () => ops.conv3d(t(1, 1, 2, 2, 3), t(4, 1, 1, 1, 2))],
    ['conv3d', () => ops.conv3d(t(1, 1, 2, 2, 3), t(4, 1, 3, 3, 3))],
    ['embedding', () => ops.embedding(t(4, 2), device.upload(Int32Array.of(4), [1], 'i32'))],
    ['embedding', () => ops.embedding(t(4, 2), t(1))],
    ['reshape', () => ops.reshape(t(2, 3), [5])],
    ['permute', () => ops.permute(t(2, 3), [0, 0])],
    ['slice', () => ops.slice(t(2, 3), 1, 2, 4)],
    ['slice', () => ops.slice(t(2, 3), 2, 0, 1)],
    ['concat', () => ops.concat([t(2, 3), t(3, 3)], 1)],
    ['concat', () => ops.concat([], 0)],
    ['loss', () => ops.loss(t(2, 3), t(2, 4), { kind: 'mse' })],
    ['lossGrad', () => ops.lossGrad(t(2, 3), t(2, 3), { kind: 'mse', itemScale: [1] })],
    ['addInto', () => ops.addInto(t(2), t(3))],
    ['upload', () => device.upload(Float32Array.of(1), [2], 'f32')],
    ['write', () => device.upload(Float32Array.of(1), [1], 'f16')],
    ['write', () => device.write(t(2), Float32Array.of(1, 2), 1)],
    ['gelu', () => ops.gelu(device.zeros([2], 'i32'))],
  ]
  test.each(cases)('%s', (op, fn) => {
    expect(() => device.scope(fn)).toThrow(code('BAD_ARGUMENT', new RegExp(`^${op}: `)))
  })
})
