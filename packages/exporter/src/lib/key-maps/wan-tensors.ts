// Every tensor of a Wan 2.2 transformer, by rule: names in diffusers and in Wan's own spelling (which ComfyUI keeps), and
// shapes. Source: wan22-architecture.md 2.9, from the checkpoints' conversion scripts.

/** Sizes of a transformer, from its config.json. */
export interface WanSizes {
  numLayers: number
  /** num_attention_heads × attention_head_dim. */
  dim: number
  ffnDim: number
  inChannels: number
  outChannels: number
  textDim: number
  freqDim: number
  patchSize: readonly [number, number, number]
}

/** Wan 2.2 I2V A14B; both experts are alike. */
export const wan22I2vA14b: WanSizes = {
  numLayers: 40,
  dim: 5120,
  ffnDim: 13824,
  inChannels: 36,
  outChannels: 16,
  textDim: 4096,
  freqDim: 256,
  patchSize: [1, 2, 2],
}

/** A tensor under both its names. */
export interface WanTensor {
  /** Name in diffusers. */
  diffusers: string
  /** Name in Wan's own checkpoints and in ComfyUI, without a prefix. */
  original: string
  shape: readonly number[]
}

/** All tensors of one expert, in no order that matters. */
export function wanTensors(sizes: WanSizes): WanTensor[] {
  const { numLayers, dim, ffnDim, inChannels, outChannels, textDim, freqDim, patchSize } = sizes
  const patch = patchSize.reduce((product, extent) => product * extent, 1)
  const tensors: WanTensor[] = []
  const add = (diffusers: string, original: string, shape: readonly number[]) =>
    tensors.push({ diffusers, original, shape })
  const linear = (diffusers: string, original: string, outFeatures: number, inFeatures: number) => {
    add(`${diffusers}.weight`, `${original}.weight`, [outFeatures, inFeatures])
    add(`${diffusers}.bias`, `${original}.bias`, [outFeatures])
  }
  add('patch_embedding.weight', 'patch_embedding.weight', [dim, inChannels, ...patchSize])
  add('patch_embedding.bias', 'patch_embedding.bias', [dim])
  linear('condition_embedder.time_embedder.linear_1', 'time_embedding.0', dim, freqDim)
  linear('condition_embedder.time_embedder.linear_2', 'time_embedding.2', dim, dim)
  linear('condition_embedder.time_proj', 'time_projection.1', 6 * dim, dim)
  linear('condition_embedder.text_embedder.linear_1', 'text_embedding.0', dim, textDim)
  linear('condition_embedder.text_embedder.linear_2', 'text_embedding.2', dim, dim)
  add('scale_shift_table', 'head.modulation', [1, 2, dim])
  linear('proj_out', 'head.head', outChannels * patch, dim)
  for (let index = 0; index < numLayers; index++) {
    const block = `blocks.${index}`
    add(`${block}.scale_shift_table`, `${block}.modulation`, [1, 6, dim])
    for (const [diffusers, original] of [
      ['attn1', 'self_attn'],
      ['attn2', 'cross_attn'],
    ] as const) {
      for (const part of ['q', 'k', 'v'] as const) {
        linear(`${block}.${diffusers}.to_${part}`, `${block}.${original}.${part}`, dim, dim)
      }
      linear(`${block}.${diffusers}.to_out.0`, `${block}.${original}.o`, dim, dim)
      for (const norm of ['norm_q', 'norm_k'] as const) {
        add(`${block}.${diffusers}.${norm}.weight`, `${block}.${original}.${norm}.weight`, [dim])
      }
    }
    add(`${block}.norm2.weight`, `${block}.norm3.weight`, [dim])
    add(`${block}.norm2.bias`, `${block}.norm3.bias`, [dim])
    linear(`${block}.ffn.net.0.proj`, `${block}.ffn.0`, ffnDim, dim)
    linear(`${block}.ffn.net.2`, `${block}.ffn.2`, dim, ffnDim)
  }
  return tensors
}

/** Keys and shapes of the LoRA that trains the ten linears of every block, as ComfyUI and diffusers name them. */
export interface LoraKeys {
  comfyui: ReadonlyMap<string, readonly number[]>
  diffusers: ReadonlyMap<string, readonly number[]>
}

/** The keys a full LoRA of a transformer has, with their shapes. */
export function loraKeys(sizes: WanSizes, rank: number): LoraKeys {
  const comfyui = new Map<string, readonly number[]>()
  const diffusers = new Map<string, readonly number[]>()
  for (const tensor of wanTensors(sizes)) {
    const { shape } = tensor
    const [outFeatures, inFeatures] = shape
    if (!tensor.diffusers.startsWith('blocks.') || shape.length !== 2) continue
    for (const [map, prefix, name] of [
      [comfyui, 'diffusion_model', tensor.original],
      [diffusers, 'transformer', tensor.diffusers],
    ] as const) {
      const module = `${prefix}.${name.replace(/\.weight$/, '')}`
      map.set(`${module}.lora_A.weight`, [rank, inFeatures!])
      map.set(`${module}.lora_B.weight`, [outFeatures!, rank])
    }
  }
  return { comfyui, diffusers }
}
