import { stat } from 'node:fs/promises'
import { basename } from 'node:path'
import {
  blockLinearNames,
  inspectLora,
  parseLoraFileName,
  type AdapterKind,
  type Expert,
  type LoraHeader,
  type LoraLayout,
  type LoraModule,
  type LoraModuleHeader,
} from '@kinora/lora-files'
import { drain, parseOptions, type RunContext, type StageEvent } from '@kinora/stage'
import { readBaseExpert, type BaseExpert } from './base-checkpoint.ts'
import { exporterErrors } from './errors.ts'
import { wan22I2vA14b, wanTensors } from './key-maps/wan-tensors.ts'
import { verifyLoraOptions, type VerifyLoraOptions } from './options.ts'

/** Whether a program reads the file, and why. */
export interface ProgramVerdict {
  program:
    | 'ComfyUI'
    | 'diffusers'
    | 'AI Toolkit'
    | 'WanVideoWrapper (Kijai)'
    | 'musubi-tuner'
    | 'Kinora'
  loads: 'yes' | 'no' | 'after-conversion' | 'unknown'
  why: string
}

/** What is in the file for one expert. */
export interface ExpertReport {
  /** Null where the file does not say. */
  expert: Expert | null
  numModules: number
  /** What its modules are. */
  kinds: AdapterKind[]
  rank: { min: number; max: number }
  dtypes: string[]
  /** Whether an alpha is stored for its modules. */
  alphas: 'all' | 'some' | 'none'
  /** Linears of the base's blocks that the LoRA leaves alone. */
  numUntouched: number
  /** Modules that the base does not have, or has in another shape; empty for a fit. */
  problems: string[]
}

/** What a LoRA file is, whether it fits, and who loads it. */
export interface LoraReport {
  file: string
  sizeBytes: number
  layout: LoraLayout
  experts: ExpertReport[]
  /** Keys beside the low-rank pairs, such as full deltas. */
  skipped: string[]
  /** What it was checked against. */
  base: string
  /** Whether every module fits the base. */
  fits: boolean
  programs: ProgramVerdict[]
  /** Things worth knowing that are no faults. */
  notes: string[]
}

/** Names and shapes of the linears a LoRA is held against. */
type Linears = ReadonlyMap<string, { shape: readonly number[] }>

/** Checks a LoRA file against a base model's shapes, and says which programs load it. Reads headers alone. */
export async function* verifyLoraIter(
  options: VerifyLoraOptions,
  { signal }: RunContext = {},
): AsyncGenerator<StageEvent, LoraReport> {
  const { file, base: basePath, expert } = parseOptions('EXPORTER', verifyLoraOptions, options)
  yield { type: 'started', phase: 'verify', total: 1 }
  const header = await inspectLora(file, { deltas: 'skip' })
  const fromName = parseLoraFileName(basename(file))?.expert
  const experts: ExpertReport[] = []
  const notes: string[] = []
  let base: string | undefined
  for (const [own, modules] of header.experts) {
    signal?.throwIfAborted()
    if (expert !== undefined && own !== undefined && own !== expert) continue
    const meant = own ?? expert ?? fromName
    const found = basePath === undefined ? undefined : await readBaseExpert(basePath, meant)
    const linears = found?.linears ?? ruleLinears()
    base ??= found?.path ?? 'Wan 2.2 I2V A14B'
    if (found !== undefined) notes.push(...baseNotes(found))
    experts.push(describeExpert(meant ?? null, modules, linears))
  }
  if (experts.length === 0) throw exporterErrors.NOTHING_TO_DO()
  if (header.skipped.length > 0) {
    notes.push(
      `${header.skipped.length} keys are no low-rank pairs (first ${header.skipped[0]}); Kinora leaves them out.`,
    )
  }
  if (
    header.experts.size === 1 &&
    fromName === undefined &&
    expert === undefined &&
    !header.experts.has('low')
  ) {
    notes.push('Neither the keys nor the file name say which expert it is for.')
  }
  yield { type: 'progress', phase: 'verify', done: 1, total: 1, item: file }
  return {
    file,
    sizeBytes: (await stat(file)).size,
    layout: header.layout,
    experts,
    skipped: [...header.skipped],
    base: base ?? 'Wan 2.2 I2V A14B',
    fits: experts.every((report) => report.problems.length === 0),
    programs: programVerdicts(header),
    notes: [...new Set(notes)],
  }
}

/** `verifyLoraIter` run to its end. */
export function verifyLora(options: VerifyLoraOptions, context?: RunContext): Promise<LoraReport> {
  return drain(verifyLoraIter(options, context))
}

/** Modules that do not fit, each in a sentence. */
export function fitProblems(
  modules: ReadonlyMap<string, Pick<LoraModule, 'inFeatures' | 'outFeatures'>>,
  { linears }: { linears: Linears },
): string[] {
  const problems: string[] = []
  for (const [name, { inFeatures, outFeatures }] of modules) {
    const shape = linears.get(name)?.shape
    if (shape === undefined) problems.push(`${name} is not in the base.`)
    else if (shape[0] !== outFeatures || shape[1] !== inFeatures) {
      problems.push(
        `${name} is [${outFeatures}, ${inFeatures}] in the LoRA and [${shape.join(', ')}] in the base.`,
      )
    }
  }
  return problems
}

function describeExpert(
  expert: Expert | null,
  modules: ReadonlyMap<string, LoraModuleHeader>,
  linears: Linears,
): ExpertReport {
  const headers = [...modules.values()]
  const ranks = headers.map(({ rank }) => rank)
  const numAlphas = headers.filter(({ alpha }) => alpha !== undefined).length
  const targets = [...linears.keys()].filter((name) =>
    blockLinearNames.some((linear) => name.startsWith('blocks.') && name.endsWith(`.${linear}`)),
  )
  return {
    expert,
    numModules: modules.size,
    kinds: [...new Set(headers.map(({ kind }) => kind))].sort(),
    rank: { min: Math.min(...ranks), max: Math.max(...ranks) },
    dtypes: [...new Set(headers.map(({ dtype }) => dtype))],
    alphas: numAlphas === 0 ? 'none' : numAlphas === headers.length ? 'all' : 'some',
    numUntouched: targets.filter((name) => !modules.has(name)).length,
    problems: fitProblems(modules, { linears }),
  }
}

let rule: Linears | undefined
function ruleLinears(): Linears {
  rule ??= new Map(
    wanTensors(wan22I2vA14b)
      .filter(({ shape }) => shape.length === 2)
      .map(({ diffusers, shape }) => [diffusers.replace(/\.weight$/, ''), { shape }]),
  )
  return rule
}

function baseNotes(base: BaseExpert): string[] {
  const notes: string[] = []
  if (base.hasImageBranch) notes.push('The base has an image branch: it is Wan 2.1 I2V, not 2.2.')
  if (base.inChannels === 16) notes.push('The base takes 16 channels: it is a text-to-video model.')
  if (base.isScaled)
    notes.push(
      'The base is packed to 8 bits with scales; its shapes are checked, its weights are not.',
    )
  return notes
}

/** Who loads what: wan22-architecture.md 7.5, from the loaders' sources. */
function programVerdicts(header: LoraHeader): ProgramVerdict[] {
  const { layout, canonical, experts } = header
  const isCombined = experts.size > 1 || (layout === 'comfyui' && !experts.has(undefined))
  const modules = [...experts.values()][0] ?? new Map<string, LoraModuleHeader>()
  const kinds = new Set([...modules.values()].map(({ kind }) => kind))
  const isPlain = !kinds.has('lokr') && !kinds.has('dora')
  const kind = kinds.has('lokr') ? 'LoKr' : 'DoRA'
  const verdicts = {
    ComfyUI: comfyui(),
    diffusers: diffusers(),
    'AI Toolkit': aiToolkit(),
    'WanVideoWrapper (Kijai)': kijai(),
    'musubi-tuner': musubi(),
    Kinora: isCombined ? yes('With the expert named.') : yes('It reads every layout.'),
  }
  return Object.entries(verdicts).map(([program, verdict]) => ({
    program: program as ProgramVerdict['program'],
    ...verdict,
  }))

  // LoKr and DoRA have LyCORIS' form alone, which is ComfyUI's.
  function comfyui() {
    if (isCombined) return no('A file of both experts must be split (exporter convert --expert).')
    if (layout === 'diffusers') return no('It has no mapping from diffusers’ names of Wan.')
    return yes('Load the file of each expert on its model.')
  }
  function diffusers() {
    if (!isPlain) return no(`Its loader of Wan has no ${kind} of this form.`)
    if (layout === 'diffusers') {
      return yes(
        isCombined
          ? 'Both experts, each by its prefix.'
          : 'High noise with load_lora_weights, low noise with load_into_transformer_2=True.',
      )
    }
    if (isCombined) return no('A file of both experts must be split (exporter convert --expert).')
    if (layout === 'kohya') {
      return isComplete(modules)
        ? yes('It converts the keys, and every block is complete.')
        : no('It asks for an alpha and all ten linears in every block up to the highest.')
    }
    return yes('It converts the keys and folds alpha.')
  }
  function aiToolkit() {
    if (kinds.has('dora')) return no('Its DoRA is by rows, this one by columns.')
    if (kinds.has('lokr')) {
      return {
        loads: 'unknown',
        why: 'It writes the same keys, with an alpha beside them.',
      } as const
    }
    if (layout !== 'comfyui') return no('It reads its own layout alone.')
    return canonical
      ? yes(isCombined ? 'With split_multistage_loras false.' : 'With the files of both experts.')
      : ({ loads: 'unknown', why: 'It is spelt otherwise than AI Toolkit writes it.' } as const)
  }
  function kijai() {
    if (!isPlain) return { loads: 'unknown', why: `It was not looked up for ${kind}.` } as const
    if (isCombined) return no('A file of both experts must be split (exporter convert --expert).')
    if (layout === 'diffusers') {
      return no('Its branch for diffusers’ names sends both attentions to one module.')
    }
    return yes('It takes ComfyUI’s and kohya’s keys.')
  }
  function musubi() {
    if (!isPlain) return { loads: 'unknown', why: `It was not looked up for ${kind}.` } as const
    if (layout === 'kohya') return yes('It is its own layout.')
    if (layout === 'comfyui' && !isCombined) {
      return {
        loads: 'after-conversion',
        why: 'With its own script, or exporter convert --layout kohya.',
      } as const
    }
    return no('Convert it with exporter convert --layout kohya.')
  }
}

function yes(why: string) {
  return { loads: 'yes', why } as const
}

function no(why: string) {
  return { loads: 'no', why } as const
}

/** Whether every block up to the highest has all ten linears, each with an alpha. */
function isComplete(modules: ReadonlyMap<string, LoraModuleHeader>): boolean {
  const blocks = [...modules.keys()].flatMap((name) => {
    const index = /^blocks\.(\d+)\./.exec(name)?.[1]
    return index === undefined ? [] : [Number(index)]
  })
  const highest = Math.max(-1, ...blocks)
  for (let block = 0; block <= highest; block++) {
    for (const linear of blockLinearNames) {
      if (modules.get(`blocks.${block}.${linear}`)?.alpha === undefined) return false
    }
  }
  return highest >= 0
}
