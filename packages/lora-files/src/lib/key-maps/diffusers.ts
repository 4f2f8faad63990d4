import type { LoraKeyMap } from './key-map.ts'
import { parseStem } from './suffixes.ts'
import { isImageBranch, originalName } from './wan-names.ts'

// diffusers and PEFT: `transformer.` and diffusers' names, lora_A / lora_B without alpha keys; a scale other than 1 stands
// in the header's lora_adapter_metadata. A file of both experts uses `transformer.` and `transformer_2.`; a file of one
// expert uses `transformer.` for either, so the prefix of a file that has only that one says nothing. There is no LoKr, and PEFT's DoRA
// has lengths of rows where LyCORIS' and ours has lengths of columns.

const prefixes = { high: 'transformer.', low: 'transformer_2.' } as const
const parts = { down: 'lora_A.weight', up: 'lora_B.weight', alpha: 'alpha' } as const

export const diffusers: LoraKeyMap = {
  owns: (key) => key.startsWith(prefixes.high) || key.startsWith(prefixes.low),
  parse(key) {
    const expert = key.startsWith(prefixes.low) ? 'low' : 'high'
    const parsed = parseStem(key.slice(prefixes[expert].length), isImageBranch, (stem) =>
      originalName(stem) === undefined ? undefined : stem,
    )
    return parsed.kind === 'part' ? { ...parsed, expert } : parsed
  },
  format(module, part, expert = 'high') {
    if (originalName(module) === undefined || !(part in parts)) return undefined
    return `${prefixes[expert]}${module}.${parts[part as keyof typeof parts]}`
  },
  storesAlpha: false,
}
