import { lycorisEndings, type LoraKeyMap } from './key-map.ts'
import { parseStem } from './suffixes.ts'
import { diffusersName, isImageBranch, originalName } from './wan-names.ts'

// AI Toolkit and ComfyUI: `diffusion_model.` and Wan's own names. AI Toolkit writes lora_A / lora_B without alpha; others
// write lora_down / lora_up, with or without. LoKr and DoRA have LyCORIS' endings. AI Toolkit's combined file puts `transformer_1.` (high noise) or
// `transformer_2.` (low noise) after the prefix. Some trainers leave the prefix out.

const prefix = 'diffusion_model.'
const stages = { high: 'transformer_1.', low: 'transformer_2.' } as const
const parts = {
  down: 'lora_A.weight',
  up: 'lora_B.weight',
  alpha: 'alpha',
  ...lycorisEndings,
} as const

export const comfyui: LoraKeyMap = {
  owns: (key) =>
    key.startsWith(prefix) || /^blocks\.\d+\.(self_attn|cross_attn|ffn\.[02]\.)/.test(key),
  parse(key) {
    const rest = key.startsWith(prefix) ? key.slice(prefix.length) : key
    for (const expert of ['high', 'low'] as const) {
      if (rest.startsWith(stages[expert])) {
        const parsed = parseStem(rest.slice(stages[expert].length), isImageBranch, diffusersName)
        return parsed.kind === 'part' ? { ...parsed, expert } : parsed
      }
    }
    return parseStem(rest, isImageBranch, diffusersName)
  },
  format(module, part, expert) {
    const name = originalName(module)
    return name && `${prefix}${expert === undefined ? '' : stages[expert]}${name}.${parts[part]}`
  },
  storesAlpha: false,
}
