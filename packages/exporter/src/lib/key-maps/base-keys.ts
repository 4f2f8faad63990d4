import { diffusersName } from '@kinora/lora-files'

// Keys of base models as they lie on disk: diffusers' names, or Wan's own ones as ComfyUI and the official release keep them,
// with or without a prefix.

/** Folders of a checkpoint in the diffusers layout. */
export const expertFolders = { high: 'transformer', low: 'transformer_2' } as const

const prefixes = ['model.diffusion_model.', 'diffusion_model.', '']

/** What the keys of one expert's files say. */
export interface BaseKeys {
  naming: 'diffusers' | 'original'
  /** Prefix before every key. */
  prefix: string
  patchEmbedding: string
  /** Whether there is the image branch of Wan 2.1 I2V. */
  hasImageBranch: boolean
  /** Whether weights are packed to 8 bits with scales beside them. */
  isScaled: boolean
  /** The diffusers name of the linear whose weight a key is; undefined for anything else. */
  linearOf(key: string): string | undefined
}

/** Reads the spelling off the keys; undefined where they are of no Wan transformer. */
export function describeBaseKeys(keys: readonly string[]): BaseKeys | undefined {
  for (const prefix of prefixes) {
    const isDiffusers = keys.includes(`${prefix}blocks.0.attn1.to_q.weight`)
    if (!isDiffusers && !keys.includes(`${prefix}blocks.0.self_attn.q.weight`)) continue
    return {
      naming: isDiffusers ? 'diffusers' : 'original',
      prefix,
      patchEmbedding: `${prefix}patch_embedding.weight`,
      hasImageBranch: keys.some((key) => /k_img|img_emb|add_k_proj|image_embedder/.test(key)),
      isScaled: keys.some((key) => key.endsWith('scaled_fp8') || key.endsWith('.scale_weight')),
      linearOf(key) {
        if (!key.startsWith(prefix) || !key.endsWith('.weight')) return undefined
        const stem = key.slice(prefix.length, -'.weight'.length)
        return isDiffusers ? stem : diffusersName(stem)
      },
    }
  }
  return undefined
}
