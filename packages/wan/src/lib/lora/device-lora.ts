import type { Device, Tensor } from '@kinora/kernel-api'
import { loraScale, type LokrModule, type LoraModule, type LoraWeights } from '@kinora/lora-files'
import { wanErrors } from '../errors.ts'
import type { LoraTarget } from '../transformer/transformer.ts'
import {
  isKronecker,
  type KroneckerAdapter,
  type LowRankAdapter,
  type ModuleAdapter,
} from './module-adapter.ts'

/** A LoRA on a device, in f32. */
export interface DeviceLora {
  /** By module name; what `WanTransformer.forward` takes. */
  readonly adapters: ReadonlyMap<string, readonly ModuleAdapter[]>
  /** Copies it back, for a file. */
  read(): Promise<LoraWeights>
  /** Frees its factors. */
  release(): void
}

/** How a LoRA joins. */
export interface UploadLoraOptions {
  /** Multiplies each module's own scale; 1 unless given. */
  strength?: number | undefined
  /** The linears of the transformer: given, a module that is none of them, or does not fit, is an error. */
  targets?: readonly LoraTarget[] | undefined
}

/** Copies a LoRA to a device. Call it outside any scope: it lives until released. */
export function uploadLora(
  device: Device,
  lora: LoraWeights,
  { strength = 1, targets }: UploadLoraOptions = {},
): DeviceLora {
  if (targets) checkLoraModules(lora, targets)
  const adapters = new Map<string, readonly ModuleAdapter[]>()
  for (const [name, module] of lora.modules) {
    adapters.set(name, [uploadLowRank(device, module, strength)])
  }
  for (const [name, module] of lora.kronecker ?? []) {
    adapters.set(name, [uploadKronecker(device, module, strength)])
  }
  return {
    adapters,
    async read() {
      const values = async (tensor: Tensor) => (await device.read(tensor)) as Float32Array
      const modules: LoraWeights['modules'] = new Map()
      for (const [name, module] of lora.modules) {
        const { a, b, magnitude } = adapters.get(name)![0] as LowRankAdapter
        modules.set(name, {
          ...module,
          a: await values(a),
          b: await values(b),
          ...(magnitude ? { magnitude: await values(magnitude) } : {}),
        })
      }
      const kronecker = new Map<string, LokrModule>()
      for (const [name, module] of lora.kronecker ?? []) {
        const { w1, w2 } = adapters.get(name)![0] as KroneckerAdapter
        kronecker.set(name, {
          ...module,
          w1: await values(w1),
          w2: 'shape' in w2 ? await values(w2) : { a: await values(w2.a), b: await values(w2.b) },
        })
      }
      return { modules, ...(lora.kronecker ? { kronecker } : {}), metadata: lora.metadata }
    },
    release() {
      for (const adapter of [...adapters.values()].flat()) {
        for (const tensor of adapterTensors(adapter)) device.release(tensor)
      }
      adapters.clear()
    },
  }
}

/** All tensors of an adapter. */
function adapterTensors(adapter: ModuleAdapter): Tensor[] {
  if (isKronecker(adapter)) {
    const { w1, w2 } = adapter
    return 'shape' in w2 ? [w1, w2] : [w1, w2.a, w2.b]
  }
  const { a, b, magnitude } = adapter
  return magnitude ? [a, b, magnitude] : [a, b]
}

function uploadLowRank(device: Device, module: LoraModule, strength: number): LowRankAdapter {
  const { a, b, magnitude, rank, inFeatures, outFeatures } = module
  const factors = {
    a: device.upload(a, [rank, inFeatures], 'f32'),
    b: device.upload(b, [outFeatures, rank], 'f32'),
  }
  const scale = loraScale(module)
  if (!magnitude) return { ...factors, scale: strength * scale }
  return {
    ...factors,
    scale,
    magnitude: device.upload(magnitude, [inFeatures], 'f32'),
    strength,
  }
}

function uploadKronecker(device: Device, module: LokrModule, strength: number): KroneckerAdapter {
  const { w1, w2, shape1, shape2, rank = 0 } = module
  return {
    w1: device.upload(w1, shape1, 'f32'),
    w2:
      w2 instanceof Float32Array
        ? device.upload(w2, shape2, 'f32')
        : {
            a: device.upload(w2.a, [shape2[0], rank], 'f32'),
            b: device.upload(w2.b, [rank, shape2[1]], 'f32'),
          },
    scale: strength * loraScale(module),
  }
}

/** Several LoRAs at once: their branches add up. */
export function joinAdapters(
  loras: readonly Pick<DeviceLora, 'adapters'>[],
): Map<string, readonly ModuleAdapter[]> {
  const joined = new Map<string, readonly ModuleAdapter[]>()
  for (const { adapters } of loras) {
    for (const [name, list] of adapters) joined.set(name, [...(joined.get(name) ?? []), ...list])
  }
  return joined
}

/** Throws for a LoRA with a module that is none of the linears, or does not fit it. */
export function checkLoraModules(lora: LoraWeights, targets: readonly LoraTarget[]): void {
  const known = new Map(targets.map((target) => [target.name, target]))
  for (const [name, module] of [...lora.modules, ...(lora.kronecker ?? [])]) {
    const target = known.get(name)
    if (!target) throw wanErrors.UNKNOWN_MODULE(name)
    if (module.inFeatures !== target.inFeatures || module.outFeatures !== target.outFeatures) {
      const found =
        'w1' in module
          ? `[${module.shape1.join(', ')}] ⊗ [${module.shape2.join(', ')}]`
          : `[${module.rank}, ${module.inFeatures}] and [${module.outFeatures}, ${module.rank}]`
      throw wanErrors.ADAPTER_SHAPE(
        name,
        found,
        `[r, ${target.inFeatures}] and [${target.outFeatures}, r]`,
      )
    }
  }
}
