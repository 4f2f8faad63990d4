import type { Adapter, Device, Tensor } from '@kinora/kernel-api'
import { loraScale, type LoraWeights } from '@kinora/lora-files'
import { createLora, type LoraTarget } from '@kinora/wan'
import { readTensors } from './device-arrays.ts'
import { trainerErrors } from './errors.ts'
import { streamOf, type Expert } from './noise/random-streams.ts'

// The trained LoRA of one expert: f32 masters on a device, two for each adapted linear, y += scale · B (A x).

export interface LoraOptions {
  rank: number
  /** Scale of the branch: alpha / rank where alpha is honoured, else 1. */
  scale: number
}

export interface TrainedLora {
  readonly device: Device
  readonly options: LoraOptions
  readonly targets: readonly LoraTarget[]
  /** What the transformer takes: one adapter a module. */
  readonly adapters: ReadonlyMap<string, readonly Adapter[]>
  /** a, b of each module, in the order of `targets`: what is optimised. */
  readonly params: readonly Tensor[]
  /** Name of each of `params`, such as `blocks.0.attn1.to_q.lora_A`. */
  readonly names: readonly string[]
  release(): void
}

/** The adapters with other factors than those being trained, or with their scale multiplied. */
export function adaptersOf(
  { adapters, targets, params }: TrainedLora,
  factors: readonly Tensor[] = params,
  weight = 1,
): ReadonlyMap<string, readonly Adapter[]> {
  if (factors === params && weight === 1) return adapters
  return new Map(
    targets.map(({ name }, i) => [
      name,
      adapters.get(name)!.map(({ scale }) => ({
        a: factors[2 * i]!,
        b: factors[2 * i + 1]!,
        scale: scale * weight,
      })),
    ]),
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

/** Brings a LoRA to a device from its factors: a, b of each target in turn. */
export function uploadFactors(
  device: Device,
  targets: readonly LoraTarget[],
  options: LoraOptions,
  factors: readonly Float32Array[],
): TrainedLora {
  const params: Tensor[] = []
  const names: string[] = []
  const adapters = new Map<string, readonly Adapter[]>()
  device.scope(() => {
    for (const [index, { name, inFeatures, outFeatures }] of targets.entries()) {
      const upload = (values: Float32Array, shape: readonly number[]): Tensor =>
        device.retain(device.upload(values, shape, 'f32'))
      const a = upload(factors[2 * index]!, [options.rank, inFeatures])
      const b = upload(factors[2 * index + 1]!, [outFeatures, options.rank])
      adapters.set(name, [{ a, b, scale: options.scale }])
      params.push(a, b)
      names.push(`${name}.lora_A`, `${name}.lora_B`)
    }
  })
  return {
    device,
    options,
    targets,
    adapters,
    params,
    names,
    release: () => params.forEach((tensor) => device.release(tensor)),
  }
}

/**
 * The factors a run begins with: A uniform in ±1/√inFeatures and B zero, or those of a LoRA file. That file's own scale is folded
 * into B, so that the branch does what it did there; linears it lacks begin fresh.
 *
 * @param start a file's weights, and its name for errors
 */
export function initialFactors(
  targets: readonly LoraTarget[],
  { rank, scale }: LoraOptions,
  expert: Expert,
  seed: number,
  start?: { weights: LoraWeights; file: string },
): Float32Array[] {
  const fresh = createLora(targets, { rank, seed, stream: streamOf('initLora', expert, 0) })
  return targets.flatMap(({ name, inFeatures, outFeatures }) => {
    const module = start?.weights.modules.get(name)
    if (!module) {
      const { a, b } = fresh.modules.get(name)!
      return [a, b]
    }
    const shapeOf = (r: number, i: number, o: number): string => `rank ${r}, ${i} → ${o}`
    const found = shapeOf(module.rank, module.inFeatures, module.outFeatures)
    const expected = shapeOf(rank, inFeatures, outFeatures)
    if (found !== expected) throw trainerErrors.LORA_SHAPE(start!.file, name, found, expected)
    const factor = loraScale(module) / scale
    return [module.a, factor === 1 ? module.b : module.b.map((value) => value * factor)]
  })
}

/**
 * Copies a LoRA to the host.
 *
 * @param params the factors, where they are others than those being trained (a moving average)
 */
export async function readLoraWeights(
  device: Device,
  { options: { rank, scale }, targets, ...lora }: TrainedLora,
  params: readonly Tensor[] = lora.params,
): Promise<LoraWeights> {
  const values = await readTensors(device, params)
  return {
    modules: new Map(
      targets.map(({ name, inFeatures, outFeatures }, index) => [
        name,
        {
          a: values[2 * index]!,
          b: values[2 * index + 1]!,
          rank,
          inFeatures,
          outFeatures,
          ...(scale === 1 ? {} : { alpha: scale * rank }),
        },
      ]),
    ),
    metadata: {},
  }
}
