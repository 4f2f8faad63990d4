// What packing costs in accuracy, on the real blocks of a checkpoint: for each scheme the relative L2 error of what a block adds to
// the residual stream (only that block packed), of the velocity the whole network predicts, and of the weights.
//
//   node packing-error.mjs <checkpoint> [--ranks=8,16] [--size=64x64x17]
//
// Runs on the processor. The input is noise around the encoding of a moving gradient, at timesteps of each expert's range; the
// calibrated adapters are measured on other noise and timesteps.
import { parseArgs } from 'node:util'

import { openDevice } from '@kinora/cpu-kernels'
import { normals, type PackedWeight, type Tensor } from '@kinora/kernel-api'
import type { LoraWeights } from '@kinora/lora-files'
import {
  buildCondition,
  correctError,
  createTransformer,
  loadTextEncoder,
  loadVae,
  measureActivationSizes,
  openCheckpoint,
  quantizeSchemes,
  SafetensorsWeights,
  transformerLoraTargets,
  type ActivationSizes,
  type QuantizeScheme,
  type TransformerInput,
  type WanTransformer,
} from '@kinora/wan'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ranks: { type: 'string', default: '8,16' },
    size: { type: 'string', default: '64x64x17' },
  },
})
const ranks = flags.ranks.split(',').map(Number)
const device = await openDevice()
const { ops } = device
const checkpoint = await openCheckpoint(positionals[0]!)
const config = checkpoint.transformer

async function read(tensor: Tensor): Promise<Float32Array> {
  const values = (await device.read(tensor)) as Float32Array
  device.release(tensor)
  return values
}
const norm = (values: Float32Array): number => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0))
const minus = (a: Float32Array, b: Float32Array): Float32Array => a.map((v, i) => v - b[i]!)
const mean = (values: readonly number[]): number =>
  values.reduce((a, b) => a + b, 0) / values.length

/** A gradient that moves and its first frame, encoded; a caption. */
async function makeInputs(): Promise<(seed: number, timestep: number) => TransformerInput> {
  const [width, height, frames] = flags.size.split('x').map(Number) as [number, number, number]
  const pixels = Float32Array.from({ length: frames * height * width * 3 }, (_, i) => {
    const [c, x, y, t] = [
      i % 3,
      Math.floor(i / 3) % width,
      Math.floor(i / 3 / width) % height,
      Math.floor(i / 3 / width / height),
    ]
    return Math.sin((x + 2 * t) / 9 + c) * Math.cos((y - t) / 7)
  })
  const vae = await loadVae(checkpoint, device)
  const video = device.upload(pixels, [1, frames, height, width, 3], 'f32')
  const still = device.upload(
    pixels.map((value, i) => (i < height * width * 3 ? value : 0)),
    [1, frames, height, width, 3],
    'f32',
  )
  const latents = device.scope(() => vae.normalise(vae.encode(video).mean))
  const condition = device.scope(() => buildCondition(ops, vae.normalise(vae.encode(still).mean)))
  vae.release()
  const encoder = await loadTextEncoder(checkpoint, device)
  const text = await encoder.encode(['a red circle rises over a soft background'])
  await encoder.release()
  return (seed, timestep) => {
    const sigma = timestep / 1000
    const noise = device.upload(
      normals(
        seed,
        0,
        latents.shape.reduce((p, n) => p * n, 1),
      ),
      latents.shape,
      'f32',
    )
    const noisy = ops.add(
      ops.affine(latents, { scale: 1 - sigma }),
      ops.affine(noise, { scale: sigma }),
    )
    return { latents: ops.concat([noisy, condition], 1), timesteps: [timestep], text }
  }
}

interface Run {
  /** What each block leaves, from the patches on. */
  stream: Float32Array[]
  velocity: Float32Array
}

async function run(transformer: WanTransformer, input: TransformerInput): Promise<Run> {
  const kept: Tensor[] = []
  const out = device.scope(() =>
    transformer.forward(ops, input, {
      inspect: (name, value) => {
        if (name === 'patch' || name.startsWith('block')) kept.push(device.retain(value))
      },
    }),
  )
  const stream: Float32Array[] = []
  for (const tensor of kept) stream.push(await read(tensor))
  return { stream, velocity: await read(out) }
}

/** The packed form of each weight, made once, and the adapters that mend it. */
class PackedExpert {
  readonly #weights: SafetensorsWeights
  readonly scheme: QuantizeScheme

  constructor(weights: SafetensorsWeights, scheme: QuantizeScheme) {
    this.#weights = weights
    this.scheme = scheme
  }

  /** A network of which the given block alone is packed; all of them with `undefined`. */
  async network(block: number | undefined, recovery?: LoraWeights): Promise<WanTransformer> {
    const weights = this.#weights
    const isIn = (name: string): boolean =>
      block === undefined || name.startsWith(`blocks.${block}.`)
    return createTransformer(
      config,
      {
        has: (name) => weights.has(name),
        load: (name, ...rest) => weights.load(name, ...rest),
        settle: () => weights.settle(),
        loadPacked: async (name): Promise<PackedWeight | undefined> =>
          isIn(name) ? (await this.#pack(name)).packed : undefined,
      },
      device,
      {
        compute: 'f32',
        recovery: recovery && {
          ...recovery,
          modules: new Map([...recovery.modules].filter(([name]) => isIn(name))),
        },
      },
    )
  }

  async correction(
    rank: number,
    sizes?: ActivationSizes,
  ): Promise<{ lora: LoraWeights; share: number }> {
    const modules: LoraWeights['modules'] = new Map()
    const shares: number[] = []
    for (const [stream, { name, inFeatures, outFeatures }] of transformerLoraTargets(
      config,
    ).entries()) {
      const { packed, dense } = await this.#pack(`${name}.weight`, true)
      const found = await correctError(device, dense!, packed, {
        rank,
        seed: 1,
        stream,
        channelSize: sizes?.get(name),
      })
      modules.set(name, { ...found, inFeatures, outFeatures })
      shares.push(found.recovered)
      for (const tensor of [dense!, packed.codes, packed.scales, packed.zeros]) {
        if (tensor) device.release(tensor)
      }
    }
    return { lora: { modules, metadata: {} }, share: mean(shares) }
  }

  async #pack(name: string, keepDense = false): Promise<{ packed: PackedWeight; dense?: Tensor }> {
    const dtype = this.scheme === 'float8' ? 'f32' : 'bf16'
    const dense = await this.#weights.load(name, device, dtype)
    const packed = ops.quantize(dense, this.scheme === 'uint4' ? 'uint4' : 'float8_e4m3')
    if (!keepDense) {
      device.release(dense)
      return { packed }
    }
    const wide = ops.cast(dense, 'f32')
    device.release(dense)
    return { packed, dense: wide }
  }
}

const inputAt = await makeInputs()
const rows = new Map<string, { block: number[]; velocity: number[]; share: number[] }>()
const boundary = 1000 * checkpoint.boundaryRatio
for (const [part, timesteps] of [
  ['transformer', [boundary + 20, 980]],
  ['transformer_2', [200, 500, 800]],
] as const) {
  await using files = await checkpoint.openWeights(part)
  const weights = new SafetensorsWeights(files.byTensor)
  const dense = await createTransformer(config, weights, device, { compute: 'f32' })
  const sizes = await measureActivationSizes(
    device,
    dense,
    timesteps.map((t, i) => inputAt(100 + i, Math.min(995, t + 13))),
  )
  const inputs = timesteps.map((t, i) => inputAt(7 + i, t))
  const want: Run[] = []
  for (const input of inputs) want.push(await run(dense, input))
  dense.release()

  const measure = async (
    label: string,
    expert: PackedExpert,
    recovery?: LoraWeights,
    share?: number,
  ) => {
    const row = rows.get(label) ?? { block: [], velocity: [], share: [] }
    rows.set(label, row)
    if (share !== undefined) row.share.push(share)
    for (const block of [...Array(config.numLayers).keys(), undefined]) {
      const network = await expert.network(block, recovery)
      for (const [i, input] of inputs.entries()) {
        const got = await run(network, input)
        const { stream, velocity } = want[i]!
        if (block === undefined) {
          row.velocity.push(norm(minus(got.velocity, velocity)) / norm(velocity))
          continue
        }
        const [before, after] = [stream[block]!, stream[block + 1]!]
        row.block.push(norm(minus(got.stream[block + 1]!, after)) / norm(minus(after, before)))
      }
      network.release()
    }
  }
  for (const scheme of quantizeSchemes) await measure(scheme, new PackedExpert(weights, scheme))
  const uint4 = new PackedExpert(weights, 'uint4')
  for (const rank of ranks) {
    const plain = await uint4.correction(rank)
    await measure(`uint4+ara, rank ${rank}`, uint4, plain.lora, plain.share)
    const weighted = await uint4.correction(rank, sizes)
    await measure(`uint4+ara, rank ${rank}, calibrated`, uint4, weighted.lora, weighted.share)
  }
}
console.log('| scheme | block, mean | block, worst | velocity, mean | error energy taken |')
console.log('| --- | --- | --- | --- | --- |')
for (const [label, { block, velocity, share }] of rows) {
  const percent = (value: number): string => `${(100 * value).toFixed(2)} %`
  console.log(
    `| ${label} | ${percent(mean(block))} | ${percent(Math.max(...block))} | ${percent(mean(velocity))} | ${share.length > 0 ? percent(mean(share)) : '–'} |`,
  )
}
