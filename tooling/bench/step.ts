// One training step of a Wan 2.2 expert with random weights: forward, backward and update of a LoRA on the ten linears of
// each block, as trainer-core does it, at sizes of the real model on any adapter.
//
//   bench step [--cases=512x512x41,…] [--layers=40] [--rank=16] [--quantize=uint4] [--streamed-share=0]
//              [--optimizer=adamw|adamw8bit] [--keep=lean,all,…|attn1+attn1.to_q+…] [--host-blocks=0] [--block-inputs=f16|f32] [--repeat=3] [--profile]
//              [--vram=GIB] [--json=FILE]
//
// Prints a line a case and plan: tokens, seconds (median), TFLOP/s, the rate's share of the adapter's ceiling, peak device memory
// beside what the memory plan foretells. `--profile` adds the time of each kernel.
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'

import { normals, numElements, stateBlockSize, type BlockState } from '@kinora/kernel-api'
import {
  createTape,
  limitIdleMemory,
  overheadOf,
  planTrainingMemory,
  richerPlans,
  runOptions,
  type RecomputePlan,
} from '@kinora/trainer-core'
import { createLora, createTransformer, transformerTensors, uploadLora } from '@kinora/wan'
import { openDevice } from '@kinora/wgpu-kernels/node'

import { ceilingOf } from './ceilings.ts'
import { networkFlags, networkOf } from './network-flags.ts'
import { RandomWeights } from './random-weights.ts'

const { values: flags } = parseArgs({
  options: {
    cases: { type: 'string', default: '512x512x41' },
    layers: { type: 'string', default: '40' },
    ...networkFlags,
    quantize: { type: 'string', default: '' },
    keep: { type: 'string', default: 'lean' },
    'host-blocks': { type: 'string', default: '0' },
    'streamed-share': { type: 'string', default: '0' },
    'block-inputs': { type: 'string', default: 'f16' },
    optimizer: { type: 'string', default: 'adamw' },
    repeat: { type: 'string', default: '3' },
    profile: { type: 'boolean', default: false },
    vram: { type: 'string' },
    json: { type: 'string' },
  },
})
const count = (
  name:
    | 'layers'
    | 'heads'
    | 'head-dim'
    | 'ffn'
    | 'text-dim'
    | 'text-length'
    | 'rank'
    | 'repeat'
    | 'host-blocks',
): number => Number(flags[name])

/** Plans by name; else results to keep, joined by a plus. */
function planOf(name: string, dtype: 'f32' | 'f16'): RecomputePlan {
  const richer = richerPlans(dtype)
  const named =
    name === 'lean'
      ? richer[0]!
      : name === 'all'
        ? richer.at(-1)!
        : { ...richer[0]!, keep: name.split('+') }
  return {
    ...named,
    blockInputs: flags['block-inputs'] === 'f16' && dtype === 'f16' ? 'f16' : 'f32',
    blocksInHostMemory: count('host-blocks'),
  }
}

const device = await openDevice({ profile: flags.profile })
console.log(`${device.info.adapter}, ${device.info.driver}`)
// Idle buffers stay within what a run may take, as in `kinora train`.
const GIB = 2 ** 30
limitIdleMemory(device, flags.vram === undefined ? undefined : Number(flags.vram) * GIB)
const compute = device.info.computeDTypes.includes('f16') ? 'f16' : 'f32'
const config = networkOf(flags, count('layers'))
const started = performance.now()
const transformer = await createTransformer(
  config,
  new RandomWeights(transformerTensors(config), device),
  device,
  {
    compute,
    streamedShare: Number(flags['streamed-share']),
    ...(flags.quantize ? { quantize: flags.quantize } : {}),
  } as Parameters<typeof createTransformer>[3],
)
await device.sync()
console.log(
  `weights: ${(device.memory().liveBytes / GIB).toFixed(2)} GiB in ${((performance.now() - started) / 1000).toFixed(1)} s`,
)
const lora = uploadLora(
  device,
  createLora(transformer.loraTargets, { rank: count('rank'), seed: 1, stream: 1 }),
)
const params = [...lora.adapters.values()].flatMap((list) => list.flatMap(({ a, b }) => [a, b]))
const is8bit = flags.optimizer === 'adamw8bit'
const state8 = is8bit
  ? params.map(({ shape }) => ({ m: blockState(shape), v: blockState(shape) }))
  : []
const state32 = is8bit
  ? []
  : params.map(({ shape }) => ({ m: device.zeros(shape, 'f32'), v: device.zeros(shape, 'f32') }))
/** An optimiser's state in 8 bits, all zeros. */
function blockState(shape: readonly number[]): BlockState {
  const n = numElements(shape)
  return {
    codes: device.zeros([Math.ceil(n / 4)], 'u32'),
    scales: device.zeros([Math.ceil(n / stateBlockSize)], 'f32'),
  }
}

const results: Record<string, unknown>[] = []
for (const [name, keeping] of flags.cases
  .split(',')
  .flatMap((each) => flags.keep.split(',').map((keep) => [each, keep] as const))) {
  const [width, height, frames] = name.split('x').map(Number) as [number, number, number]
  const [F, H, W] = [(frames - 1) / 4 + 1, height / 8, width / 8]
  const tokens = (F * H * W) / 4
  const shape = [1, 36, F, H, W]
  const plan = planOf(keeping, compute)
  const latents = device.upload(normals(3, 1, numElements(shape)), shape, 'f32')
  const target = device.upload(normals(3, 2, 16 * F * H * W), [1, 16, F, H, W], 'f32')
  const text = device.upload(
    normals(3, 3, count('text-length') * config.textDim),
    [1, count('text-length'), config.textDim],
    'f32',
  )
  // As between the buckets of a run: the buffers of the case before may leave no room.
  await device.makeRoom(0)
  device.resetPeak()
  const profile: Awaited<ReturnType<typeof device.takeProfile>> = []
  const seconds: number[] = []
  const losses: number[] = []
  for (let step = 0; step <= count('repeat'); step++) {
    const start = performance.now()
    const tape = createTape(device, { watch: params })
    const loss = device.scope(() => {
      const out = transformer.forward(
        tape.ops,
        { latents, timesteps: [500], text },
        { adapters: lora.adapters, ...runOptions(plan) },
      )
      return tape.ops.loss(out, target, { kind: 'mse' })
    })
    await tape.settle()
    const grads = tape.backward([{ tensor: loss, grad: [1024] }], params)
    const summary = device.scope(() =>
      device.ops.concat([loss, device.ops.sumSquares([...grads.values()])], 0),
    )
    const [value, squares] = (await device.read(summary)) as Float32Array
    const norm = Math.sqrt(squares!) / 1024
    const update = {
      learningRate: 1e-4,
      beta1: 0.9,
      beta2: 0.999,
      eps: 1e-8,
      weightDecay: 1e-4,
      step: step + 1,
      gradScale: Math.min(1, 1 / norm) / 1024,
    }
    const slots = params.map((param) => ({ param, grad: grads.get(param)! }))
    if (is8bit) {
      device.ops.adamw8bit(
        slots.map((slot, i) => ({ ...slot, ...state8[i]! })),
        update,
      )
    } else {
      device.ops.adamw(
        slots.map((slot, i) => ({ ...slot, ...state32[i]! })),
        update,
      )
    }
    device.release(summary)
    device.release(loss)
    tape.dispose()
    await device.sync()
    if (step > 0) seconds.push((performance.now() - start) / 1000)
    losses.push(value!)
    if (flags.profile) {
      const times = await device.takeProfile()
      if (step > 0) profile.push(...times)
    }
  }
  const dim = config.numHeads * config.headDim
  const linearFlops = config.numLayers * (6 * dim * dim + 2 * dim * config.ffnDim) * 2 * tokens * 3
  const attentionFlops = config.numLayers * 4 * tokens * tokens * dim * 4.5
  const foretold = await planTrainingMemory({
    transformer: config,
    compute,
    quantize: flags.quantize === '' ? undefined : (flags.quantize as 'uint4'),
    streamedShare: Number(flags['streamed-share']),
    rank: count('rank'),
    optimizer: is8bit ? 'adamw8bit' : 'adamw',
    batchSize: 1,
    latentSize: [F, H, W],
    textLength: count('text-length'),
    checkpoint: true,
    recompute: plan,
    residentExperts: 1,
    trainedExperts: 1,
    overhead: overheadOf(device.info),
  })
  const ceiling = ceilingOf(device.info.adapter)
  const median = seconds.toSorted((a, b) => a - b)[Math.floor(seconds.length / 2)]!
  const result = {
    case: name,
    tokens,
    layers: config.numLayers,
    keep: keeping,
    hostBlocks: plan.blocksInHostMemory,
    streamedShare: Number(flags['streamed-share']),
    weights: flags.quantize || compute,
    optimizer: flags.optimizer,
    seconds: Number(median.toFixed(4)),
    min: Number(Math.min(...seconds).toFixed(4)),
    tflops: Number(((linearFlops + attentionFlops) / median / 1e12).toFixed(1)),
    ...(ceiling === undefined
      ? {}
      : {
          ofCeiling: Number(
            ((linearFlops + attentionFlops) / median / ceiling.flopsPerSecond).toFixed(3),
          ),
        }),
    foretoldGiB: Number((foretold.totalBytes / GIB).toFixed(2)),
    peakGiB: Number((device.memory().peakBytes / GIB).toFixed(2)),
    parkedGiB: Number((device.memory().parkedBytes / GIB).toFixed(2)),
    hostGiB: Number((process.memoryUsage.rss() / GIB).toFixed(2)),
    pooledGiB: Number((device.memory().pooledBytes / GIB).toFixed(2)),
    losses: losses.map((loss) => Number(loss.toPrecision(5))),
  }
  console.log(JSON.stringify(result))
  results.push(result)
  if (flags.profile) {
    // A device times the first 1024 dispatches of a step: two layers are as many as fit.
    const byKernel = new Map<string, { ms: number; runs: number }>()
    for (const { kernel, detail, milliseconds } of profile) {
      const extents = /\bM (\d+), N (\d+)(?:, K (\d+))?/.exec(detail)
      const key = extents ? `${kernel} ${extents.slice(1).filter(Boolean).join(' x ')}` : kernel
      const sum = byKernel.get(key) ?? { ms: 0, runs: 0 }
      byKernel.set(key, { ms: sum.ms + milliseconds, runs: sum.runs + 1 })
    }
    for (const [kernel, { ms, runs }] of [...byKernel].toSorted((a, b) => b[1].ms - a[1].ms)) {
      const steps = count('repeat')
      console.log(
        `  ${kernel.padEnd(44)} ${(ms / steps).toFixed(2).padStart(9)} ms  ${(runs / steps).toFixed(0).padStart(4)} runs  ${(ms / runs).toFixed(3)} ms each`,
      )
    }
  }
  for (const tensor of [latents, target, text]) device.release(tensor)
}
if (flags.json) writeFileSync(flags.json, JSON.stringify({ device: device.info, results }, null, 2))
device.destroy()
process.exit(0)
