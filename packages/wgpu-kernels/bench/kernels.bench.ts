import { normals } from '@kinora/kernel-api'
import { openDevice } from '@kinora/wgpu-kernels/node'
import { afterAll, bench, describe } from 'vitest'

// `npx vitest bench packages/wgpu-kernels`. Divide the GFLOP in a name by the mean in seconds for GFLOP/s. The shapes are those
// of the demo: dim 128, ffn 512, 80 tokens, two heads of 64, rank 16; VAE of 16 channels at 17 × 64 × 64.

const device = await openDevice()
const { ops } = device
const put = (...shape: number[]) => {
  const count = shape.reduce((product, extent) => product * extent, 1)
  return device.upload(normals(1, shape.length, count), shape, 'f32')
}
/** Queues it many times before one wait, as a network does. */
const queued = async (fn: () => unknown): Promise<void> => {
  for (let i = 0; i < 20; i++) device.scope(() => void fn())
  await device.sync()
}
afterAll(() => device.destroy())

describe('linear', () => {
  const [x, w, bias] = [put(1, 80, 128), put(512, 128), put(512)]
  const adapters = [{ a: put(16, 128), b: put(512, 16), scale: 1 }]
  const dy = put(1, 80, 512)
  bench('20 of 80 × 128 → 512, 0.210 GFLOP', () => queued(() => ops.linear(x, w, { bias })))
  bench('20 with rank 16, 0.242 GFLOP', () => queued(() => ops.linear(x, w, { bias, adapters })))
  bench('20 gradients with rank 16, 0.315 GFLOP', () =>
    queued(() => ops.linearGrad(dy, x, w, { adapters, needsX: true })))
})

describe('attention', () => {
  const q = put(1, 80, 2, 64)
  const saved = { q, k: q, v: q, ...ops.attention(q, q, q) }
  bench('20 of 80 tokens, 2 heads of 64, 0.066 GFLOP', () => queued(() => ops.attention(q, q, q)))
  bench('20 gradients, 0.164 GFLOP', () => queued(() => ops.attentionGrad(q, saved)))
})

describe('conv3d', () => {
  const [x, w] = [put(1, 17, 64, 64, 16), put(16, 3, 3, 3, 16)]
  const padding = [
    [2, 0],
    [1, 1],
    [1, 1],
  ] as const
  bench('20 of 17 × 64 × 64, 16 → 16 channels, 19.3 GFLOP', () =>
    queued(() => ops.conv3d(x, w, { padding })))
})

describe('element by element', () => {
  const x = put(1, 80, 512)
  bench('20 gelu of 80 × 512', () => queued(() => ops.gelu(x)))
  bench('20 layer norms of 80 × 512', () => queued(() => ops.layerNorm(x, { eps: 1e-6 })))
})
