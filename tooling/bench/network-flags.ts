import { parseTransformerConfig, type TransformerConfig } from '@kinora/wan'

/** Flags of the benches that run the transformer: sizes of the release, and of smaller networks for software adapters. */
export const networkFlags = {
  heads: { type: 'string', default: '40' },
  'head-dim': { type: 'string', default: '128' },
  ffn: { type: 'string', default: '13824' },
  'text-dim': { type: 'string', default: '4096' },
  'text-length': { type: 'string', default: '512' },
  rank: { type: 'string', default: '16' },
} as const

/** The network that such flags ask for. */
export function networkOf(
  flags: Record<'heads' | 'head-dim' | 'ffn' | 'text-dim', string>,
  numLayers: number,
): TransformerConfig {
  return parseTransformerConfig({
    num_attention_heads: Number(flags.heads),
    attention_head_dim: Number(flags['head-dim']),
    ffn_dim: Number(flags.ffn),
    text_dim: Number(flags['text-dim']),
    num_layers: numLayers,
  })
}
