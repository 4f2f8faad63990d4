import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openSafetensors, writeSafetensors } from '@kinora/safetensors'
import {
  createTransformer,
  parseTransformerConfig,
  SafetensorsWeights,
  transformerTensors,
} from '@kinora/wan'
import { expect, it } from 'vitest'
import { createSinkDevice } from './sink-device.ts'

// An expert of 150 million numbers in three shards, one of f32: 450 MB on the disk.
const config = parseTransformerConfig({
  num_attention_heads: 8,
  attention_head_dim: 128,
  ffn_dim: 4096,
  text_dim: 64,
  num_layers: 9,
})
const MiB = 2 ** 20

it('loads an expert of 450 MB in shards through little host memory, and packs it without a dense one on the device', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'kinora-large-'))
  try {
    const shards = ['BF16', 'F32', 'F16'] as const
    const table = [...transformerTensors(config)]
    const files = []
    const byTensor = new Map()
    let parameters = 0
    for (const [shard, dtype] of shards.entries()) {
      const file = join(folder, `${shard}.safetensors`)
      const own = table.filter((_, i) => i % shards.length === shard)
      await writeSafetensors(
        file,
        own.map(([name, shape]) => {
          const count = shape.reduce((p, n) => p * n, 1)
          parameters += count
          return { name, dtype, shape, data: () => zeros(count * (dtype === 'F32' ? 4 : 2)) }
        }),
      )
      const open = await openSafetensors(file)
      files.push(open)
      for (const name of open.tensors.keys()) byTensor.set(name, open)
    }
    expect(parameters).toBeGreaterThan(150e6)

    const device = createSinkDevice()
    globalThis.gc?.()
    const before = process.memoryUsage.rss()
    let highest = 0
    const timer = setInterval(() => {
      highest = Math.max(highest, process.memoryUsage.rss() - before)
    }, 5)
    const transformer = await createTransformer(config, new SafetensorsWeights(byTensor), device, {
      compute: 'f16',
      quantize: 'uint4',
    })
    clearInterval(timer)
    // Three chunks of 16 MiB, twice for what the collector has not seen to yet, and the runtime's own growth.
    expect(highest).toBeGreaterThan(0)
    expect(highest).toBeLessThan(160 * MiB)
    const { liveBytes, peakBytes } = device.memory()
    // 4.5 bits a number in the blocks; dense there is the largest weight only, in f32, bf16 and f16 at once.
    const largest = 1024 * 4096 * (4 + 2 + 2)
    const embedders = 1024 * (6 * 1024 + 1024 + 256) * 4 + 4 * 1024 * 1024 * 2
    expect(liveBytes).toBeLessThan((parameters * 4.5) / 8 + embedders + 2 * MiB)
    expect(peakBytes - liveBytes).toBeLessThan(largest + 4 * MiB)
    transformer.release()
    expect(device.memory().liveBytes).toBe(0)
    for (const file of files) await file.close()
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})

function* zeros(bytes: number): Generator<Uint8Array> {
  const part = new Uint8Array(Math.min(bytes, 4 * MiB))
  for (let done = 0; done < bytes; done += part.length) {
    yield part.subarray(0, Math.min(part.length, bytes - done))
  }
}
