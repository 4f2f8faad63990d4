import type { TransformerConfig } from '../checkpoint/configs.ts'
import type { TensorTable } from '../checkpoint/tensor-table.ts'

/** Every tensor of `WanTransformer3DModel` with its shape, in the order of the network. */
export function transformerTensors(config: TransformerConfig): TensorTable {
  const dim = config.numHeads * config.headDim
  const [pt, py, px] = config.patchSize
  const table = new Map<string, readonly number[]>()
  const linear = (name: string, out: number, inner: number) => {
    table.set(`${name}.weight`, [out, inner])
    table.set(`${name}.bias`, [out])
  }
  table.set('patch_embedding.weight', [dim, config.inChannels, pt, py, px])
  table.set('patch_embedding.bias', [dim])
  linear('condition_embedder.time_embedder.linear_1', dim, config.freqDim)
  linear('condition_embedder.time_embedder.linear_2', dim, dim)
  linear('condition_embedder.time_proj', 6 * dim, dim)
  linear('condition_embedder.text_embedder.linear_1', dim, config.textDim)
  linear('condition_embedder.text_embedder.linear_2', dim, dim)
  for (let n = 0; n < config.numLayers; n++) {
    const block = `blocks.${n}`
    table.set(`${block}.scale_shift_table`, [1, 6, dim])
    for (const attention of ['attn1', 'attn2']) {
      for (const projection of ['to_q', 'to_k', 'to_v', 'to_out.0']) {
        linear(`${block}.${attention}.${projection}`, dim, dim)
      }
      table.set(`${block}.${attention}.norm_q.weight`, [dim])
      table.set(`${block}.${attention}.norm_k.weight`, [dim])
    }
    table.set(`${block}.norm2.weight`, [dim])
    table.set(`${block}.norm2.bias`, [dim])
    linear(`${block}.ffn.net.0.proj`, config.ffnDim, dim)
    linear(`${block}.ffn.net.2`, dim, config.ffnDim)
  }
  table.set('scale_shift_table', [1, 2, dim])
  linear('proj_out', config.outChannels * pt * py * px, dim)
  return table
}
