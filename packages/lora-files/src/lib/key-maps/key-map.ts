import type { Expert } from '../lora-weights.ts'

/** What a key of a file is: a part of a module, or something known that is no part of a plain LoRA. */
export type ParsedKey =
  | { kind: 'part'; module: string; part: 'down' | 'up' | 'alpha'; expert?: Expert | undefined }
  | { kind: 'other-adapter'; name: string }
  | { kind: 'delta' }
  | { kind: 'image-branch' }
  | { kind: 'text-encoder' }
  | { kind: 'unknown' }

/** How one family of programs spells the keys of a LoRA file. */
export interface LoraKeyMap {
  /** Whether a key has the prefix of this layout. */
  owns(key: string): boolean
  parse(key: string): ParsedKey
  /** The key of a part of a module, named as in diffusers; undefined where the layout has no name for it. */
  format(module: string, part: 'down' | 'up' | 'alpha', expert?: Expert): string | undefined
  /** Whether files of this layout carry an alpha for every module; otherwise the scale is folded into B. */
  storesAlpha: boolean
}
