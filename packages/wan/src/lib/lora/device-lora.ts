import type { Adapter, Device } from '@kinora/kernel-api'
import { loraScale, type LoraWeights } from '@kinora/lora-files'
import { wanErrors } from '../errors.ts'
import type { LoraTarget } from '../transformer/transformer.ts'

/** A LoRA on a device, in f32. */
export interface DeviceLora {
  /** By module name; what `WanTransformer.forward` takes. */
  readonly adapters: ReadonlyMap<string, readonly Adapter[]>
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
  if (targets) checkModules(lora, targets)
  const adapters = new Map<string, readonly Adapter[]>()
  for (const [name, module] of lora.modules) {
    const { a, b, rank, inFeatures, outFeatures } = module
    adapters.set(name, [
      {
        a: device.upload(a, [rank, inFeatures], 'f32'),
        b: device.upload(b, [outFeatures, rank], 'f32'),
        scale: strength * loraScale(module),
      },
    ])
  }
  return {
    adapters,
    async read() {
      const modules: LoraWeights['modules'] = new Map()
      for (const [name, module] of lora.modules) {
        const [adapter] = adapters.get(name)!
        modules.set(name, {
          ...module,
          a: (await device.read(adapter!.a)) as Float32Array,
          b: (await device.read(adapter!.b)) as Float32Array,
        })
      }
      return { modules, metadata: lora.metadata }
    },
    release() {
      for (const [{ a, b }] of adapters.values() as Iterable<readonly [Adapter]>) {
        device.release(a)
        device.release(b)
      }
      adapters.clear()
    },
  }
}

/** Several LoRAs at once: their branches add up. */
export function joinAdapters(
  loras: readonly Pick<DeviceLora, 'adapters'>[],
): Map<string, readonly Adapter[]> {
  const joined = new Map<string, readonly Adapter[]>()
  for (const { adapters } of loras) {
    for (const [name, list] of adapters) joined.set(name, [...(joined.get(name) ?? []), ...list])
  }
  return joined
}

function checkModules(lora: LoraWeights, targets: readonly LoraTarget[]): void {
  const known = new Map(targets.map((target) => [target.name, target]))
  for (const [name, module] of lora.modules) {
    const target = known.get(name)
    if (!target) throw wanErrors.UNKNOWN_MODULE(name)
    if (module.inFeatures !== target.inFeatures || module.outFeatures !== target.outFeatures) {
      throw wanErrors.ADAPTER_SHAPE(
        name,
        `[${module.rank}, ${module.inFeatures}] and [${module.outFeatures}, ${module.rank}]`,
        `[r, ${target.inFeatures}] and [${target.outFeatures}, r]`,
      )
    }
  }
}
