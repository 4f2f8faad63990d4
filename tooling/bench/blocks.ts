// One block of the transformer at full width: forward, and a training step's share, by the difference of networks of two and four
// blocks.
//
//   bench blocks [--cases=512x512x41] [--weights=f16,uint4] [--repeat=3] [--json=FILE]
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'

import { normals, numElements } from '@kinora/kernel-api'
import { createTape, leanPlan, runOptions } from '@kinora/trainer-core'
import { createLora, createTransformer, transformerTensors, uploadLora } from '@kinora/wan'
import { openDevice } from '@kinora/wgpu-kernels/node'

import { ceilingOf } from './ceilings.ts'
import { networkFlags, networkOf } from './network-flags.ts'
import { RandomWeights } from './random-weights.ts'

const { values: flags } = parseArgs({
  options: {
    cases: { type: 'string', default: '512x512x41' },
    weights: { type: 'string', default: 'f16,uint4' },
    ...networkFlags,
    repeat: { type: 'string', default: '3' },
    json: { type: 'string' },
  },
})
const device = await openDevice()
console.log(`${device.info.adapter}, ${device.info.driver}`)
const compute = device.info.computeDTypes.includes('f16') ? 'f16' : 'f32'
const textShape = [1, Number(flags['text-length']), Number(flags['text-dim'])]
const ceiling = ceilingOf(device.info.adapter)

/** Median seconds of a forward pass and of forward with backward. */
async function measure(numLayers: number, weights: string, latents: readonly number[]) {
  const config = networkOf(flags, numLayers)
  const transformer = await createTransformer(
    config,
    new RandomWeights(transformerTensors(config), device),
    device,
    { compute, quantize: weights === 'f16' ? undefined : (weights as 'uint4') },
  )
  const lora = uploadLora(
    device,
    createLora(transformer.loraTargets, { rank: Number(flags.rank), seed: 1, stream: 1 }),
  )
  const params = [...lora.adapters.values()].flatMap((list) => list.flatMap(({ a, b }) => [a, b]))
  const input = {
    latents: device.upload(normals(3, 1, numElements(latents)), latents, 'f32'),
    timesteps: [500],
    text: device.upload(normals(3, 3, numElements(textShape)), textShape, 'f32'),
  }
  const targetShape = latents.with(1, config.outChannels)
  const target = device.upload(normals(3, 2, numElements(targetShape)), targetShape, 'f32')
  const run = { adapters: lora.adapters, ...runOptions(leanPlan(compute)) }
  const time = async (step: () => void): Promise<number> => {
    const seconds: number[] = []
    for (let i = 0; i <= Number(flags.repeat); i++) {
      const start = performance.now()
      step()
      await device.sync()
      if (i > 0) seconds.push((performance.now() - start) / 1000)
    }
    return seconds.toSorted((a, b) => a - b)[seconds.length >> 1]!
  }
  const forward = await time(() =>
    device.scope(() => void transformer.forward(device.ops, input, run)),
  )
  const step = await time(() => {
    const tape = createTape(device, { watch: params })
    const loss = device.scope(() =>
      tape.ops.loss(transformer.forward(tape.ops, input, run), target, { kind: 'mse' }),
    )
    tape.backward([{ tensor: loss, grad: [1024] }], params)
    tape.dispose()
    device.release(loss)
  })
  for (const tensor of [input.latents, input.text, target]) device.release(tensor)
  lora.release()
  transformer.release()
  return { forward, step, config }
}

const results: Record<string, unknown>[] = []
for (const name of flags.cases.split(',')) {
  const [width, height, frames] = name.split('x').map(Number) as [number, number, number]
  const latents = [1, 36, (frames - 1) / 4 + 1, height / 8, width / 8]
  const tokens = numElements(latents.slice(2)) / 4
  for (const weights of flags.weights.split(',')) {
    const two = await measure(2, weights, latents)
    const four = await measure(4, weights, latents)
    const dim = two.config.numHeads * two.config.headDim
    const linear = 2 * tokens * (6 * dim * dim + 2 * dim * two.config.ffnDim)
    const attention = 4 * tokens * tokens * dim
    const each = (key: 'forward' | 'step'): number => (four[key] - two[key]) / 2
    const result = {
      case: name,
      tokens,
      weights: weights === 'f16' ? compute : weights,
      forwardMs: Number((1000 * each('forward')).toFixed(2)),
      forwardTflops: Number(((linear + attention) / each('forward') / 1e12).toFixed(1)),
      stepMs: Number((1000 * each('step')).toFixed(2)),
      stepTflops: Number(((3 * linear + 4.5 * attention) / each('step') / 1e12).toFixed(1)),
      ...(ceiling
        ? {
            ofCeiling: Number(
              ((3 * linear + 4.5 * attention) / each('step') / ceiling.flopsPerSecond).toFixed(3),
            ),
          }
        : {}),
    }
    console.log(JSON.stringify(result))
    results.push(result)
  }
}
if (flags.json) writeFileSync(flags.json, JSON.stringify({ device: device.info, results }, null, 2))
device.destroy()
process.exit(0)
