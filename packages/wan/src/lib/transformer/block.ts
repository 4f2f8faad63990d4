import type { Ops, Tensor } from '@kinora/kernel-api'
import type { Linear, WeightLoader } from '../checkpoint/weight-loader.ts'
import { adaptedLinear, type LowRankAdapter, type ModuleAdapter } from '../lora/module-adapter.ts'

// Axes: B batch, N tokens, L text rows, C channels of the model, H heads, D head channels, F channels of the feed-forward.

export interface AttentionWeights {
  readonly q: Linear
  readonly k: Linear
  readonly v: Linear
  readonly out: Linear
  readonly normQ: Tensor
  readonly normK: Tensor
}

export interface BlockWeights {
  /** [6, C]: shift, scale, gate of self-attention, then of the feed-forward. */
  readonly modulation: Tensor
  readonly selfAttention: AttentionWeights
  readonly crossNorm: { readonly weight: Tensor; readonly bias: Tensor }
  readonly crossAttention: AttentionWeights
  readonly ffnIn: Linear
  readonly ffnOut: Linear
}

/** What all blocks of a network share. */
export interface BlockSettings {
  readonly numHeads: number
  readonly eps: number
  readonly compute: 'f32' | 'f16'
  /** What a tape rounds the inputs of blocks, and of cross-attention inside one, to. */
  readonly blockInputsAs: 'f16' | undefined
  readonly adapters: ReadonlyMap<string, readonly ModuleAdapter[]> | undefined
  /** See `adaptedLinear`. */
  readonly inverseLengths: (adapter: LowRankAdapter) => Tensor
}

/**
 * One block of the transformer:
 *
 *     x ← x + gate₁ · selfAttention(LN(x) · (1 + scale₁) + shift₁)
 *     x ← x + crossAttention(LN(x) · w + b, context)
 *     x ← x + gate₂ · ffn(LN(x) · (1 + scale₂) + shift₂)
 *
 * @param x_BNC the residual stream, f32
 * @param context_BLC projected text, in the compute dtype
 * @param time_B6C projected time embedding, f32
 * @param cos_ND cosines and sines of the rotary embedding [N, D/2], f32
 */
export function transformerBlock(
  ops: Ops,
  x_BNC: Tensor,
  context_BLC: Tensor,
  time_B6C: Tensor,
  cos_ND: Tensor,
  sin_ND: Tensor,
  weights: BlockWeights,
  settings: BlockSettings,
): Tensor {
  const { eps, compute } = settings
  const m_B6C = ops.add(time_B6C, weights.modulation)
  const [shift1, scale1, gate1, shift2, scale2, gate2] = [0, 1, 2, 3, 4, 5].map((row) =>
    modulationRow(ops, m_B6C, row),
  ) as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
  const modulated = (ops: Ops, x: Tensor, scale_BC: Tensor, shift_BC: Tensor) =>
    ops.layerNorm(x, {
      eps,
      weight: ops.affine(scale_BC, { offset: 1 }),
      bias: shift_BC,
      dtype: compute,
    })

  // Each part in a scope of its own: a long clip's values are large, and the next part needs none of them. On the way back each is
  // a checkpoint, so that its values come when its gradients do: the feed-forward's are gone before those of self-attention are
  // made again. Cross-attention keeps what is dear of it from the block's second run.
  const x1_BNC = ops.scope(() => {
    const attended = ops.checkpoint(
      (ops, x) => {
        const y = modulated(ops, x!, scale1, shift1)
        return selfAttention(ops, y, cos_ND, sin_ND, weights.selfAttention, settings)
      },
      [x_BNC],
    )
    return ops.gatedAdd(x_BNC, attended, gate1)
  })
  const x2_BNC = ops.scope(() => {
    const attended = ops.checkpoint(
      (ops, x, context) => {
        const y = ops.layerNorm(x!, { eps, ...weights.crossNorm, dtype: compute })
        return crossAttention(ops, y, context!, weights.crossAttention, settings)
      },
      [x1_BNC, context_BLC],
      {
        keep: ['attn2.to_q', 'attn2.to_k', 'attn2.to_v', 'attn2'],
        firstInputAs: settings.blockInputsAs,
      },
    )
    return ops.gatedAdd(x1_BNC, attended)
  })
  return ops.scope(() => {
    const fed = ops.checkpoint(
      (ops, x) => feedForward(ops, modulated(ops, x!, scale2, shift2), weights, settings),
      [x2_BNC],
    )
    return ops.gatedAdd(x2_BNC, fed, gate2)
  })
}

/** q and k are normalised over all heads at once, then rotated. */
function selfAttention(
  ops: Ops,
  y_BNC: Tensor,
  cos_ND: Tensor,
  sin_ND: Tensor,
  w: AttentionWeights,
  settings: BlockSettings,
): Tensor {
  const { eps, numHeads } = settings
  const q_BNHD = heads(
    ops,
    ops.rmsNorm(adapted(ops, y_BNC, w.q, settings), w.normQ, { eps }),
    numHeads,
  )
  const k_BNHD = heads(
    ops,
    ops.rmsNorm(adapted(ops, y_BNC, w.k, settings), w.normK, { eps }),
    numHeads,
  )
  const v_BNHD = heads(ops, adapted(ops, y_BNC, w.v, settings), numHeads)
  const { out: o_BNHD } = ops.attention(
    ops.rope(q_BNHD, cos_ND, sin_ND),
    ops.rope(k_BNHD, cos_ND, sin_ND),
    v_BNHD,
    { name: 'attn1' },
  )
  return adapted(ops, ops.reshape(o_BNHD, y_BNC.shape), w.out, settings)
}

/** No mask: the padded rows of the text take part, as they did in the model's training. */
function crossAttention(
  ops: Ops,
  y_BNC: Tensor,
  context_BLC: Tensor,
  w: AttentionWeights,
  settings: BlockSettings,
): Tensor {
  const { eps, numHeads } = settings
  const q_BNHD = heads(
    ops,
    ops.rmsNorm(adapted(ops, y_BNC, w.q, settings), w.normQ, { eps }),
    numHeads,
  )
  const k_BLHD = heads(
    ops,
    ops.rmsNorm(adapted(ops, context_BLC, w.k, settings), w.normK, { eps }),
    numHeads,
  )
  const v_BLHD = heads(ops, adapted(ops, context_BLC, w.v, settings), numHeads)
  const { out: o_BNHD } = ops.attention(q_BNHD, k_BLHD, v_BLHD, { name: 'attn2' })
  return adapted(ops, ops.reshape(o_BNHD, y_BNC.shape), w.out, settings)
}

function feedForward(ops: Ops, y_BNC: Tensor, w: BlockWeights, settings: BlockSettings): Tensor {
  const h_BNF = ops.gelu(adapted(ops, y_BNC, w.ffnIn, settings))
  return adapted(ops, h_BNF, w.ffnOut, settings)
}

/** A linear with the adapters that join it. In a `keep` list its name lacks the block: `attn1.to_q`. */
function adapted(
  ops: Ops,
  x: Tensor,
  linear: Linear,
  { adapters, inverseLengths }: BlockSettings,
): Tensor {
  const name = linear.name.replace(/^blocks\.\d+\./, '')
  return adaptedLinear(ops, x, linear, adapters?.get(linear.name) ?? [], inverseLengths, name)
}

function heads(ops: Ops, x_BNC: Tensor, numHeads: number): Tensor {
  const [b, n, c] = x_BNC.shape as [number, number, number]
  return ops.reshape(x_BNC, [b, n, numHeads, c / numHeads])
}

function modulationRow(ops: Ops, m_BRC: Tensor, row: number): Tensor {
  const [b, , c] = m_BRC.shape as [number, number, number]
  return ops.reshape(ops.slice(m_BRC, 1, row, row + 1), [b, c])
}

export async function loadBlock(
  loader: WeightLoader,
  prefix: string,
  compute: 'f32' | 'f16',
): Promise<BlockWeights> {
  const attention = async (name: string): Promise<AttentionWeights> => ({
    q: await loader.packedLinear(`${prefix}.${name}.to_q`, compute),
    k: await loader.packedLinear(`${prefix}.${name}.to_k`, compute),
    v: await loader.packedLinear(`${prefix}.${name}.to_v`, compute),
    out: await loader.packedLinear(`${prefix}.${name}.to_out.0`, compute),
    normQ: await loader.vector(`${prefix}.${name}.norm_q.weight`),
    normK: await loader.vector(`${prefix}.${name}.norm_k.weight`),
  })
  return {
    modulation: await loader.vector(`${prefix}.scale_shift_table`),
    selfAttention: await attention('attn1'),
    crossNorm: {
      weight: await loader.vector(`${prefix}.norm2.weight`),
      bias: await loader.vector(`${prefix}.norm2.bias`),
    },
    crossAttention: await attention('attn2'),
    ffnIn: await loader.packedLinear(`${prefix}.ffn.net.0.proj`, compute),
    ffnOut: await loader.packedLinear(`${prefix}.ffn.net.2`, compute),
  }
}
