import { openSafetensors, type SafetensorsDType, type SafetensorsFile } from '@kinora/safetensors'
import { adapterMetadataKey, parseAdapterMetadata, type AlphaOf } from './adapter-metadata.ts'
import { loraErrors } from './errors.ts'
import { keyMaps, loraLayouts, type LoraLayout } from './layouts.ts'
import type { ModulePart } from './key-maps/key-map.ts'
import {
  kindNames,
  type AdapterKind,
  type Expert,
  type LokrModule,
  type LoraModule,
  type LoraWeights,
} from './lora-weights.ts'

export interface ReadLoraOptions {
  /** Which expert of a file that holds both; of no account for a file of one. */
  expert?: Expert | undefined
  /** `skip` leaves full weight deltas out (`.diff`, `.diff_b`) instead of refusing the file. Default `refuse`. */
  deltas?: 'refuse' | 'skip' | undefined
  /**
   * Kinds of modules the caller can use; a file with another is refused by name. `['lora']` unless given: `modules` then holds plain
   * pairs alone.
   */
  kinds?: readonly AdapterKind[] | undefined
  /** Told the keys that were left out: deltas, and the image branch of Wan 2.1, which 2.2 does not have. */
  onSkipped?: ((keys: readonly string[]) => void) | undefined
}

/** One module as the header tells it. */
export interface LoraModuleHeader {
  kind: AdapterKind
  /** Of a LoKr with a whole w2: the shorter side of w2. */
  rank: number
  inFeatures: number
  outFeatures: number
  dtype: SafetensorsDType
  /** Tensor of the alpha, where the file has one. */
  alpha?: string
  /** Tensor names in the file. */
  parts: FoundParts
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
    const { kinds = ['lora'] } = options
    for (const [name, module] of modules) {
      if (!kinds.includes(module.kind)) {
        const key = module.parts.magnitude ?? module.parts.w1 ?? module.parts.w1a ?? name
        throw loraErrors.OTHER_ADAPTER(file, key, kindNames[module.kind])
      }
      if (module.kind === 'lokr') {
        weights.kronecker ??= new Map()
        weights.kronecker.set(name, await readLokr(open, module))
      } else weights.modules.set(name, await readModule(open, name, module, alphaOf))
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
  const { rank, inFeatures, outFeatures, parts } = header
  const a = await readFinite(open, parts.down!)
  const b = await readFinite(open, parts.up!)
  const alpha = (await readAlpha(open, header.alpha)) ?? alphaOf(name, rank)
  return {
    a,
    b,
    rank,
    inFeatures,
    outFeatures,
    ...(alpha === undefined ? {} : { alpha }),
    ...(parts.magnitude ? { magnitude: await readFinite(open, parts.magnitude) } : {}),
  }
}

async function readAlpha(
  open: SafetensorsFile,
  key: string | undefined,
): Promise<number | undefined> {
  if (key === undefined) return undefined
  const alpha = (await readFinite(open, key))[0]!
  if (alpha <= 0) throw loraErrors.BAD_ALPHA(open.file, key, alpha)
  return alpha
}

/** w1 in two factors is multiplied out: it is small. */
async function readLokr(open: SafetensorsFile, header: LoraModuleHeader): Promise<LokrModule> {
  const { inFeatures, outFeatures, parts } = header
  const shapeOf = (key: string): readonly number[] => open.tensors.get(key)!.shape
  const matrix = async (whole: string | undefined, left?: string, right?: string) => {
    if (whole !== undefined) {
      return { shape: shapeOf(whole), values: await readFinite(open, whole) }
    }
    const [rows, rank] = shapeOf(left!) as [number, number]
    const columns = shapeOf(right!)[1]!
    const factors = { a: await readFinite(open, left!), b: await readFinite(open, right!) }
    return { shape: [rows, columns], rank, factors }
  }
  const first = await matrix(parts.w1, parts.w1a, parts.w1b)
  const second = await matrix(parts.w2, parts.w2a, parts.w2b)
  const shape1 = first.shape as readonly [number, number]
  const shape2 = second.shape as readonly [number, number]
  const { rank } = second
  // LyCORIS scales by the rank of whichever is in factors; where neither is, not at all, and the stored alpha may be anything.
  const scaled = rank ?? first.rank
  const alpha = scaled === undefined ? undefined : await readAlpha(open, header.alpha)
  let w1 = first.values ?? multiply(first.factors!, shape1, first.rank!)
  if (rank === undefined && alpha !== undefined && first.rank !== undefined) {
    const scale = alpha / first.rank
    w1 = w1.map((value) => value * scale)
  }
  return {
    w1,
    w2: second.values ?? second.factors!,
    shape1,
    shape2,
    inFeatures,
    outFeatures,
    ...(rank === undefined ? {} : { rank }),
    ...(rank === undefined || alpha === undefined ? {} : { alpha }),
  }
}

/** a [rows, rank] times b [rank, columns]. */
function multiply(
  { a, b }: { a: Float32Array; b: Float32Array },
  [rows, columns]: readonly [number, number],
  rank: number,
): Float32Array {
  const product = new Float32Array(rows * columns)
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      let sum = 0
      for (let r = 0; r < rank; r++) sum += a[row * rank + r]! * b[r * columns + column]!
      product[row * columns + column] = sum
    }
  }
  return product
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

/** Tensor of each part of a module that a file has. */
type FoundParts = Partial<Record<ModulePart, string>>

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
    (parts.alpha !== undefined) === storesAlpha &&
    Object.entries(parts).every(([part, key]) => key === format(module, part as ModulePart, expert))
  )
}

function checkModules(
  open: SafetensorsFile,
  layout: LoraLayout,
  expert: Expert | undefined,
  modules: ReadonlyMap<string, FoundParts>,
): Map<string, LoraModuleHeader> {
  const checked = new Map<string, LoraModuleHeader>()
  for (const [name, parts] of [...modules].sort(byBlockAndName)) {
    const check: Check = {
      open,
      parts,
      need(part, besides) {
        const key = parts[part]
        if (key !== undefined) return key
        const missing = keyMaps[layout].format(name, part, expert) ?? `${name} (${part})`
        throw loraErrors.MISSING_PART(
          open.file,
          missing,
          besides ?? Object.values(parts)[0] ?? name,
        )
      },
      shapeOf(key, expected) {
        const { shape } = open.tensors.get(key)!
        if (shape.length !== 2 || shape.some((extent) => extent === 0)) {
          throw loraErrors.BAD_SHAPE(open.file, key, shape, expected)
        }
        return shape as readonly [number, number]
      },
    }
    const isLokr = Object.keys(parts).some((part) => /^w[12]/.test(part))
    checked.set(name, isLokr ? checkLokr(check) : checkLowRank(check))
    const { alpha } = parts
    if (alpha !== undefined) {
      const { shape } = open.tensors.get(alpha)!
      if (shape.some((extent) => extent !== 1)) {
        throw loraErrors.BAD_SHAPE(open.file, alpha, shape, 'a single number')
      }
    }
  }
  return checked
}

interface Check {
  open: SafetensorsFile
  parts: FoundParts
  /** The tensor of a part, or an error that it is missing though another is there. */
  need(part: ModulePart, besides?: string): string
  /** Shape of a matrix. */
  shapeOf(key: string, expected: string): readonly [number, number]
}

function checkLowRank({ open, parts, need, shapeOf }: Check): LoraModuleHeader {
  const down = need('down', parts.up)
  const up = need('up', parts.down)
  const [rank, inFeatures] = shapeOf(down, '[rank, inFeatures]')
  const [outFeatures, rankOfB] = shapeOf(up, '[outFeatures, rank]')
  const wrong = (key: string, expected: string): never => {
    throw loraErrors.BAD_SHAPE(open.file, key, open.tensors.get(key)!.shape, expected)
  }
  if (rankOfB !== rank) wrong(up, `[outFeatures, ${rank}] (${down} has rank ${rank})`)
  const { magnitude, alpha } = parts
  if (magnitude !== undefined) {
    const { shape } = open.tensors.get(magnitude)!
    const [rows, columns] = shape
    // Lengths of rows are another DoRA. A square linear is told by the place of its 1.
    if (shape.length === 2 && columns === 1 && rows === outFeatures && outFeatures !== 1) {
      throw loraErrors.OTHER_ADAPTER(open.file, magnitude, 'DoRA by rows')
    }
    if (shape.length !== 2 || rows !== 1 || columns !== inFeatures) {
      wrong(magnitude, `[1, ${inFeatures}]`)
    }
  }
  return {
    kind: magnitude === undefined ? 'lora' : 'dora',
    rank,
    inFeatures,
    outFeatures,
    dtype: open.tensors.get(down)!.dtype,
    parts,
    ...(alpha === undefined ? {} : { alpha }),
  }
}

function checkLokr({ open, parts, need, shapeOf }: Check): LoraModuleHeader {
  const other = parts.magnitude ?? parts.down ?? parts.up
  if (other !== undefined) {
    throw loraErrors.OTHER_ADAPTER(open.file, other, 'LoKr with a part of another kind')
  }
  const sideOf = (
    whole: 'w1' | 'w2',
    left: 'w1a' | 'w2a',
    right: 'w1b' | 'w2b',
  ): { shape: readonly [number, number]; rank: number } => {
    const key = parts[whole]
    if (key !== undefined) {
      const shape = shapeOf(key, 'a matrix')
      return { shape, rank: Math.min(...shape) }
    }
    if (parts[left] === undefined && parts[right] === undefined) need(whole)
    const [rows, rank] = shapeOf(need(left), '[rows, rank]')
    const rightKey = need(right)
    const [rankOfRight, columns] = shapeOf(rightKey, '[rank, columns]')
    if (rankOfRight !== rank) {
      throw loraErrors.BAD_SHAPE(open.file, rightKey, [rankOfRight, columns], `[${rank}, columns]`)
    }
    return { shape: [rows, columns], rank }
  }
  const first = sideOf('w1', 'w1a', 'w1b')
  const second = sideOf('w2', 'w2a', 'w2b')
  const { alpha } = parts
  return {
    kind: 'lokr',
    rank: second.rank,
    inFeatures: first.shape[1] * second.shape[1],
    outFeatures: first.shape[0] * second.shape[0],
    dtype: open.tensors.get(parts.w2 ?? parts.w2a!)!.dtype,
    parts,
    ...(alpha === undefined ? {} : { alpha }),
  }
}

/** By block number, then by name. */
function byBlockAndName([p]: readonly [string, unknown], [q]: readonly [string, unknown]): number {
  const block = (name: string) => Number(/^blocks\.(\d+)\./.exec(name)?.[1] ?? -1)
  return block(p) - block(q) || (p < q ? -1 : p > q ? 1 : 0)
}
