// Names of the linears of Wan's transformer: diffusers' spelling is the canonical one, Wan's own ("original") is what
// ComfyUI, AI Toolkit and kohya's trainers write. The mapping is a pure renaming (wan22-architecture.md, 2.9).

/** Below `blocks.N.`: diffusers → original. These ten are what LoRAs of Wan adapt. */
const blockLinears = {
  'attn1.to_q': 'self_attn.q',
  'attn1.to_k': 'self_attn.k',
  'attn1.to_v': 'self_attn.v',
  'attn1.to_out.0': 'self_attn.o',
  'attn2.to_q': 'cross_attn.q',
  'attn2.to_k': 'cross_attn.k',
  'attn2.to_v': 'cross_attn.v',
  'attn2.to_out.0': 'cross_attn.o',
  'ffn.net.0.proj': 'ffn.0',
  'ffn.net.2': 'ffn.2',
} as const

/** Linears outside the blocks: diffusers → original. Distilled LoRAs adapt some of them. */
const otherLinears = {
  'condition_embedder.time_embedder.linear_1': 'time_embedding.0',
  'condition_embedder.time_embedder.linear_2': 'time_embedding.2',
  'condition_embedder.time_proj': 'time_projection.1',
  'condition_embedder.text_embedder.linear_1': 'text_embedding.0',
  'condition_embedder.text_embedder.linear_2': 'text_embedding.2',
  proj_out: 'head.head',
} as const

function bothWays(diffusersToOriginal: Readonly<Record<string, string>>) {
  const pairs = Object.entries(diffusersToOriginal)
  return {
    toOriginal: new Map(pairs),
    toDiffusers: new Map(pairs.map(([diffusers, original]) => [original, diffusers])),
    /** Original names with dots as underscores, as kohya flattens them. */
    flatToDiffusers: new Map(
      pairs.map(([diffusers, original]) => [original.replaceAll('.', '_'), diffusers]),
    ),
  }
}

const blocks = bothWays(blockLinears)
const others = bothWays(otherLinears)

/** The ten linears of a block, below `blocks.N.`, in diffusers' spelling. */
export const blockLinearNames: readonly string[] = Object.keys(blockLinears)

/** `blocks.0.attn1.to_q` → `blocks.0.self_attn.q`; undefined for anything that is no linear of Wan. */
export function originalName(diffusers: string): string | undefined {
  const [, index, rest] = /^blocks\.(0|[1-9]\d{0,3})\.(.+)$/.exec(diffusers) ?? []
  if (rest === undefined) return others.toOriginal.get(diffusers)
  const name = blocks.toOriginal.get(rest)
  return name && `blocks.${index}.${name}`
}

/** `blocks.0.self_attn.q` → `blocks.0.attn1.to_q`; undefined for anything that is no linear of Wan. */
export function diffusersName(original: string): string | undefined {
  const [, index, rest] = /^blocks\.(0|[1-9]\d{0,3})\.(.+)$/.exec(original) ?? []
  if (rest === undefined) return others.toDiffusers.get(original)
  const name = blocks.toDiffusers.get(rest)
  return name && `blocks.${index}.${name}`
}

/** `blocks_0_self_attn_q` → `blocks.0.attn1.to_q`; undefined for anything that is no linear of Wan. */
export function diffusersNameOfFlat(flat: string): string | undefined {
  const [, index, rest] = /^blocks_(0|[1-9]\d{0,3})_(.+)$/.exec(flat) ?? []
  if (rest === undefined) return others.flatToDiffusers.get(flat)
  const name = blocks.flatToDiffusers.get(rest)
  return name && `blocks.${index}.${name}`
}

/**
 * Whether an original name is of the image branch of Wan 2.1 I2V (`k_img`, `v_img`, `img_emb`), which Wan 2.2 does not have.
 * LoRAs of 2.1 otherwise fit, so these are left out and told.
 */
export function isImageBranch(name: string): boolean {
  return /(^|[._])(k_img|v_img|norm_k_img|img_emb|add_k_proj|add_v_proj|image_embedder)([._]|$)/.test(
    name,
  )
}
