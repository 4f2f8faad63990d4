import { openSafetensors, type SafetensorsDType, type SafetensorsFile } from '@kinora/safetensors'
import { adapterMetadataKey, parseAdapterMetadata, type AlphaOf } from './adapter-metadata.ts'
import { loraErrors } from './errors.ts'
import { keyMaps, loraLayouts, type LoraLayout } from './layouts.ts'
import type { Expert, LoraModule, LoraWeights } from './lora-weights.ts'

export interface ReadLoraOptions {
  /** Which expert of a file that holds both; of no account for a file of one. */
  expert?: Expert | undefined
  /** `skip` leaves full weight deltas out (`.diff`, `.diff_b`) instead of refusing the file. Default `refuse`. */
  deltas?: 'refuse' | 'skip' | undefined
  /** Told the keys that were left out: deltas, and the image branch of Wan 2.1, which 2.2 does not have. */
  onSkipped?: ((keys: readonly string[]) => void) | undefined
}

/** One module as the header tells it. */
export interface LoraModuleHeader {
  rank: number
  inFeatures: number
  outFeatures: number
  dtype: SafetensorsDType
  /** Tensor names in the file. */
  down: string
  up: string
  /** Tensor of the alpha, where the file has one. */
  alpha?: string
}

/** What a LoRA file is, from its header alone. */
export interface LoraHeader {
  layout: LoraLayout
  /** The experts the file names; one without a name is `undefined`. */
  experts: ReadonlyMap<Expert | undefined, ReadonlyMap<string, LoraModuleHeader>>
  /** Whether every key is spelt as `writeLora` spells it; programs differ in what else they read. */
  canonical: boolean
  /** Keys that are no part of the low-rank pairs and were left out. */
  skipped: readonly string[]
  /** Header metadata, less what describes the layout itself. */
  metadata: Readonly<Record<string, string>>
}

/**
 * Reads a LoRA file of any layout into the canonical form, in f32.
 *
 * A and B are as in the file; the scale is not folded in but kept as `alpha`. Modules are sorted by name.
 *
 * @throws CodedError `LORA_…` naming the key and shape that is wrong
 */
export async function readLora(file: string, options: ReadLoraOptions = {}): Promise<LoraWeights> {
  const open = await openSafetensors(file)
  try {
    const header = parseLoraHeader(open, options.deltas ?? 'refuse')
    const modules = chooseExpert(file, header, options.expert)
    if (header.skipped.length > 0) options.onSkipped?.(header.skipped)
    const alphaOf = parseAdapterMetadata(open.metadata[adapterMetadataKey], file)
    const weights: LoraWeights = { modules: new Map(), metadata: { ...header.metadata } }
    for (const [name, module] of modules) {
      weights.modules.set(name, await readModule(open, name, module, alphaOf))
    }
    return weights
  } finally {
    await open.close()
  }
}

/** Reads what a LoRA file is without reading its tensors. */
export async function inspectLora(
  file: string,
  options: Pick<ReadLoraOptions, 'deltas'> = {},
): Promise<LoraHeader> {
  const open = await openSafetensors(file)
  try {
    return parseLoraHeader(open, options.deltas ?? 'refuse')
  } finally {
    await open.close()
  }
}

async function readModule(
  open: SafetensorsFile,
  name: string,
  header: LoraModuleHeader,
  alphaOf: AlphaOf,
): Promise<LoraModule> {
  const { rank, inFeatures, outFeatures } = header
  const a = await readFinite(open, header.down)
  const b = await readFinite(open, header.up)
  let alpha = alphaOf(name, rank)
  if (header.alpha !== undefined) {
    alpha = (await readFinite(open, header.alpha))[0]!
    if (alpha <= 0) throw loraErrors.BAD_ALPHA(open.file, header.alpha, alpha)
  }
  return { a, b, rank, inFeatures, outFeatures, ...(alpha === undefined ? {} : { alpha }) }
}

async function readFinite(open: SafetensorsFile, key: string): Promise<Float32Array> {
  const values = await open.readF32(key)
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i]!)) throw loraErrors.NOT_FINITE(open.file, key, i)
  }
  return values
}

function chooseExpert(
  file: string,
  { experts }: LoraHeader,
  wanted: Expert | undefined,
): ReadonlyMap<string, LoraModuleHeader> {
  const [only, ...more] = experts
  if (only === undefined) throw loraErrors.EMPTY(file)
  if (more.length === 0) {
    if (wanted !== undefined && only[0] !== undefined && only[0] !== wanted) {
      throw loraErrors.EXPERT_ABSENT(file, wanted)
    }
    return only[1]
  }
  if (wanted === undefined) throw loraErrors.EXPERT_NEEDED(file)
  const modules = experts.get(wanted)
  if (modules === undefined) throw loraErrors.EXPERT_ABSENT(file, wanted)
  return modules
}

interface FoundParts {
  down?: string
  up?: string
  alpha?: string
}

function parseLoraHeader(open: SafetensorsFile, deltas: 'refuse' | 'skip'): LoraHeader {
  const { file } = open
  const keys = [...open.tensors.keys()]
  const first = keys[0]
  if (first === undefined) throw loraErrors.EMPTY(file)
  const layout = loraLayouts.find((name) => keys.some((key) => keyMaps[name].owns(key)))
  if (layout === undefined) throw loraErrors.UNKNOWN_LAYOUT(file, first)

  const found = new Map<Expert | undefined, Map<string, FoundParts>>()
  const skipped: string[] = []
  const deltaKeys: string[] = []
  for (const key of keys) {
    const parsed = keyMaps[layout].owns(key)
      ? keyMaps[layout].parse(key)
      : ({ kind: 'unknown' } as const)
    switch (parsed.kind) {
      case 'part': {
        const modules = found.get(parsed.expert) ?? new Map<string, FoundParts>()
        found.set(parsed.expert, modules)
        const parts = modules.get(parsed.module) ?? {}
        modules.set(parsed.module, parts)
        const same = parts[parsed.part]
        if (same !== undefined) throw loraErrors.DUPLICATE(file, key, same)
        parts[parsed.part] = key
        break
      }
      case 'other-adapter':
        throw loraErrors.OTHER_ADAPTER(file, key, parsed.name)
      case 'text-encoder':
        throw loraErrors.TEXT_ENCODER(file, key)
      case 'unknown':
        throw loraErrors.UNKNOWN_KEY(file, key, layout)
      case 'delta': {
        deltaKeys.push(key)
        skipped.push(key)
        break
      }
      case 'image-branch': {
        skipped.push(key)
        break
      }
      default:
        parsed satisfies never
    }
  }
  if (deltaKeys.length > 0 && deltas === 'refuse') {
    throw loraErrors.FULL_DELTA(file, deltaKeys[0]!, deltaKeys.length)
  }
  // A diffusers file of one expert says `transformer.` whichever it is.
  const single = layout === 'diffusers' && found.size === 1 ? found.get('high') : undefined
  const named = single === undefined ? found : new Map([[undefined, single]])
  const { [adapterMetadataKey]: _, ...metadata } = open.metadata
  return {
    layout,
    canonical: [...found].every(([expert, modules]) =>
      [...modules].every(([name, parts]) => isCanonical(layout, name, expert, parts)),
    ),
    experts: new Map(
      [...named].map(([expert, modules]) => [expert, checkModules(open, layout, expert, modules)]),
    ),
    skipped,
    metadata,
  }
}

function isCanonical(
  layout: LoraLayout,
  module: string,
  expert: Expert | undefined,
  parts: FoundParts,
): boolean {
  const { format, storesAlpha } = keyMaps[layout]
  return (
    parts.down === format(module, 'down', expert) &&
    parts.up === format(module, 'up', expert) &&
    parts.alpha === (storesAlpha ? format(module, 'alpha', expert) : undefined)
  )
}

function checkModules(
  open: SafetensorsFile,
  layout: LoraLayout,
  expert: Expert | undefined,
  modules: ReadonlyMap<string, FoundParts>,
): Map<string, LoraModuleHeader> {
  const { file } = open
  const checked = new Map<string, LoraModuleHeader>()
  for (const [name, { down, up, alpha }] of [...modules].sort(byBlockAndName)) {
    if (down === undefined || up === undefined) {
      const part = down === undefined ? 'down' : 'up'
      const missing = keyMaps[layout].format(name, part, expert) ?? `${name} (${part})`
      throw loraErrors.MISSING_PART(file, missing, down ?? up ?? alpha ?? name)
    }
    const a = open.tensors.get(down)!
    const b = open.tensors.get(up)!
    const [rank = 0, inFeatures = 0] = a.shape
    const [outFeatures = 0, rankOfB] = b.shape
    if (a.shape.length !== 2 || rank === 0 || inFeatures === 0) {
      throw loraErrors.BAD_SHAPE(file, down, a.shape, '[rank, inFeatures]')
    }
    if (b.shape.length !== 2 || outFeatures === 0) {
      throw loraErrors.BAD_SHAPE(file, up, b.shape, '[outFeatures, rank]')
    }
    if (rankOfB !== rank) {
      throw loraErrors.BAD_SHAPE(
        file,
        up,
        b.shape,
        `[outFeatures, ${rank}] (${down} has rank ${rank})`,
      )
    }
    if (alpha !== undefined) {
      const { shape } = open.tensors.get(alpha)!
      if (shape.some((extent) => extent !== 1)) {
        throw loraErrors.BAD_SHAPE(file, alpha, shape, 'a single number')
      }
    }
    checked.set(name, {
      rank,
      inFeatures,
      outFeatures,
      dtype: a.dtype,
      down,
      up,
      ...(alpha === undefined ? {} : { alpha }),
    })
  }
  return checked
}

/** By block number, then by name. */
function byBlockAndName([p]: readonly [string, unknown], [q]: readonly [string, unknown]): number {
  const block = (name: string) => Number(/^blocks\.(\d+)\./.exec(name)?.[1] ?? -1)
  return block(p) - block(q) || (p < q ? -1 : p > q ? 1 : 0)
}
