import type { Device, Ops, Tensor } from '@kinora/kernel-api'
import type { TextEncoderConfig } from '../checkpoint/configs.ts'
import type { TensorTable } from '../checkpoint/tensor-table.ts'
import { loadingAll, WeightLoader, type Linear } from '../checkpoint/weight-loader.ts'
import type { WeightSource } from '../checkpoint/weight-source.ts'
import { wanErrors } from '../errors.ts'
import { keptFromScope } from '../layer-chain.ts'
import type { QuantizeScheme } from '../quantize/schemes.ts'
import { relativeBuckets } from './relative-position.ts'

// The encoder of UMT5 (Chung et al. 2023, "UniMax"; a T5 whose every layer has its own position table). Axes: B batch (1),
// N tokens, C channels, H heads, D head channels, F channels of the feed-forward, K buckets.

/** How the text encoder is loaded. */
export interface Umt5Options {
  /** Dtype of the weights and inputs of the linears; the residual stream and the gated product are f32 always. */
  compute: 'f32' | 'f16'
  /** Packs the linears of each layer as it arrives. It saves no memory, for one layer is there at a time; AI Toolkit does it. */
  quantize?: QuantizeScheme | undefined
  signal?: AbortSignal | undefined
}

/** The encoder of UMT5, of which one layer at a time is on the device. */
export interface Umt5 {
  readonly config: TextEncoderConfig
  /**
   * States of the last layer, [1, N, dim] f32, of each sequence, in order; the caller frees them. Sequences have no padding:
   * masked keys would add nothing, and positions are relative. All sequences go through a layer before the next one is loaded, so
   * the weights are read once a call; of more than 1 GiB of states (65 536 tokens at full size) once for each GiB.
   */
  encode(sequences: readonly (readonly number[])[]): AsyncGenerator<Tensor>
}

interface LayerWeights {
  readonly attentionNorm: Tensor
  readonly q: Linear
  readonly k: Linear
  readonly v: Linear
  readonly out: Linear
  /** [K, H] */
  readonly positions: Tensor
  readonly ffnNorm: Tensor
  readonly gate: Linear
  readonly up: Linear
  readonly down: Linear
}

/** Names under which a checkpoint may hold the embedding table: either, or both with equal values. */
export const embeddingNames = ['shared.weight', 'encoder.embed_tokens.weight'] as const

/**
 * Rows that n tokens are given room in: two sizes an octave, from 16 on. With rows of any number, hundreds of captions would ask for
 * buffers of hundreds of sizes, and what a device frees while it is behind its host is not there for the next one.
 */
function rowsFor(n: number): number {
  const step = Math.max(16, 2 ** Math.ceil(Math.log2(n)) / 4)
  return Math.ceil(n / step) * step
}

/** What is added to the scores of keys that are no tokens: e to the power of it is 0, and it leaves no kernel's range. */
const masked = -1e9

/** Bytes of states that wait on the device while a layer is there. */
const mostStateBytes = 2 ** 30

const layerName = (n: number) => `encoder.block.${n}`

/** Every tensor of `UMT5EncoderModel` but the embedding table, which has two names. */
export function umt5Tensors(config: TextEncoderConfig): TensorTable {
  const { dim, numHeads, headDim, ffnDim } = config
  const inner = numHeads * headDim
  const table = new Map<string, readonly number[]>()
  for (let n = 0; n < config.numLayers; n++) {
    const attention = `${layerName(n)}.layer.0`
    const ffn = `${layerName(n)}.layer.1`
    table.set(`${attention}.layer_norm.weight`, [dim])
    for (const projection of ['q', 'k', 'v']) {
      table.set(`${attention}.SelfAttention.${projection}.weight`, [inner, dim])
    }
    table.set(`${attention}.SelfAttention.o.weight`, [dim, inner])
    table.set(`${attention}.SelfAttention.relative_attention_bias.weight`, [
      config.numBuckets,
      numHeads,
    ])
    table.set(`${ffn}.layer_norm.weight`, [dim])
    table.set(`${ffn}.DenseReluDense.wi_0.weight`, [ffnDim, dim])
    table.set(`${ffn}.DenseReluDense.wi_1.weight`, [ffnDim, dim])
    table.set(`${ffn}.DenseReluDense.wo.weight`, [dim, ffnDim])
  }
  table.set('encoder.final_layer_norm.weight', [dim])
  return table
}

/** The linears of every layer, which are those that are packed. */
export function umt5Linears({ numLayers }: TextEncoderConfig): string[] {
  return Array.from({ length: numLayers }, (_, n) => [
    ...['q', 'k', 'v', 'o'].map((name) => `${layerName(n)}.layer.0.SelfAttention.${name}`),
    ...['wi_0', 'wi_1', 'wo'].map((name) => `${layerName(n)}.layer.1.DenseReluDense.${name}`),
  ]).flat()
}

/** An encoder on a device. Its weights are loaded when it encodes: the source must live as long. */
export function createUmt5(
  config: TextEncoderConfig,
  source: WeightSource,
  device: Device,
  options: Umt5Options,
): Umt5 {
  if (!device.info.computeDTypes.includes(options.compute)) {
    throw wanErrors.COMPUTE_UNSUPPORTED(options.compute, device.info.adapter)
  }
  return new Encoder(config, source, device, options)
}

async function loadLayer(
  loader: WeightLoader,
  prefix: string,
  compute: 'f32' | 'f16',
): Promise<LayerWeights> {
  const attention = `${prefix}.layer.0`
  const ffn = `${prefix}.layer.1`
  return {
    attentionNorm: await loader.vector(`${attention}.layer_norm.weight`),
    q: await loader.packedLinear(`${attention}.SelfAttention.q`, compute),
    k: await loader.packedLinear(`${attention}.SelfAttention.k`, compute),
    v: await loader.packedLinear(`${attention}.SelfAttention.v`, compute),
    out: await loader.packedLinear(`${attention}.SelfAttention.o`, compute),
    positions: await loader.tensor(`${attention}.SelfAttention.relative_attention_bias.weight`),
    ffnNorm: await loader.vector(`${ffn}.layer_norm.weight`),
    gate: await loader.packedLinear(`${ffn}.DenseReluDense.wi_0`, compute),
    up: await loader.packedLinear(`${ffn}.DenseReluDense.wi_1`, compute),
    down: await loader.packedLinear(`${ffn}.DenseReluDense.wo`, compute),
  }
}

class Encoder implements Umt5 {
  readonly config: TextEncoderConfig
  readonly #source: WeightSource
  readonly #device: Device
  readonly #options: Umt5Options
  readonly #compute: 'f32' | 'f16'

  constructor(
    config: TextEncoderConfig,
    source: WeightSource,
    device: Device,
    options: Umt5Options,
  ) {
    this.config = config
    this.#source = source
    this.#device = device
    this.#options = options
    this.#compute = options.compute
  }

  async *encode(sequences: readonly (readonly number[])[]): AsyncGenerator<Tensor> {
    const { vocabSize, dim } = this.config
    for (const ids of sequences) {
      const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize)
      if (ids.length === 0 || bad !== undefined) {
        throw wanErrors.BAD_TOKENS(bad ?? 'none', vocabSize)
      }
    }
    const mostTokens = mostStateBytes / (4 * dim)
    for (let start = 0, end = 0; start < sequences.length; start = end) {
      let tokens = 0
      do tokens += rowsFor(sequences[end++]!.length)
      while (end < sequences.length && tokens + rowsFor(sequences[end]!.length) <= mostTokens)
      yield* this.#encodeTogether(sequences.slice(start, end))
    }
  }

  async *#encodeTogether(sequences: readonly (readonly number[])[]): AsyncGenerator<Tensor> {
    const { numBuckets, maxDistance, eps, numLayers } = this.config
    const device = this.#device
    const { ops } = device
    const states: Tensor[] = []
    /** By the number of rows. */
    const buckets = new Map<number, Tensor>()
    /** By the number of tokens, where there are fewer than rows. */
    const keyBiases = new Map<number, Tensor>()
    let owned = 0
    const kept = (make: () => Tensor): Tensor => keptFromScope(device, make)
    const replaceStates = (make: (x_BNC: Tensor, n: number) => Tensor): void => {
      for (const [i, x_BNC] of states.entries()) {
        const next = kept(() => make(x_BNC, sequences[i]!.length))
        device.release(x_BNC)
        states[i] = next
      }
    }
    try {
      await this.#embed(sequences, states)
      for (const { length: n } of sequences) {
        const rows = rowsFor(n)
        if (!buckets.has(rows)) {
          const table = relativeBuckets(rows, numBuckets, maxDistance)
          buckets.set(
            rows,
            kept(() => device.upload(table, [rows, rows], 'u32')),
          )
        }
        if (n < rows && !keyBiases.has(n)) {
          const bias = new Float32Array(rows).fill(masked, n)
          keyBiases.set(
            n,
            kept(() => device.upload(bias, [1, rows], 'f32')),
          )
        }
      }
      for (let layer = 0; layer < numLayers; layer++) {
        await this.#withWeights(
          (loader) => loadLayer(loader, layerName(layer), this.#compute),
          (weights) => {
            replaceStates((x_BNC, n) =>
              this.#layer(ops, x_BNC, buckets.get(rowsFor(n))!, keyBiases.get(n), weights),
            )
          },
        )
      }
      await this.#withWeights(
        (loader) => loader.vector('encoder.final_layer_norm.weight'),
        (norm) => {
          replaceStates((x_BNC, n) => ops.rmsNorm(ops.slice(x_BNC, 1, 0, n), norm, { eps }))
        },
      )
      // A state is the caller's as soon as it is given out, even to one who stops there.
      while (owned < states.length) yield states[owned++]!
    } finally {
      for (const state of states.slice(owned)) device.release(state)
      for (const table of [...buckets.values(), ...keyBiases.values()]) device.release(table)
    }
  }

  /** Rows of the embedding table, of which only those that occur are read: at full size it has 256 384 of 4096 numbers. */
  async #embed(sequences: readonly (readonly number[])[], states: Tensor[]): Promise<void> {
    const device = this.#device
    const used = [...new Set(sequences.flat())].sort((a, b) => a - b)
    const rowOf = new Map(used.map((id, row) => [id, row]))
    const name = embeddingNames.find((each) => this.#source.has(each)) ?? embeddingNames[0]
    const loader = new WeightLoader(this.#source, device, this.#options)
    const table = await loader.rows(name, used, 'f32')
    try {
      for (const ids of sequences) {
        // Rows after the tokens, which nothing reads, hold what the first row of the table does.
        const rows = new Uint32Array(rowsFor(ids.length))
        rows.set(ids.map((id) => rowOf.get(id)!))
        states.push(
          keptFromScope(device, () =>
            device.ops.embedding(table, device.upload(rows, [1, rows.length], 'u32')),
          ),
        )
      }
    } finally {
      device.release(table)
    }
  }

  /** Loads, uses and frees weights. */
  async #withWeights<T>(
    load: (loader: WeightLoader) => Promise<T>,
    use: (weights: T) => void,
  ): Promise<void> {
    const loader = new WeightLoader(this.#source, this.#device, this.#options)
    const weights = await loadingAll(loader, load)
    try {
      use(weights)
    } finally {
      loader.release()
    }
  }

  /** x ← x + attention(RMS(x)); x ← x + feedForward(RMS(x)). */
  #layer(
    ops: Ops,
    x_BNC: Tensor,
    buckets_NN: Tensor,
    keyBias_BN: Tensor | undefined,
    w: LayerWeights,
  ): Tensor {
    return ops.scope(() => {
      const x = ops.gatedAdd(x_BNC, this.#attention(ops, x_BNC, buckets_NN, keyBias_BN, w))
      return ops.gatedAdd(x, this.#feedForward(ops, x, w))
    })
  }

  /** Scores are q · k, not scaled, plus the bias of the pair's bucket. */
  #attention(
    ops: Ops,
    x_BNC: Tensor,
    buckets_NN: Tensor,
    keyBias_BN: Tensor | undefined,
    w: LayerWeights,
  ): Tensor {
    const { eps, numHeads, headDim } = this.config
    const n = x_BNC.shape[1]!
    return ops.scope(() => {
      const y_BNC = ops.rmsNorm(x_BNC, w.attentionNorm, { eps, dtype: this.#compute })
      const heads = (linear: Linear) =>
        ops.reshape(ops.linear(y_BNC, linear.weight), [1, n, numHeads, headDim])
      const bias_HNN = ops.permute(ops.embedding(w.positions, buckets_NN), [2, 0, 1])
      const { out } = ops.attention(heads(w.q), heads(w.k), heads(w.v), {
        scale: 1,
        bias: bias_HNN,
        keyBias: keyBias_BN,
      })
      return ops.linear(ops.reshape(out, [1, n, numHeads * headDim]), w.out.weight, {
        dtype: 'f32',
      })
    })
  }

  /**
   * W (GELU(W₀ y) · W₁ y). The product and what comes of it leave the range of f16 in the real encoder, so both are f32 whatever
   * the dtype of the weights.
   */
  #feedForward(ops: Ops, x_BNC: Tensor, w: LayerWeights): Tensor {
    return ops.scope(() => {
      const y_BNC = ops.rmsNorm(x_BNC, w.ffnNorm, { eps: this.config.eps, dtype: this.#compute })
      const gate_BNF = ops.gelu(ops.linear(y_BNC, w.gate.weight, { dtype: 'f32' }))
      const up_BNF = ops.linear(y_BNC, w.up.weight, { dtype: 'f32' })
      return ops.linear(ops.mul(gate_BNF, up_BNF), w.down.weight, { dtype: 'f32' })
    })
  }
}
