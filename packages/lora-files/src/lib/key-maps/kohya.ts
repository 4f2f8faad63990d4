import { lycorisEndings, type LoraKeyMap } from './key-map.ts'
import { parseStem } from './suffixes.ts'
import { diffusersNameOfFlat, isImageBranch, originalName } from './wan-names.ts'

// kohya's trainers (musubi-tuner): `lora_unet_` and Wan's own names with underscores for dots, lora_down / lora_up and a
// scalar alpha for every module. The scale is alpha / rank.

const prefix = 'lora_unet_'
const parts = {
  down: 'lora_down.weight',
  up: 'lora_up.weight',
  alpha: 'alpha',
  ...lycorisEndings,
} as const

export const kohya: LoraKeyMap = {
  owns: (key) => key.startsWith('lora_unet_') || key.startsWith('lora_te'),
  parse(key) {
    if (!key.startsWith(prefix)) return { kind: 'text-encoder' }
    return parseStem(key.slice(prefix.length), isImageBranch, diffusersNameOfFlat)
  },
  format(module, part) {
    const name = originalName(module)
    return name && `${prefix}${name.replaceAll('.', '_')}.${parts[part]}`
  },
  storesAlpha: true,
}
