import type { Device, Ops, Tensor } from '@kinora/kernel-api'
import type { TextEncoderConfig } from '../checkpoint/configs.ts'
import type { TensorTable } from '../checkpoint/tensor-table.ts'
import { loadingAll, WeightLoader, type Linear } from '../checkpoint/weight-loader.ts'
import type { WeightSource } from '../checkpoint/weight-source.ts'
import { wanErrors } from '../errors.ts'
import { chainLayers } from '../layer-chain.ts'
import { relativeBuckets } from './relative-position.ts'

// The encoder of UMT5 (Chung et al. 2023, "UniMax"; a T5 whose every layer has its own position table). Axes: B batch (1),
// N tokens, C channels, H heads, D head channels, F channels of the feed-forward, K buckets.

/** How the text encoder is loaded. */
export interface Umt5Options {
  /** Dtype of the weights and inputs of the linears; the residual stream and the gated product are f32 always. */
  compute: 'f32' | 'f16'
  signal?: AbortSignal | undefined
}

/** The encoder of UMT5 on a device. */
export interface Umt5 {
  readonly config: TextEncoderConfig
  /**
   * States of the last layer, [1, N, dim] f32, for one sequence without padding. (With an attention mask over padding the
   * states of the real tokens are the same: masked keys add nothing and positions are relative.)
   */
  forward(ids: readonly number[]): Tensor
  /** Frees its weights. */
  release(): void
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

interface Umt5Weights {
  readonly embedding: Tensor
  readonly layers: readonly LayerWeights[]
  readonly finalNorm: Tensor
}

/** Names under which a checkpoint may hold the embedding table: either, or both with equal values. */
export const embeddingNames = ['shared.weight', 'encoder.embed_tokens.weight'] as const

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

/** Loads the weights of the encoder and returns it. */
export async function createUmt5(
  config: TextEncoderConfig,
  source: WeightSource,
  device: Device,
  { compute, signal }: Umt5Options,
): Promise<Umt5> {
  if (!device.info.computeDTypes.includes(compute)) {
    throw wanErrors.COMPUTE_UNSUPPORTED(compute, device.info.adapter)
  }
  const loader = new WeightLoader(source, device, signal)
  const weights = await loadingAll(loader, async (): Promise<Umt5Weights> => {
    const layers: LayerWeights[] = []
    for (let n = 0; n < config.numLayers; n++) {
      layers.push(await loadLayer(loader, layerName(n), compute))
    }
    const embeddingName = embeddingNames.find((name) => source.has(name)) ?? embeddingNames[0]
    return {
      embedding: await loader.tensor(embeddingName, compute),
      layers,
      finalNorm: await loader.vector('encoder.final_layer_norm.weight'),
    }
  })
  return new Encoder(config, compute, device, loader, weights)
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
    q: await loader.linear(`${attention}.SelfAttention.q`, compute),
    k: await loader.linear(`${attention}.SelfAttention.k`, compute),
    v: await loader.linear(`${attention}.SelfAttention.v`, compute),
    out: await loader.linear(`${attention}.SelfAttention.o`, compute),
    positions: await loader.tensor(`${attention}.SelfAttention.relative_attention_bias.weight`),
    ffnNorm: await loader.vector(`${ffn}.layer_norm.weight`),
    gate: await loader.linear(`${ffn}.DenseReluDense.wi_0`, compute),
    up: await loader.linear(`${ffn}.DenseReluDense.wi_1`, compute),
    down: await loader.linear(`${ffn}.DenseReluDense.wo`, compute),
  }
}

class Encoder implements Umt5 {
  readonly config: TextEncoderConfig
  readonly #compute: 'f32' | 'f16'
  readonly #device: Device
  readonly #loader: WeightLoader
  readonly #weights: Umt5Weights

  constructor(
    config: TextEncoderConfig,
    compute: 'f32' | 'f16',
    device: Device,
    loader: WeightLoader,
    weights: Umt5Weights,
  ) {
    this.config = config
    this.#compute = compute
    this.#device = device
    this.#loader = loader
    this.#weights = weights
  }

  forward(ids: readonly number[]): Tensor {
    const { numBuckets, maxDistance, eps, vocabSize } = this.config
    const device = this.#device
    const { ops } = device
    const w = this.#weights
    const n = ids.length
    const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize)
    if (n === 0 || bad !== undefined) {
      throw wanErrors.BAD_TOKENS(bad ?? 'none', vocabSize)
    }
    return device.scope(() => {
      const buckets_NN = device.upload(relativeBuckets(n, numBuckets, maxDistance), [n, n], 'u32')
      const tokens = device.upload(Uint32Array.from(ids), [1, n], 'u32')
      const x_BNC = chainLayers(
        device,
        ops,
        ops.embedding(w.embedding, tokens, { dtype: 'f32' }),
        w.layers.map((layer) => (x) => this.#layer(ops, x, buckets_NN, layer)),
      )
      return ops.rmsNorm(x_BNC, w.finalNorm, { eps })
    })
  }

  release(): void {
    this.#loader.release()
  }

  /** x ← x + attention(RMS(x)); x ← x + feedForward(RMS(x)). */
  #layer(ops: Ops, x_BNC: Tensor, buckets_NN: Tensor, w: LayerWeights): Tensor {
    return ops.scope(() => {
      const x = ops.gatedAdd(x_BNC, this.#attention(ops, x_BNC, buckets_NN, w))
      return ops.gatedAdd(x, this.#feedForward(ops, x, w))
    })
  }

  /** Scores are q · k, not scaled, plus the bias of the pair's bucket. */
  #attention(ops: Ops, x_BNC: Tensor, buckets_NN: Tensor, w: LayerWeights): Tensor {
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
