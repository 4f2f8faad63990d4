// Encoding and decoding at full size with random weights: seconds and peak memory of the Wan VAE.
//
//   bench vae [--cases=512x512x41,832x480x81] [--decode]
import { parseArgs } from 'node:util'

import { normals, numElements } from '@kinora/kernel-api'
import { limitIdleMemory } from '@kinora/trainer-core'
import { createVae, parseVaeConfig, vaeTensors } from '@kinora/wan'
import { openDevice } from '@kinora/wgpu-kernels/node'

import { RandomWeights } from './random-weights.ts'

const { values: flags } = parseArgs({
  options: {
    cases: { type: 'string', default: '512x512x41,832x480x81' },
    decode: { type: 'boolean', default: false },
    'base-dim': { type: 'string', default: '96' },
    profile: { type: 'boolean', default: false },
  },
})
const device = await openDevice({ profile: flags.profile })
limitIdleMemory(device)
console.log(`${device.info.adapter}, ${device.info.driver}`)
const config = parseVaeConfig(
  { _class_name: 'AutoencoderKLWan', base_dim: Number(flags['base-dim']) },
  'bench',
)
const vae = await createVae(config, new RandomWeights(vaeTensors(config), device), device)
for (const name of flags.cases.split(',')) {
  const [width, height, frames] = name.split('x').map(Number) as [number, number, number]
  const shape = [1, frames, height, width, 3]
  const pool = normals(5, 0, 1 << 20)
  const video = device.upload(
    new Float32Array(numElements(shape)).map((_, i) => pool[i & ((1 << 20) - 1)]!),
    shape,
    'f32',
  )
  device.resetPeak()
  const start = performance.now()
  const { mean, logvar } = vae.encode(video)
  await device.sync()
  const encodeSeconds = (performance.now() - start) / 1000
  const peakGiB = device.memory().peakBytes / 2 ** 30
  let decodeSeconds: number | undefined
  if (flags.decode) {
    const before = performance.now()
    for (const part of vae.decodeChunks(mean)) {
      await device.sync()
      device.release(part)
    }
    decodeSeconds = (performance.now() - before) / 1000
  }
  console.log(
    JSON.stringify({
      case: name,
      encodeSeconds: Number(encodeSeconds.toFixed(2)),
      ...(decodeSeconds === undefined ? {} : { decodeSeconds: Number(decodeSeconds.toFixed(2)) }),
      encodePeakGiB: Number(peakGiB.toFixed(2)),
    }),
  )
  if (flags.profile) {
    const byKernel = new Map<string, number>()
    for (const { kernel, milliseconds } of await device.takeProfile()) {
      byKernel.set(kernel, (byKernel.get(kernel) ?? 0) + milliseconds)
    }
    for (const [kernel, ms] of [...byKernel].toSorted((a, b) => b[1] - a[1]).slice(0, 8)) {
      console.log(`  ${kernel.padEnd(30)} ${ms.toFixed(1)} ms`)
    }
  }
  for (const tensor of [video, mean, logvar]) device.release(tensor)
}
device.destroy()
process.exit(0)
