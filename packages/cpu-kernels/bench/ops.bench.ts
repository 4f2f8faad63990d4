import { openDevice } from '@kinora/cpu-kernels'
import { normals } from '@kinora/kernel-api'
import { afterAll, bench, describe } from 'vitest'

// `npx vitest bench packages/cpu-kernels`. Divide the GFLOP in a name by the mean in seconds for GFLOP/s.

const device = await openDevice()
const { ops } = device
const put = (...shape: number[]) =>
  device.upload(
    normals(
      1,
      shape.length,
      shape.reduce((p, n) => p * n, 1),
    ),
    shape,
    'f32',
  )
afterAll(() => device.destroy())

describe('linear', () => {
  const [x, w] = [put(1024, 512), put(512, 512)]
  bench('1024 × 512 → 512, 0.537 GFLOP', () => device.scope(() => void ops.linear(x, w)))
  bench('its gradient, 0.537 GFLOP', () =>
    device.scope(() => void ops.linearGrad(x, x, w, { needsX: true })))
})

describe('attention', () => {
  const q = put(1, 1024, 2, 64)
  const saved = { q, k: q, v: q, ...ops.attention(q, q, q) }
  bench('1024 tokens, 2 heads of 64, 0.537 GFLOP', () =>
    device.scope(() => void ops.attention(q, q, q)))
  bench('its gradient, 1.342 GFLOP', () => device.scope(() => void ops.attentionGrad(q, saved)))
})

describe('conv3d', () => {
  const [x, w] = [put(1, 5, 32, 32, 32), put(32, 3, 3, 3, 32)]
  const padding = [
    [2, 0],
    [1, 1],
    [1, 1],
  ] as const
  bench('5 × 32 × 32, 32 → 32 channels, 0.283 GFLOP', () =>
    device.scope(() => void ops.conv3d(x, w, { padding })))
})
