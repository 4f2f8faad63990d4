import { lycorisEndings, type ModulePart, type ParsedKey } from './key-map.ts'

// The endings of keys that programs of this field write, whatever comes before them.

const down = [
  '.lora_A.weight',
  '.lora_down.weight',
  '.lora_A.default.weight',
  '.lora.down.weight',
  '_lora.down.weight',
  '.lora_A',
]
const up = [
  '.lora_B.weight',
  '.lora_up.weight',
  '.lora_B.default.weight',
  '.lora.up.weight',
  '_lora.up.weight',
  '.lora_B',
]

/** Endings of adapters that are not read, with the name of their kind. */
const otherAdapters: readonly (readonly [RegExp, string])[] = [
  [/\.lokr_t2$/, 'LoKr of a convolution'],
  [/\.hada_(w1|w2|t1|t2)(_[ab])?$/, 'LoHa'],
  [/\.lora_magnitude_vector(\.weight)?$/, 'DoRA by rows'],
  [/\.oft_(blocks|diag|R\.weight)$/, 'OFT'],
  [/\.(ia3_l|on_input)(\.weight)?$/, '(IA)³'],
  [/\.lora_mid\.weight$/, 'LoCon (Tucker)'],
  [/\.(a1|a2|b1|b2)\.weight$/, 'GLoRA'],
]

const endingsOfParts: readonly (readonly [readonly string[], ModulePart])[] = [
  [down, 'down'],
  [up, 'up'],
  [['.alpha'], 'alpha'],
  ...Object.entries(lycorisEndings).map(
    ([part, ending]) => [[`.${ending}`], part as ModulePart] as const,
  ),
]

const deltas = /\.(diff|diff_b|diff_m|set_weight|lora_B\.bias|reshape_weight)$/

/** Splits a key into the name before its ending and what the ending says; undefined for an ending of no known kind. */
function splitSuffix(
  key: string,
):
  | { stem: string; part: ModulePart }
  | Extract<ParsedKey, { kind: 'other-adapter' | 'delta' }>
  | undefined {
  for (const [endings, part] of endingsOfParts) {
    const ending = endings.find((candidate) => key.endsWith(candidate))
    if (ending !== undefined) return { stem: key.slice(0, -ending.length), part }
  }
  const other = otherAdapters.find(([pattern]) => pattern.test(key))
  if (other !== undefined) return { kind: 'other-adapter', name: other[1] }
  return deltas.test(key) ? { kind: 'delta' } : undefined
}

/** Parses a key whose prefix is already taken off, by the layout's way from its names to diffusers'. */
export function parseStem(
  rest: string,
  isImageBranch: (stem: string) => boolean,
  toModule: (stem: string) => string | undefined,
): ParsedKey {
  if (isImageBranch(rest)) return { kind: 'image-branch' }
  const split = splitSuffix(rest)
  if (split === undefined) return { kind: 'unknown' }
  if ('kind' in split) return split
  const module = toModule(split.stem)
  return module === undefined ? { kind: 'unknown' } : { kind: 'part', module, part: split.part }
}
