import type { Expert } from '../lora-weights.ts'

/** Parts of a module: of a LoRA, of a DoRA beside those, of a LoKr, and the alpha of any. */
export const moduleParts = [
  'down',
  'up',
  'magnitude',
  'w1',
  'w1a',
  'w1b',
  'w2',
  'w2a',
  'w2b',
  'alpha',
] as const
export type ModulePart = (typeof moduleParts)[number]

/** Endings that LyCORIS gives the parts of LoKr and DoRA; ComfyUI reads the same, whatever is before them. */
export const lycorisEndings = {
  magnitude: 'dora_scale',
  w1: 'lokr_w1',
  w1a: 'lokr_w1_a',
  w1b: 'lokr_w1_b',
  w2: 'lokr_w2',
  w2a: 'lokr_w2_a',
  w2b: 'lokr_w2_b',
} as const satisfies Partial<Record<ModulePart, string>>

/** What a key of a file is: a part of a module, or something known that is no part of a plain LoRA. */
export type ParsedKey =
  | { kind: 'part'; module: string; part: ModulePart; expert?: Expert | undefined }
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
  format(module: string, part: ModulePart, expert?: Expert): string | undefined
  /** Whether files of this layout carry an alpha for every module; otherwise the scale is folded into B. */
  storesAlpha: boolean
}
