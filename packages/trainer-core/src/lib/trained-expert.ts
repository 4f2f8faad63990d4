import type { Adapter, Device } from '@kinora/kernel-api'
import type { TrainProcess } from '@kinora/config-schema'
import { loadTransformer, type WanCheckpoint, type WanTransformer } from '@kinora/wan'
import { LossScale } from './loss/loss-scale.ts'
import type { TrainedLora } from './lora-adapters.ts'
import type { Expert } from './noise/random-streams.ts'
import type { Optimizer } from './optim/optimizer.ts'

/** What one expert trains: its LoRA, optimiser and loss scale, which stay on the device for the whole run. */
export interface TrainedExpert {
  readonly expert: Expert
  readonly lora: TrainedLora
  readonly optimizer: Optimizer
  readonly lossScale: LossScale
}

/** The adapters with their scale multiplied by a dataset's `network_weight`. */
export function weightedAdapters(
  { adapters }: TrainedLora,
  weight: number,
): ReadonlyMap<string, readonly Adapter[]> {
  if (weight === 1) return adapters
  return new Map(
    Array.from(adapters, ([name, list]) => [
      name,
      list.map((adapter) => ({ ...adapter, scale: adapter.scale * weight })),
    ]),
  )
}

/** The frozen networks. With low memory only one is on the device at a time; a change of turn loads the other anew. */
export class BaseModels {
  readonly #checkpoint: WanCheckpoint
  readonly #device: Device
  readonly #compute: 'f32' | 'f16'
  readonly #oneAtATime: boolean
  readonly #loaded = new Map<Expert, WanTransformer>()

  constructor(
    checkpoint: WanCheckpoint,
    device: Device,
    compute: 'f32' | 'f16',
    { low_vram }: Pick<TrainProcess['model'], 'low_vram'>,
  ) {
    this.#checkpoint = checkpoint
    this.#device = device
    this.#compute = compute
    this.#oneAtATime = low_vram
  }

  /** Those on the device now. */
  get loaded(): ReadonlyMap<Expert, WanTransformer> {
    return this.#loaded
  }

  /** An expert's network, loaded if it is not there. */
  async get(expert: Expert, signal?: AbortSignal): Promise<WanTransformer> {
    const known = this.#loaded.get(expert)
    if (known) return known
    if (this.#oneAtATime) this.release()
    const transformer = await loadTransformer(this.#checkpoint, expert, this.#device, {
      compute: this.#compute,
      signal,
    })
    this.#loaded.set(expert, transformer)
    return transformer
  }

  release(): void {
    for (const transformer of this.#loaded.values()) transformer.release()
    this.#loaded.clear()
  }
}
