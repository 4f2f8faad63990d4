import { numElements, type Device, type Tensor } from '@kinora/kernel-api'
import type { TensorTable, WeightSource } from '@kinora/wan'

// Networks whose parameters are a formula of their original names, so that numbers computed elsewhere can be compared without a
// file: element k of tensor `name` is r(name, k), a hash in [−1, 1), scaled by the kind of tensor.

const shuffle = (h: number) => {
  h = Math.imul(h, 0x85ebca6b)
  h ^= h >>> 13
  h = Math.imul(h, 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

/** FNV-1a, 32 bits. */
export function fnv1a(text: string): number {
  let h = 0x811c9dc5
  for (const byte of new TextEncoder().encode(text)) h = Math.imul(h ^ byte, 0x01000193)
  return h >>> 0
}

/** r(name, 0 … count − 1). */
export function formula(name: string, count: number): Float64Array {
  const seed = Math.imul(fnv1a(name), 0x9e3779b1)
  return Float64Array.from({ length: count }, (_, k) => (2 * shuffle((k + 1) ^ seed)) / 2 ** 32 - 1)
}

function parameter(original: string, shape: readonly number[]): Float64Array {
  const r = formula(original, numElements(shape))
  if (/(token|pos)_embedding\b.*weight$/.test(original)) return r
  if (original.endsWith('modulation')) return r.map((value) => 0.5 * value)
  if (original.endsWith('.bias')) return r.map((value) => 0.1 * value)
  if (original.endsWith('gamma') || /norm\d?(_[qk])?\.weight$/.test(original)) {
    return r.map((value) => 1 + 0.1 * value)
  }
  const scale = Math.sqrt(3 / numElements(shape.slice(1)))
  return r.map((value) => value * scale)
}

/**
 * @param table the tensors a network has, by their diffusers names
 * @param originalName the name in the original release
 */
export function formulaWeights(
  table: TensorTable,
  originalName: (name: string) => string,
): WeightSource {
  return {
    has: (name) => table.has(name),
    load: (name: string, device: Device): Promise<Tensor> => {
      const shape = table.get(name)
      if (!shape) return Promise.reject(new Error(`no tensor ${name}`))
      return Promise.resolve(device.upload(parameter(originalName(name), shape), shape, 'f32'))
    },
  }
}

const replaced = (name: string, pairs: readonly (readonly [RegExp, string])[]) =>
  pairs.reduce((text, [pattern, to]) => text.replace(pattern, to), name)

export const originalTransformerName = (name: string): string =>
  replaced(name, [
    [/^scale_shift_table$/, 'head.modulation'],
    [/^proj_out\b/, 'head.head'],
    [/\bscale_shift_table$/, 'modulation'],
    [/^condition_embedder\.time_embedder\.linear_1/, 'time_embedding.0'],
    [/^condition_embedder\.time_embedder\.linear_2/, 'time_embedding.2'],
    [/^condition_embedder\.time_proj/, 'time_projection.1'],
    [/^condition_embedder\.text_embedder\.linear_1/, 'text_embedding.0'],
    [/^condition_embedder\.text_embedder\.linear_2/, 'text_embedding.2'],
    [/\bnorm2\b/, 'norm3'],
    [/\battn1\b/, 'self_attn'],
    [/\battn2\b/, 'cross_attn'],
    [/\bto_out\.0\b/, 'o'],
    [/\bto_([qkv])\b/, '$1'],
    [/\bffn\.net\.0\.proj\b/, 'ffn.0'],
    [/\bffn\.net\.2\b/, 'ffn.2'],
  ])

export const originalVaeName = (name: string): string =>
  replaced(name, [
    [/^quant_conv\b/, 'conv1'],
    [/^post_quant_conv\b/, 'conv2'],
    [/\bconv_in\b/, 'conv1'],
    [/\bnorm_out\b/, 'head.0'],
    [/\bconv_out\b/, 'head.2'],
    [/\bmid_block\.resnets\.0\.(.*)/, 'middle.0.$1'],
    [/\bmid_block\.attentions\.0\b/, 'middle.1'],
    [/\bmid_block\.resnets\.1\.(.*)/, 'middle.2.$1'],
    [/\bdown_blocks\.(\d+)/, 'downsamples.$1'],
    [/\bup_blocks\.0\.resnets\.(\d)/, 'upsamples.$1'],
    [/\bup_blocks\.1\.resnets\.0/, 'upsamples.4'],
    [/\bup_blocks\.1\.resnets\.1/, 'upsamples.5'],
    [/\bup_blocks\.1\.resnets\.2/, 'upsamples.6'],
    [/\bup_blocks\.2\.resnets\.0/, 'upsamples.8'],
    [/\bup_blocks\.2\.resnets\.1/, 'upsamples.9'],
    [/\bup_blocks\.2\.resnets\.2/, 'upsamples.10'],
    [/\bup_blocks\.3\.resnets\.0/, 'upsamples.12'],
    [/\bup_blocks\.3\.resnets\.1/, 'upsamples.13'],
    [/\bup_blocks\.3\.resnets\.2/, 'upsamples.14'],
    [/\bup_blocks\.0\.upsamplers\.0/, 'upsamples.3'],
    [/\bup_blocks\.1\.upsamplers\.0/, 'upsamples.7'],
    [/\bup_blocks\.2\.upsamplers\.0/, 'upsamples.11'],
    // Last: the convolutions at both ends have been renamed to conv1 and conv2 above, outside any layer.
    [/(\.(?:middle|downsamples|upsamples)\.\d+)\.norm1\b/, '$1.residual.0'],
    [/(\.(?:middle|downsamples|upsamples)\.\d+)\.conv1\b/, '$1.residual.2'],
    [/(\.(?:middle|downsamples|upsamples)\.\d+)\.norm2\b/, '$1.residual.3'],
    [/(\.(?:middle|downsamples|upsamples)\.\d+)\.conv2\b/, '$1.residual.6'],
    [/\bconv_shortcut\b/, 'shortcut'],
  ])

export const originalUmt5Name = (name: string): string =>
  replaced(name, [
    [/^shared\.weight$/, 'token_embedding.weight'],
    [/^encoder\.final_layer_norm\b/, 'norm'],
    [/^encoder\.block\.(\d+)\.layer\.0\.layer_norm/, 'blocks.$1.norm1'],
    [/^encoder\.block\.(\d+)\.layer\.1\.layer_norm/, 'blocks.$1.norm2'],
    [
      /^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias/,
      'blocks.$1.pos_embedding.embedding',
    ],
    [/^encoder\.block\.(\d+)\.layer\.0\.SelfAttention/, 'blocks.$1.attn'],
    [/^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0/, 'blocks.$1.ffn.gate.0'],
    [/^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1/, 'blocks.$1.ffn.fc1'],
    [/^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo/, 'blocks.$1.ffn.fc2'],
  ])
