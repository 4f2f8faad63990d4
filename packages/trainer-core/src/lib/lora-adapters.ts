import { uniforms, type Device, type Tensor } from '@kinora/kernel-api'
import type { LokrModule, LoraWeights } from '@kinora/lora-files'
import type { LoraTarget, ModuleAdapter } from '@kinora/wan'
import { readTensors } from './device-arrays.ts'
import { trainerErrors } from './errors.ts'
import { formOf, type LoraOptions, type ModuleDropout } from './module-forms.ts'
import { streamOf, type Expert } from './noise/random-streams.ts'

// The trained network of one expert: f32 masters on a device, some for each adapted linear.

export type { LoraOptions } from './module-forms.ts'

export interface TrainedLora {
  readonly device: Device
  readonly options: LoraOptions
  readonly targets: readonly LoraTarget[]
  /** What the transformer takes: one adapter a module. */
  readonly adapters: ReadonlyMap<string, readonly ModuleAdapter[]>
  /** The tensors of each module (a, b of a LoRA), in the order of `targets`: what is optimised. */
  readonly params: readonly Tensor[]
  /** Name of each of `params`, such as `blocks.0.attn1.to_q.lora_A`. */
  readonly names: readonly string[]
  release(): void
}

/** What of a module takes part in a micro-batch: false leaves the whole module out. */
export type DropModule = (module: number) => ModuleDropout | false

/**
 * The adapters with other tensors than those being trained, with what they do multiplied, or with some of it left out.
 */
export function adaptersOf(
  { adapters, options, targets, params }: TrainedLora,
  tensors: readonly Tensor[] = params,
  weight = 1,
  drop?: DropModule,
): ReadonlyMap<string, readonly ModuleAdapter[]> {
  if (tensors === params && weight === 1 && !drop) return adapters
  return new Map(
    modulesOf(targets, options, tensors).flatMap(({ target, own }, index) => {
      const dropped = drop?.(index)
      if (dropped === false) return []
      return [[target.name, [formOf(options).adapter(own, options, weight, dropped)]] as const]
    }),
  )
}

/** Each target with its part of a list of all tensors or arrays. */
function modulesOf<T>(
  targets: readonly LoraTarget[],
  options: LoraOptions,
  list: readonly T[],
): { target: LoraTarget; own: readonly T[] }[] {
  let at = 0
  return targets.map((target) => {
    const count = formOf(options).parts(target, options).length
    at += count
    return { target, own: list.slice(at - count, at) }
  })
}

/** Names of the tensors of a network, in order. */
export function parameterNames(targets: readonly LoraTarget[], options: LoraOptions): string[] {
  return targets.flatMap((target) =>
    formOf(options)
      .parts(target, options)
      .map(({ name }) => `${target.name}.${name}`),
  )
}

/** Which of the linears a job adapts. */
export interface TargetFilter {
  ignoreIfContains: readonly string[]
  /** Null adapts all that are not ignored. */
  onlyIfContains: readonly string[] | null
}

/**
 * The linears a job adapts. Filters match AI Toolkit's full name, `transformer.transformer_1.blocks.0.attn1.to_q` (and
 * `transformer.blocks…`), with dots or with `$$` for dots; ignoring wins.
 */
export function selectTargets(
  targets: readonly LoraTarget[],
  expert: Expert,
  { ignoreIfContains, onlyIfContains }: TargetFilter,
): LoraTarget[] {
  const selected = targets.filter(({ name }) => {
    const full = `transformer.transformer_${expert === 'high' ? 1 : 2}.${name}`
    const spellings = [full, `transformer.${name}`]
    const contains = (part: string): boolean =>
      spellings.some((text) => text.includes(part.replaceAll('$$', '.')))
    return !ignoreIfContains.some(contains) && (onlyIfContains?.some(contains) ?? true)
  })
  if (selected.length === 0) throw trainerErrors.NO_TARGETS(expert)
  return selected
}

/** Brings a network to a device from its values: the tensors of each target in turn (a, b of a LoRA). */
export function uploadFactors(
  device: Device,
  targets: readonly LoraTarget[],
  options: LoraOptions,
  factors: readonly Float32Array[],
): TrainedLora {
  const params: Tensor[] = []
  const adapters = new Map<string, readonly ModuleAdapter[]>()
  const form = formOf(options)
  device.scope(() => {
    for (const target of targets) {
      const own = form
        .parts(target, options)
        .map(({ shape }, i) =>
          device.retain(device.upload(factors[params.length + i]!, shape, 'f32')),
        )
      adapters.set(target.name, [form.adapter(own, options, 1)])
      params.push(...own)
    }
  })
  return {
    device,
    options,
    targets,
    adapters,
    params,
    names: parameterNames(targets, options),
    release: () => params.forEach((tensor) => device.release(tensor)),
  }
}

/** What a run may begin with beside chance. */
export interface Beginning {
  /** A file's weights, and its name for errors. Linears it lacks begin fresh. */
  start?: { weights: LoraWeights; file: string } | undefined
  /** Lengths of the columns of each target's weight; for DoRA alone. */
  lengths?: ReadonlyMap<string, Float32Array> | undefined
}

/** The values a run begins with: those of a file, else ones that change nothing, drawn by the seed. */
export function initialFactors(
  targets: readonly LoraTarget[],
  options: LoraOptions,
  expert: Expert,
  seed: number,
  { start, lengths }: Beginning = {},
): Float32Array[] {
  const form = formOf(options)
  return targets.flatMap((target, index) => {
    const module = start && moduleIn(start.weights, target.name)
    if (!module) {
      // One stream a module, read from its beginning by each matrix in turn.
      let drawn = 0
      const uniform = (count: number): Float64Array => {
        const stream = streamOf('initLora', expert, 0) + index
        const all = uniforms(seed, stream, drawn + count)
        drawn += count
        return all.subarray(drawn - count).map((u) => 2 * u - 1)
      }
      return form.begin(target, options, uniform, lengths?.get(target.name))
    }
    const values = form.fromFile(target, options, module)
    if (typeof values === 'string') {
      throw trainerErrors.LORA_SHAPE(
        start.file,
        target.name,
        values,
        form.describe(target, options),
      )
    }
    return values
  })
}

const moduleIn = ({ modules, kronecker }: LoraWeights, name: string) =>
  modules.get(name) ?? kronecker?.get(name)

/**
 * Copies a network to the host.
 *
 * @param params the tensors, where they are others than those being trained (a moving average)
 */
export async function readLoraWeights(
  device: Device,
  { options, targets, ...lora }: TrainedLora,
  params: readonly Tensor[] = lora.params,
): Promise<LoraWeights> {
  const values = await readTensors(device, params)
  const weights: LoraWeights = { modules: new Map(), metadata: {} }
  const kronecker = new Map<string, LokrModule>()
  for (const { target, own } of modulesOf(targets, options, values)) {
    const module = formOf(options).toFile(target, options, own)
    if ('w1' in module) kronecker.set(target.name, module)
    else weights.modules.set(target.name, module)
  }
  return kronecker.size > 0 ? { ...weights, kronecker } : weights
}
