import { stat } from 'node:fs/promises'
import {
  adapterKinds,
  inspectLora,
  kindNames,
  readLora,
  writeLora,
  type AdapterKind,
  type LokrModule,
  type LoraLayout,
  type LoraModule,
  type LoraWeights,
} from '@kinora/lora-files'
import { drain, parseOptions, type RunContext, type StageEvent } from '@kinora/stage'
import { readBaseExpert } from './base-checkpoint.ts'
import { exporterErrors } from './errors.ts'
import { concatenate, reduceRank, type WeightedModule } from './low-rank.ts'
import { exportLoraOptions, type ExportLoraOptions } from './options.ts'
import { fitProblems } from './verify-lora.ts'

/** What was written, or would be. */
export interface ExportedLora {
  file: string
  /** Null for a dry run. */
  sizeBytes: number | null
  layout: LoraLayout
  dtype: string
  numModules: number
  rank: { min: number; max: number }
  /** Share of the squared norm that a lower rank keeps, 0 to 1; null where no rank was lowered. */
  kept: { min: number; mean: number } | null
  sources: { file: string; layout: LoraLayout; weight: number }[]
}

/** Converts, merges and reduces LoRA files into one. */
export async function* exportLoraIter(
  options: ExportLoraOptions,
  { signal }: RunContext = {},
): AsyncGenerator<StageEvent, ExportedLora> {
  const resolved = parseOptions('EXPORTER', exportLoraOptions, options)
  const { sources, out, layout, dtype, rank, expert, deltas } = resolved
  const weights = resolved.weights ?? sources.map(() => 1)
  if (weights.length !== sources.length) {
    throw exporterErrors.WEIGHTS_MISMATCH(weights.length, sources.length)
  }

  yield { type: 'started', phase: 'read', total: sources.length }
  const loras: LoraWeights[] = []
  const told: ExportedLora['sources'] = []
  for (const [index, file] of sources.entries()) {
    signal?.throwIfAborted()
    const skipped: string[] = []
    const header = await inspectLora(file, { deltas })
    const lora = await readLora(file, {
      expert,
      deltas,
      kinds: adapterKinds,
      onSkipped: (keys) => skipped.push(...keys),
    })
    const asItIs = sources.length === 1 && weights[0] === 1 && rank === undefined
    const other = otherKind(lora)
    if (other !== undefined && !asItIs) {
      throw exporterErrors.NOT_ADDITIVE(file, kindNames[other])
    }
    loras.push(lora)
    told.push({ file, layout: header.layout, weight: weights[index]! })
    for (const key of skipped) {
      yield { type: 'skipped', item: key, reason: 'not-low-rank', detail: `In ${file}.` }
    }
    yield { type: 'progress', phase: 'read', done: index + 1, total: sources.length, item: file }
  }

  const names = [...new Set(loras.flatMap(({ modules }) => [...modules.keys()]))]
  const result: LoraWeights = {
    modules: new Map(),
    ...(loras[0]!.kronecker ? { kronecker: loras[0]!.kronecker } : {}),
    metadata: mergedMetadata(loras, told, resolved.name),
  }
  const kronecker = [...(result.kronecker ?? [])]
  const reduced: number[] = []
  yield { type: 'started', phase: rank === undefined ? 'merge' : 'reduce', total: names.length }
  for (const [index, name] of names.entries()) {
    signal?.throwIfAborted()
    const parts = loras.flatMap(({ modules }, source): WeightedModule[] => {
      const module = modules.get(name)
      return module === undefined ? [] : [{ module, weight: weights[source]! }]
    })
    let module = combine(name, parts)
    if (rank !== undefined && module.rank > rank) {
      const { module: smaller, kept } = reduceRank(module, rank)
      module = smaller
      reduced.push(kept)
    }
    result.modules.set(name, module)
    const phase = rank === undefined ? 'merge' : 'reduce'
    yield { type: 'progress', phase, done: index + 1, total: names.length, item: name }
    // Each decomposition takes long enough that Ctrl-C and the bars would starve.
    if (rank !== undefined) await new Promise((resolve) => setImmediate(resolve))
  }

  if (resolved.base !== undefined) {
    const base = await readBaseExpert(resolved.base, expert)
    const problems = fitProblems(
      new Map<string, LoraModule | LokrModule>([...result.modules, ...kronecker]),
      base,
    )
    if (problems.length > 0) throw exporterErrors.DOES_NOT_FIT(out, base.path, problems)
  }
  const ranks = [
    ...[...result.modules.values()].map((module) => module.rank),
    ...kronecker.map(([, { rank, shape2 }]) => rank ?? Math.min(...shape2)),
  ]
  let sizeBytes: number | null = null
  if (!resolved.dryRun) {
    await writeLora(out, result, { layout, dtype })
    sizeBytes = (await stat(out)).size
    yield { type: 'note', message: `The LoRA is in ${out}.` }
  }
  return {
    file: out,
    sizeBytes,
    layout,
    dtype,
    numModules: result.modules.size + kronecker.length,
    rank: { min: Math.min(...ranks), max: Math.max(...ranks) },
    kept:
      reduced.length === 0
        ? null
        : {
            min: Math.min(...reduced),
            mean: reduced.reduce((sum, value) => sum + value, 0) / reduced.length,
          },
    sources: told,
  }
}

/** `exportLoraIter` run to its end. */
export function exportLora(
  options: ExportLoraOptions,
  context?: RunContext,
): Promise<ExportedLora> {
  return drain(exportLoraIter(options, context))
}

/** The kind of a LoRA's modules that are more than a plain pair. */
function otherKind({ modules, kronecker }: LoraWeights): AdapterKind | undefined {
  if (kronecker) return 'lokr'
  return [...modules.values()].some(({ magnitude }) => magnitude !== undefined) ? 'dora' : undefined
}

/** One LoRA at full strength stays as it is, alpha and all; anything else becomes one module of scale 1. */
function combine(name: string, parts: readonly WeightedModule[]): LoraModule {
  const [only, ...more] = parts
  return only !== undefined && more.length === 0 && only.weight === 1
    ? only.module
    : concatenate(name, parts)
}

function mergedMetadata(
  loras: readonly LoraWeights[],
  sources: ExportedLora['sources'],
  name: string | undefined,
): Record<string, string> {
  const metadata = { ...loras[0]?.metadata }
  metadata['format'] ??= 'pt'
  if (name !== undefined) metadata['ss_output_name'] = name
  if (sources.length > 1 || sources[0]?.weight !== 1) {
    metadata['merged_from'] = JSON.stringify(
      sources.map(({ file, weight }) => ({ file: file.replace(/^.*[/\\]/, ''), weight })),
    )
  }
  return metadata
}
