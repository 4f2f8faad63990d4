import type { Device, Ops, Tensor } from '@kinora/kernel-api'
import { blockLinearNames, type LoraWeights } from '@kinora/lora-files'
import type { TransformerConfig } from '../checkpoint/configs.ts'
import { loadingAll, WeightLoader, type Linear } from '../checkpoint/weight-loader.ts'
import type { WeightSource } from '../checkpoint/weight-source.ts'
import { wanErrors } from '../errors.ts'
import { chainLayers, keptFromScope } from '../layer-chain.ts'
import { columnSquares, inverseColumnLengths } from '../lora/column-lengths.ts'
import { joinAdapters, uploadLora, type DeviceLora } from '../lora/device-lora.ts'
import {
  adapterFeatures,
  describeAdapter,
  isDora,
  type LowRankAdapter,
  type ModuleAdapter,
} from '../lora/module-adapter.ts'
import type { QuantizeScheme } from '../quantize/schemes.ts'
import {
  BlockPlacement,
  EmbedderPlacement,
  linearsOf,
  streamedBlocks,
  type Embedders,
} from './weight-placement.ts'
import { loadBlock, transformerBlock, type BlockSettings } from './block.ts'
import { ropeTables } from './rope.ts'
import { timestepSinusoid } from './timestep.ts'

// Axes: B batch, K input channels, F latent frames, Y and X latent rows and columns, N tokens = F · Y/2 · X/2, L text rows,
// C channels of the model, D head channels.

/** How an expert is loaded. */
export interface TransformerOptions {
  /** Dtype of the weights and inputs of the linears and attention; all else is f32. */
  compute: 'f32' | 'f16'
  /**
   * Packs the ten linears of each block as they arrive: no more than one weight is dense on the device at a time. Weights that
   * are stored packed stay as they are.
   */
  quantize?: QuantizeScheme | undefined
  /** A frozen adapter that gives back what packing lost. It is part of the network: always on, beside any other adapter. */
  recovery?: LoraWeights | undefined
  /**
   * Share of the blocks, 0 to 1, whose linears stay in host memory and are streamed through two slots on the device while others
   * compute. A tape must then checkpoint the blocks. Default 0.
   */
  streamedShare?: number | undefined
  signal?: AbortSignal | undefined
}

/** What one forward pass is computed from. */
export interface TransformerInput {
  /** [B, K, F, Y, X] f32: 16 noisy latents, 4 mask, 16 condition. Y and X even. */
  latents: Tensor
  /** One per batch item, 0 to 1000: 1000 · sigma. */
  timesteps: readonly number[]
  /** [B, L, textDim] f32, zero rows after the real tokens. */
  text: Tensor
}

/** How one forward pass is run. */
export interface TransformerRun {
  /** By module name (`loraTargets`), summed in order. */
  adapters?: ReadonlyMap<string, readonly ModuleAdapter[]> | undefined
  /**
   * What the tape keeps of every block instead of computing it again: attention results by `attn1` (self) and `attn2` (cross),
   * results of linears by their name in the block, such as `attn1.to_q` or `ffn.net.0.proj`.
   */
  keep?: readonly string[] | undefined
  /** Keeps the input of each block rounded to f16 for the way back: half the memory that training a long clip takes. */
  blockInputsAs?: 'f16' | undefined
  /** What a tape keeps of the first so many blocks, their inputs included, waits in host memory. None unless given. */
  blocksInHostMemory?: number | undefined
  /**
   * Sees each stage's value as it is made: `patch` [B, N, C], `temb` [B, C], `timestep_proj` [B, 6, C], `text` [B, L, C],
   * `block<n>` [B, N, C], `out`. A value lives during the call; retain those wanted longer.
   */
  inspect?: ((name: string, value: Tensor) => void) | undefined
}

/** A linear that a LoRA may join. */
export interface LoraTarget {
  /** Diffusers module name, such as `blocks.0.attn1.to_q`. */
  name: string
  inFeatures: number
  outFeatures: number
}

/** One expert of Wan 2.2 on a device. */
export interface WanTransformer {
  readonly config: TransformerConfig
  readonly compute: 'f32' | 'f16'
  /** The ten linears of every block. */
  readonly loraTargets: readonly LoraTarget[]
  /** Predicted velocity [B, outChannels, F, Y, X], f32. `ops` is the device's own or a tape on it. */
  forward(ops: Ops, input: TransformerInput, run?: TransformerRun): Tensor
  /** Lengths of the columns of adapted linears, by module name, each [inFeatures]: what a DoRA begins with. */
  columnLengths(names: readonly string[]): Promise<Map<string, Float32Array>>
  /** Moves the weights of its blocks and embedders to host memory; the next forward pass, or `toDevice`, brings them back. */
  toHost(): Promise<void>
  /** Queues the way back. Nothing waits for it but what is queued after. */
  toDevice(): void
  /** Frees its weights. */
  release(): void
}

/** The ten linears of every block, in network order. */
export function transformerLoraTargets(config: TransformerConfig): LoraTarget[] {
  const dim = config.numHeads * config.headDim
  const targets: LoraTarget[] = []
  for (let n = 0; n < config.numLayers; n++) {
    for (const path of blockLinearNames) {
      targets.push({
        name: `blocks.${n}.${path}`,
        inFeatures: path === 'ffn.net.2' ? config.ffnDim : dim,
        outFeatures: path === 'ffn.net.0.proj' ? config.ffnDim : dim,
      })
    }
  }
  return targets
}

interface TransformerWeights {
  readonly patchEmbedding: Linear
  readonly embedders: EmbedderPlacement
  /** [2, C]: shift, scale. */
  readonly headModulation: Tensor
  readonly head: Linear
}

/** Loads the weights of an expert and returns the network. */
export async function createTransformer(
  config: TransformerConfig,
  source: WeightSource,
  device: Device,
  options: TransformerOptions,
): Promise<WanTransformer> {
  const { compute, quantize, recovery, streamedShare = 0, signal } = options
  if (!device.info.computeDTypes.includes(compute)) {
    throw wanErrors.COMPUTE_UNSUPPORTED(compute, device.info.adapter)
  }
  const blocks = new BlockPlacement(device, streamedBlocks(config.numLayers, streamedShare))
  const loader = new WeightLoader(source, device, { quantize, signal })
  let embedders: EmbedderPlacement | undefined
  try {
    const weights = await loadingAll(loader, async (): Promise<TransformerWeights> => {
      for (let n = 0; n < config.numLayers; n++) {
        const block = await loadBlock(loader, `blocks.${n}`, compute)
        for (const { weight } of linearsOf(block)) loader.handOver(weight)
        await blocks.add(block)
      }
      const embedder = (name: string): Promise<Linear> =>
        loader.linear(`condition_embedder.${name}`, compute)
      const linears = {
        timeIn: await embedder('time_embedder.linear_1'),
        timeOut: await embedder('time_embedder.linear_2'),
        timeProjection: await embedder('time_proj'),
        textIn: await embedder('text_embedder.linear_1'),
        textOut: await embedder('text_embedder.linear_2'),
      }
      for (const { weight } of Object.values(linears)) loader.handOver(weight)
      embedders = new EmbedderPlacement(device, linears)
      if (streamedShare > 0) await embedders.stream()
      return {
        patchEmbedding: await loader.linear('patch_embedding', 'f32'),
        embedders,
        headModulation: await loader.vector('scale_shift_table'),
        head: await loader.linear('proj_out', 'f32'),
      }
    })
    const targets = transformerLoraTargets(config)
    const lora = recovery && uploadLora(device, recovery, { targets })
    return new Transformer(config, compute, device, loader, weights, blocks, lora)
  } catch (error) {
    loader.release()
    blocks.release()
    embedders?.release()
    throw error
  }
}

/** Grids whose rotary tables stay on the device: a bucketed dataset has a few, and training comes back to each. */
const maxCachedGrids = 8

class Transformer implements WanTransformer {
  readonly config: TransformerConfig
  readonly compute: 'f32' | 'f16'
  readonly loraTargets: readonly LoraTarget[]
  readonly #device: Device
  readonly #loader: WeightLoader
  readonly #weights: TransformerWeights
  readonly #blocks: BlockPlacement
  readonly #recovery: DeviceLora | undefined
  readonly #targets: ReadonlyMap<string, LoraTarget>
  readonly #ropes = new Map<string, readonly [Tensor, Tensor]>()
  /** By module, for DoRA. */
  readonly #squares = new Map<string, Tensor>()

  constructor(
    config: TransformerConfig,
    compute: 'f32' | 'f16',
    device: Device,
    loader: WeightLoader,
    weights: TransformerWeights,
    blocks: BlockPlacement,
    recovery: DeviceLora | undefined,
  ) {
    this.config = config
    this.compute = compute
    this.loraTargets = transformerLoraTargets(config)
    this.#targets = new Map(this.loraTargets.map((target) => [target.name, target]))
    this.#device = device
    this.#loader = loader
    this.#weights = weights
    this.#blocks = blocks
    this.#recovery = recovery
  }

  forward(ops: Ops, input: TransformerInput, run: TransformerRun = {}): Tensor {
    this.#check(input, run.adapters)
    const { config, compute } = this
    const w = this.#weights
    const [, , frames, rows, columns] = input.latents.shape as [
      number,
      number,
      number,
      number,
      number,
    ]
    const [, py, px] = config.patchSize
    const [cos_ND, sin_ND] = this.#rope([frames, rows / py, columns / px])
    const inspect = run.inspect ?? (() => {})
    const adapters = this.#recovery
      ? joinAdapters([this.#recovery, { adapters: run.adapters ?? new Map() }])
      : run.adapters
    const settings = {
      numHeads: config.numHeads,
      eps: config.eps,
      compute,
      adapters,
      blockInputsAs: run.blockInputsAs,
    }

    return ops.scope(() => {
      const patches_BNC = patchEmbedding(ops, input.latents, w.patchEmbedding, config)
      inspect('patch', patches_BNC)
      const { e_BC, e0_B6C, context_BLC } = w.embedders.use((embedders) => ({
        ...this.#timeEmbedding(ops, input.timesteps, embedders),
        context_BLC: this.#textProjection(ops, input.text, embedders),
      }))
      inspect('temb', e_BC)
      inspect('timestep_proj', e0_B6C)
      inspect('text', context_BLC)

      const block = (x_BNC: Tensor, n: number): Tensor => {
        const lengths = this.#inverseLengths(n, adapters)
        const own: BlockSettings = { ...settings, inverseLengths: (dora) => lengths.get(dora)! }
        const out = ops.checkpoint(
          (ops, x, context, time, cos, sin) =>
            transformerBlock(ops, x!, context!, time!, cos!, sin!, this.#blocks.enter(n), own),
          [x_BNC, context_BLC, e0_B6C, cos_ND, sin_ND],
          {
            keep: run.keep,
            firstInputAs: run.blockInputsAs,
            inHostMemory: n < (run.blocksInHostMemory ?? 0),
          },
        )
        inspect(`block${n}`, out)
        return out
      }
      const blocks = Array.from(
        { length: config.numLayers },
        (_, n) => (x_BNC: Tensor) => block(x_BNC, n),
      )
      const x_BNC = chainLayers(this.#device, ops, patches_BNC, blocks)
      const out = this.#head(ops, x_BNC, e_BC, input.latents.shape)
      inspect('out', out)
      return out
    })
  }

  async columnLengths(names: readonly string[]): Promise<Map<string, Float32Array>> {
    const wanted = new Set(names)
    const lengths = new Map<string, Float32Array>()
    for (let n = 0; n < this.#blocks.length; n++) {
      for (const linear of linearsOf(this.#blocks.enter(n))) {
        if (!wanted.has(linear.name)) continue
        const squares = await this.#device.read(this.#columnSquares(linear))
        lengths.set(linear.name, Float32Array.from(squares, Math.sqrt))
      }
    }
    return lengths
  }

  /**
   * 1 / ‖column‖ of the DoRAs of a block. On the device's own ops and outside the block: they are constants to gradients, and the
   * same when the block is run again.
   */
  #inverseLengths(
    n: number,
    adapters: TransformerRun['adapters'],
  ): ReadonlyMap<LowRankAdapter, Tensor> {
    const lengths = new Map<LowRankAdapter, Tensor>()
    const dorasOf = ({ name }: Linear): LowRankAdapter[] =>
      (adapters?.get(name) ?? []).filter(isDora)
    const prefix = `blocks.${n}.`
    const isConcerned = [...(adapters ?? [])].some(
      ([name, list]) => name.startsWith(prefix) && list.some(isDora),
    )
    if (!isConcerned) return lengths
    for (const linear of linearsOf(this.#blocks.enter(n))) {
      for (const dora of dorasOf(linear)) {
        const squares = this.#columnSquares(linear)
        lengths.set(dora, inverseColumnLengths(this.#device, linear.weight, squares, dora))
      }
    }
    return lengths
  }

  /** Of a frozen weight, so each is worked out once. */
  #columnSquares(linear: Linear): Tensor {
    let squares = this.#squares.get(linear.name)
    if (!squares) {
      squares = keptFromScope(this.#device, () => columnSquares(this.#device, linear.weight))
      this.#squares.set(linear.name, squares)
    }
    return squares
  }

  async toHost(): Promise<void> {
    await this.#blocks.toHost()
    await this.#weights.embedders.toHost()
  }

  toDevice(): void {
    this.#blocks.toDevice()
    this.#weights.embedders.toDevice()
  }

  release(): void {
    this.#recovery?.release()
    this.#blocks.release()
    this.#weights.embedders.release()
    for (const tables of this.#ropes.values())
      tables.forEach((table) => this.#device.release(table))
    this.#ropes.clear()
    for (const squares of this.#squares.values()) this.#device.release(squares)
    this.#squares.clear()
    this.#loader.release()
  }

  /** e = W₂ · SiLU(W₁ s + b₁) + b₂ from the sinusoid s; e₀ = W · SiLU(e) + b as six rows. */
  #timeEmbedding(
    ops: Ops,
    timesteps: readonly number[],
    w: Embedders,
  ): { e_BC: Tensor; e0_B6C: Tensor } {
    const { config } = this
    const sinusoid = this.#device.upload(
      timestepSinusoid(timesteps, config.freqDim),
      [timesteps.length, config.freqDim],
      'f32',
    )
    const e_BC = linear(ops, ops.silu(linear(ops, sinusoid, w.timeIn)), w.timeOut)
    const e0 = linear(ops, ops.silu(e_BC), w.timeProjection)
    return {
      e_BC,
      e0_B6C: ops.reshape(e0, [timesteps.length, 6, config.numHeads * config.headDim]),
    }
  }

  /** W₂ · GELU(W₁ text + b₁) + b₂, for the zero rows too. */
  #textProjection(ops: Ops, text_BLT: Tensor, w: Embedders): Tensor {
    const text = text_BLT.dtype === this.compute ? text_BLT : ops.cast(text_BLT, this.compute)
    return linear(ops, ops.gelu(linear(ops, text, w.textIn)), w.textOut)
  }

  /** W · (LN(x) · (1 + scale) + shift) + b, then each token's vector [py, px, channel] back to its patch. */
  #head(ops: Ops, x_BNC: Tensor, e_BC: Tensor, latentShape: readonly number[]): Tensor {
    const { outChannels, eps, patchSize } = this.config
    const w = this.#weights
    const [b, , f, y, x] = latentShape as [number, number, number, number, number]
    const [, py, px] = patchSize
    const [shift_C, scale_C] = [0, 1].map((row) =>
      ops.reshape(ops.slice(w.headModulation, 0, row, row + 1), [e_BC.shape[1]!]),
    ) as [Tensor, Tensor]
    const normed_BNC = ops.layerNorm(x_BNC, {
      eps,
      weight: ops.affine(ops.add(e_BC, scale_C), { offset: 1 }),
      bias: ops.add(e_BC, shift_C),
    })
    const tokens = linear(ops, normed_BNC, w.head)
    const patches = ops.reshape(tokens, [b, f * (y / py), x / px, py, px, outChannels])
    return ops.reshape(ops.permute(patches, [0, 5, 1, 3, 2, 4]), [b, outChannels, f, y, x])
  }

  #rope(grid: readonly [number, number, number]): readonly [Tensor, Tensor] {
    const key = grid.join()
    let tables = this.#ropes.get(key)
    if (!tables) {
      const { cos, sin } = ropeTables(this.config, grid)
      const shape = [grid[0] * grid[1] * grid[2], this.config.headDim / 2]
      const upload = (table: Float32Array) =>
        keptFromScope(this.#device, () => this.#device.upload(table, shape, 'f32'))
      tables = [upload(cos), upload(sin)]
    } else {
      this.#ropes.delete(key)
    }
    this.#ropes.set(key, tables)
    if (this.#ropes.size > maxCachedGrids) {
      const [oldest, old] = this.#ropes.entries().next().value!
      this.#ropes.delete(oldest)
      old.forEach((table) => this.#device.release(table))
    }
    return tables
  }

  #check(
    { latents, timesteps, text }: TransformerInput,
    adapters: TransformerRun['adapters'],
  ): void {
    const { inChannels, patchSize, textDim } = this.config
    const [, py, px] = patchSize
    const [b, k, , y, x] = latents.shape
    if (latents.shape.length !== 5 || k !== inChannels || y! % py !== 0 || x! % px !== 0) {
      throw wanErrors.BAD_SHAPE(
        'The latents',
        latents.shape,
        `the transformer takes [B, ${inChannels}, F, Y, X] with Y a multiple of ${py} and X of ${px}`,
      )
    }
    if (timesteps.length !== b) {
      throw wanErrors.BAD_SHAPE(
        'The list of timesteps',
        [timesteps.length],
        `the batch has ${b} items`,
      )
    }
    if (text.shape.length !== 3 || text.shape[0] !== b || text.shape[2] !== textDim) {
      throw wanErrors.BAD_SHAPE(
        'The text',
        text.shape,
        `the transformer takes [${b}, L, ${textDim}]`,
      )
    }
    for (const [name, list] of adapters ?? []) {
      const target = this.#targets.get(name)
      if (!target) throw wanErrors.UNKNOWN_MODULE(name)
      const bad = list.find((adapter) => {
        const features = adapterFeatures(adapter)
        return (
          features?.inFeatures !== target.inFeatures || features.outFeatures !== target.outFeatures
        )
      })
      if (bad) {
        throw wanErrors.ADAPTER_SHAPE(
          name,
          describeAdapter(bad),
          `[r, ${target.inFeatures}] and [${target.outFeatures}, r], or a Kronecker product of that size`,
        )
      }
    }
  }
}

/**
 * A convolution whose kernel is its stride is a linear on each patch's vector [channel, py, px]. The weight comes as [C, K·py·px].
 */
function patchEmbedding(
  ops: Ops,
  x_BKFYX: Tensor,
  w: Linear,
  { patchSize }: TransformerConfig,
): Tensor {
  const [b, k, f, y, x] = x_BKFYX.shape as [number, number, number, number, number]
  const [, py, px] = patchSize
  const patches = ops.permute(
    ops.reshape(x_BKFYX, [b, k, f * (y / py), py, x / px, px]),
    [0, 2, 4, 1, 3, 5],
  )
  return linear(ops, ops.reshape(patches, [b, f * (y / py) * (x / px), k * py * px]), w)
}

function linear(ops: Ops, x: Tensor, w: Linear): Tensor {
  return ops.linear(x, w.weight, { bias: w.bias })
}
