import type { Device, Tensor } from '@kinora/kernel-api'
import type { VaeConfig } from '../checkpoint/configs.ts'
import { loadingAll, WeightLoader, type Linear } from '../checkpoint/weight-loader.ts'
import type { WeightSource } from '../checkpoint/weight-source.ts'
import { wanErrors } from '../errors.ts'
import { decodeChunk, encodeChunk, loadCoder, type CoderWeights } from './coder.ts'
import { pointwise } from './layers.ts'
import { TemporalMemory } from './temporal-memory.ts'
import { decoderLayers, encoderLayers } from './vae-layout.ts'

// Axes: B batch, T frames, Y rows, X columns of pixels; F, H, W of latents; Z latent channels. Networks run channels last;
// latents are handed out channels first, as the transformer takes them.

/** Where diffusers clamps log-variances. `encode` gives them unclamped; clamp before drawing from the posterior. */
export const logvarRange = [-30, 20] as const

/** How a clip is cut while it is computed. */
export interface ChunkOptions {
  /**
   * Latent frames computed at a time: any number gives the same result, fewer take less memory. As many as keep one full-size
   * activation under 256 MiB unless given, and no fewer than 1.
   */
  chunkLatentFrames?: number | undefined
}

/** The Wan VAE on a device. All f32. */
export interface WanVae {
  readonly config: VaeConfig
  /**
   * Clip to posterior: mean and log-variance, each [B, Z, F, H, W], not normalised.
   *
   * @param video [B, T, Y, X, 3] f32 in [−1, 1]; T = 4n + 1, Y and X multiples of 8
   */
  encode(video: Tensor, options?: ChunkOptions): { mean: Tensor; logvar: Tensor }
  /**
   * Latents to clip [B, T, Y, X, 3], not clamped.
   *
   * @param latents [B, Z, F, H, W], not normalised
   */
  decode(latents: Tensor, options?: ChunkOptions): Tensor
  /**
   * As `decode`, each part [B, t, Y, X, 3] when it is asked for: neither the whole clip nor a wait for all of it. Parts are the
   * caller's to release, and come outside any scope.
   */
  decodeChunks(latents: Tensor, options?: ChunkOptions): Generator<Tensor, void, void>
  /** (z − mean) / std of each latent channel: what the transformer works on. [B, Z, F, H, W]. */
  normalise(latents: Tensor): Tensor
  /** z · std + mean. */
  denormalise(latents: Tensor): Tensor
  /** Frees its weights. */
  release(): void
}

/** Bytes one activation at full resolution may take before a clip is computed in chunks. */
const chunkBytes = 256 * 2 ** 20

/** Loads the weights of the VAE and returns it. */
export async function createVae(
  config: VaeConfig,
  source: WeightSource,
  device: Device,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<WanVae> {
  const loader = new WeightLoader(source, device, options)
  const weights = await loadingAll(loader, async (): Promise<VaeWeights> => ({
    encoder: await loadCoder(loader, 'encoder', encoderLayers(config)),
    quant: await loader.linear('quant_conv', 'f32'),
    postQuant: await loader.linear('post_quant_conv', 'f32'),
    decoder: await loadCoder(loader, 'decoder', decoderLayers(config)),
  }))
  return new Vae(config, device, loader, weights)
}

interface VaeWeights {
  readonly encoder: CoderWeights
  readonly quant: Linear
  readonly postQuant: Linear
  readonly decoder: CoderWeights
}

class Vae implements WanVae {
  readonly config: VaeConfig
  readonly #device: Device
  readonly #loader: WeightLoader
  readonly #weights: VaeWeights

  constructor(config: VaeConfig, device: Device, loader: WeightLoader, weights: VaeWeights) {
    this.config = config
    this.#device = device
    this.#loader = loader
    this.#weights = weights
  }

  encode(video: Tensor, options: ChunkOptions = {}): { mean: Tensor; logvar: Tensor } {
    const { temporalFactor, spatialFactor, zDim } = this.config
    const { ops } = this.#device
    const [, t, y, x, c] = video.shape as [number, number, number, number, number]
    if (video.shape.length !== 5 || c !== 3) {
      throw wanErrors.BAD_SHAPE('The video', video.shape, 'the VAE takes [B, T, Y, X, 3]')
    }
    if ((t - 1) % temporalFactor !== 0) throw wanErrors.FRAME_COUNT(t, temporalFactor)
    if (y % spatialFactor !== 0 || x % spatialFactor !== 0)
      throw wanErrors.SIZE(y, x, spatialFactor)
    const chunk = temporalFactor * this.#chunkLatentFrames(y, x, options)
    return this.#device.scope(() => {
      // A first frame stands alone; the first chunk has it beside its own frames.
      const chunks = this.#chunks(video, 1 + chunk, chunk, (frames, memory) =>
        pointwise(
          ops,
          encodeChunk(this.#device, frames, this.#weights.encoder, memory),
          this.#weights.quant,
        ),
      )
      const moments_BFHWZ = joinChunks(this.#device, [...chunks])
      const part = (start: number) =>
        ops.permute(ops.slice(moments_BFHWZ, 4, start, start + zDim), [0, 4, 1, 2, 3])
      return { mean: part(0), logvar: part(zDim) }
    })
  }

  decode(latents: Tensor, options: ChunkOptions = {}): Tensor {
    return this.#device.scope(() =>
      joinChunks(this.#device, [...this.decodeChunks(latents, options)]),
    )
  }

  *decodeChunks(latents: Tensor, options: ChunkOptions = {}): Generator<Tensor, void, void> {
    const { spatialFactor } = this.config
    const device = this.#device
    const { ops } = device
    this.#checkLatents(latents)
    const [, , , h, w] = latents.shape as [number, number, number, number, number]
    const chunk = this.#chunkLatentFrames(h * spatialFactor, w * spatialFactor, options)
    const latents_BFHWZ = device.scope(() =>
      pointwise(ops, ops.permute(latents, [0, 2, 3, 4, 1]), this.#weights.postQuant),
    )
    try {
      yield* this.#chunks(latents_BFHWZ, 1 + chunk, chunk, (part, memory) =>
        decodeChunk(device, part, this.#weights.decoder, memory),
      )
    } finally {
      device.release(latents_BFHWZ)
    }
  }

  normalise(latents: Tensor): Tensor {
    const { latentsMean, latentsStd } = this.config
    return this.#perChannel(
      latents,
      latentsStd.map((std) => 1 / std),
      latentsMean.map((mean, i) => -mean / latentsStd[i]!),
    )
  }

  denormalise(latents: Tensor): Tensor {
    return this.#perChannel(latents, this.config.latentsStd, this.config.latentsMean)
  }

  release(): void {
    this.#loader.release()
  }

  #chunkLatentFrames(y: number, x: number, { chunkLatentFrames }: ChunkOptions): number {
    if (chunkLatentFrames !== undefined) {
      return Math.max(1, Math.floor(chunkLatentFrames))
    }
    const { baseDim, decoderBaseDim, temporalFactor } = this.config
    const bytes = 4 * Math.max(baseDim, decoderBaseDim) * y * x * temporalFactor
    return Math.max(1, Math.floor(chunkBytes / bytes))
  }

  /** Cuts axis 1 of x into a first chunk and further ones, and runs one after the other. */
  *#chunks(
    x: Tensor,
    first: number,
    further: number,
    run: (chunk: Tensor, memory: TemporalMemory) => Tensor,
  ): Generator<Tensor, void, void> {
    const device = this.#device
    const { ops } = device
    const frames = x.shape[1]!
    const memory = new TemporalMemory(device)
    try {
      for (let start = 0, end = first; start < frames; start = end, end += further) {
        const stop = Math.min(end, frames)
        const whole = start === 0 && stop === frames
        yield device.scope(() => run(whole ? x : ops.slice(x, 1, start, stop), memory))
      }
    } finally {
      memory.release()
    }
  }

  /** z · scale + offset, one number a latent channel. */
  #perChannel(latents: Tensor, scale: readonly number[], offset: readonly number[]): Tensor {
    this.#checkLatents(latents)
    const device = this.#device
    const { ops } = device
    return device.scope(() => {
      const numbers = (list: readonly number[]) =>
        device.upload(Float32Array.from(list), [list.length], 'f32')
      const z = ops.permute(latents, [0, 2, 3, 4, 1])
      const scaled = ops.add(ops.mul(z, numbers(scale)), numbers(offset))
      return ops.permute(scaled, [0, 4, 1, 2, 3])
    })
  }

  #checkLatents({ shape }: Tensor): void {
    const { zDim } = this.config
    if (shape.length !== 5 || shape[1] !== zDim) {
      throw wanErrors.BAD_SHAPE('The latents', shape, `the VAE takes [B, ${zDim}, F, H, W]`)
    }
  }
}

function joinChunks({ ops }: Device, parts: readonly Tensor[]): Tensor {
  return parts.length === 1 ? parts[0]! : ops.concat(parts, 1)
}
