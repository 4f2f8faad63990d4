import type { Adapter, Device, Tensor } from '@kinora/kernel-api'
import type { LoraWeights } from '@kinora/lora-files'
import { trainerErrors } from './errors.ts'
import { readTensors } from './device-arrays.ts'
import type { Expert, RandomStreams } from './noise/random-streams.ts'

// The trained LoRA of one expert on a device: f32 masters, two for each adapted linear, y += scale · B (A x).

/** A linear that may be adapted, as wan's transformer lists them. */
export interface LoraTarget {
  name: string
  inFeatures: number
  outFeatures: number
}

export interface LoraOptions {
  rank: number
  /** Scale of the branch: alpha / rank where alpha is honoured, else 1. */
  scale: number
}

export interface TrainedLora {
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

function build(
  device: Device,
  targets: readonly LoraTarget[],
  options: LoraOptions,
  values: (target: LoraTarget, index: number) => { a: Float32Array; b: Float32Array },
): TrainedLora {
  const params: Tensor[] = []
  const names: string[] = []
  const adapters = new Map<string, readonly Adapter[]>()
  device.scope(() => {
    targets.forEach((target, index) => {
      const { name, inFeatures, outFeatures } = target
      const { a, b } = values(target, index)
      const [aTensor, bTensor] = [
        device.retain(device.upload(a, [options.rank, inFeatures], 'f32')),
        device.retain(device.upload(b, [outFeatures, options.rank], 'f32')),
      ]
      adapters.set(name, [{ a: aTensor, b: bTensor, scale: options.scale }])
      params.push(aTensor, bTensor)
      names.push(`${name}.lora_A`, `${name}.lora_B`)
    })
  })
  return {
    options,
    targets,
    adapters,
    params,
    names,
    release: () => params.forEach((tensor) => device.release(tensor)),
  }
}

/** A fresh LoRA: A uniform in ±1/√inFeatures (Kaiming with a = √5, as PEFT and AI Toolkit), B zero. */
export function initLora(
  device: Device,
  targets: readonly LoraTarget[],
  options: LoraOptions,
  expert: Expert,
  random: RandomStreams,
): TrainedLora {
  return build(device, targets, options, ({ inFeatures, outFeatures }, index) => {
    const bound = 1 / Math.sqrt(inFeatures)
    const u = random.uniforms('initLora', expert, index, options.rank * inFeatures)
    return {
      a: Float32Array.from(u, (value) => (2 * value - 1) * bound),
      b: new Float32Array(outFeatures * options.rank),
    }
  })
}

/**
 * A LoRA with given weights, such as those of a file to start from. The file's own scale is folded into B, so that the branch
 * does what it did there. Modules that the file lacks begin as zeros (no branch yet) with A drawn as for a fresh one.
 *
 * @param source names the file in errors
 */
export function loraFromWeights(
  device: Device,
  targets: readonly LoraTarget[],
  options: LoraOptions,
  weights: LoraWeights,
  source: string,
  fresh: { expert: Expert; random: RandomStreams },
): TrainedLora {
  return build(device, targets, options, (target, index) => {
    const { name, inFeatures, outFeatures } = target
    const module = weights.modules.get(name)
    if (!module) {
      const bound = 1 / Math.sqrt(inFeatures)
      const { expert, random } = fresh
      const u = random.uniforms('initLora', expert, index, options.rank * inFeatures)
      return {
        a: Float32Array.from(u, (value) => (2 * value - 1) * bound),
        b: new Float32Array(outFeatures * options.rank),
      }
    }
    if (
      module.rank !== options.rank ||
      module.inFeatures !== inFeatures ||
      module.outFeatures !== outFeatures
    ) {
      throw trainerErrors.LORA_SHAPE(
        source,
        name,
        `rank ${module.rank}, ${module.inFeatures} → ${module.outFeatures}`,
        `rank ${options.rank}, ${inFeatures} → ${outFeatures}`,
      )
    }
    const factor = (module.alpha === undefined ? 1 : module.alpha / module.rank) / options.scale
    return { a: module.a, b: factor === 1 ? module.b : module.b.map((value) => value * factor) }
  })
}

/**
 * Copies a LoRA to the host.
 *
 * @param alpha written into the file where the job honours alpha
 */
export async function readLoraWeights(
  device: Device,
  lora: TrainedLora,
  params: readonly Tensor[] = lora.params,
): Promise<LoraWeights> {
  const values = await readTensors(device, params)
  const { rank, scale } = lora.options
  return {
    modules: new Map(
      lora.targets.map(({ name, inFeatures, outFeatures }, index) => [
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
