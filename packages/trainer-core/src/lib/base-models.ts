import type { TrainProcess } from '@kinora/config-schema'
import type { Device } from '@kinora/kernel-api'
import {
  fetchRecoveryAdapter,
  loadTransformer,
  type QuantizeScheme,
  type WanCheckpoint,
  type WanTransformer,
} from '@kinora/wan'
import { trainerErrors } from './errors.ts'
import type { Expert } from './noise/random-streams.ts'

type ModelSettings = TrainProcess['model']

/** Scheme the experts are packed in; undefined where they stay dense. */
export function quantizeScheme({
  quantize,
  qtype,
}: Pick<ModelSettings, 'quantize' | 'qtype'>): QuantizeScheme | undefined {
  return quantize ? qtype : undefined
}

/** Share of the blocks that are streamed from host memory. */
export function streamedShare({
  layer_offloading,
  layer_offloading_transformer_percent,
}: ModelSettings): number {
  return layer_offloading ? layer_offloading_transformer_percent : 0
}

/**
 * The frozen networks, packed and placed as the job says. With low memory one is on the device at a time, and the others wait in
 * host memory: a change of turn costs a copy, not a load.
 */
export class BaseModels {
  readonly #checkpoint: WanCheckpoint
  readonly #device: Device
  readonly #compute: 'f32' | 'f16'
  readonly #model: ModelSettings
  readonly #loaded = new Map<Expert, WanTransformer>()

  constructor(
    checkpoint: WanCheckpoint,
    device: Device,
    compute: 'f32' | 'f16',
    { model, train }: Pick<TrainProcess, 'model' | 'train'>,
  ) {
    if (streamedShare(model) > 0 && !train.gradient_checkpointing) {
      throw trainerErrors.OFFLOADING_WITHOUT_CHECKPOINTING()
    }
    this.#checkpoint = checkpoint
    this.#device = device
    this.#compute = compute
    this.#model = model
  }

  /** Those that are loaded, on the device or in host memory. */
  get loaded(): ReadonlyMap<Expert, WanTransformer> {
    return this.#loaded
  }

  /** An expert's network, on the device; with low memory all others leave it first. */
  async get(expert: Expert, signal?: AbortSignal): Promise<WanTransformer> {
    if (this.#model.low_vram) await this.#toHost(expert)
    const known = this.#loaded.get(expert)
    if (known) {
      known.toDevice()
      return known
    }
    const { accuracy_recovery_adapter: adapter } = this.#model
    const transformer = await loadTransformer(this.#checkpoint, expert, this.#device, {
      compute: this.#compute,
      quantize: quantizeScheme(this.#model),
      recovery: adapter ? await fetchRecoveryAdapter(adapter, expert, { signal }) : undefined,
      streamedShare: streamedShare(this.#model),
      signal,
    })
    this.#loaded.set(expert, transformer)
    return transformer
  }

  /** With low memory: leaves the device to others. */
  async makeRoom(): Promise<void> {
    if (this.#model.low_vram) await this.#toHost()
  }

  async #toHost(except?: Expert): Promise<void> {
    for (const [expert, transformer] of this.#loaded) {
      if (expert !== except) await transformer.toHost()
    }
  }

  release(): void {
    for (const transformer of this.#loaded.values()) transformer.release()
    this.#loaded.clear()
  }
}
