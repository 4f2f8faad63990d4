import { createHash } from 'node:crypto'
import { normals, type Device, type Tensor } from '@kinora/kernel-api'
import type { Expert, LoraWeights } from '@kinora/lora-files'
import { readImage, type RgbImage } from '@kinora/media'
import { drain, type RunContext, type StageEvent } from '@kinora/stage'
import {
  buildCondition,
  conditionVideo,
  checkLoraModules,
  fetchRecoveryAdapter,
  joinAdapters,
  loadTextEncoder,
  loadTransformer,
  loadVae,
  transformerLoraTargets,
  uploadLora,
  type DeviceLora,
  type ModuleAdapter,
  type QuantizeScheme,
  type WanCheckpoint,
  type WanTransformer,
  type WanVae,
} from '@kinora/wan'
import { checkClipSize, gridOf } from './clip-size.ts'
import { samplerErrors } from './errors.ts'
import { schedulers, type SchedulerName } from './schedulers/schedulers.ts'

// Axes: B batch (1, or 2 where both prompts go together), F latent frames, H and W latent rows and columns, L text rows,
// T frames, Y and X pixels.

const expertNames = ['high', 'low'] as const

/** Random stream of the initial noise, under the seed of a clip. */
const noiseStream = 0
/** Tokens up to which both prompts of a step go through the transformer as one batch: more would double a large activation. */
const maxBatchedTokens = 4096
/** Texts and images whose encodings are kept on the host for further clips. */
const maxRemembered = 64

export interface PipelineOptions {
  /** Dtype of the experts' linears and attention; f16 where the device computes it, unless given. */
  compute?: 'f32' | 'f16' | undefined
  /**
   * Keeps as little on the device as each phase needs: one expert at a time, and neither of them while decoding. Default false:
   * networks stay loaded for the next clip. The text encoder is freed before denoising either way.
   */
  lowMemory?: boolean | undefined
  /**
   * Experts that are loaded already, such as a trainer's. They are used, never released; with `lowMemory` they go to host memory
   * and back as others would be freed and loaded.
   */
  experts?: Partial<Record<Expert, WanTransformer>> | undefined
  /** Packs the experts' linears as they are loaded. */
  quantize?: QuantizeScheme | undefined
  /** Packs the text encoder's. */
  quantizeTextEncoder?: QuantizeScheme | undefined
  /** Accuracy recovery adapter for packed experts: a file, or `owner/name/file.safetensors` on the Hub. */
  recoveryAdapter?: string | undefined
  /** Share of the experts' blocks, 0 to 1, that are streamed from host memory. Default 0. */
  streamedShare?: number | undefined
}

/** A LoRA beside one expert's linears. */
export interface PipelineLora {
  expert: Expert
  weights: LoraWeights
  /** Multiplies its own scale; 1 unless given. */
  weight?: number | undefined
}

export interface GenerateOptions {
  /** First frame: a file, stretched to the clip's size with a Lanczos filter, or pixels of that size. */
  image: string | RgbImage
  prompt: string
  /** What guidance moves away from. Default: the empty text. */
  negativePrompt?: string | undefined
  /** Integer, 0 to 2^53 − 1. */
  seed: number
  /** Pixels, multiples of 16. */
  width: number
  height: number
  /** 4n + 1. */
  numFrames: number
  /** Number of solver steps, 1 or more. */
  steps: number
  /** Guidance of the high-noise expert; 1 asks for the prompt alone and halves the work. */
  guidance: number
  /** Guidance of the low-noise expert; that of the high-noise one unless given. */
  guidance2?: number | undefined
  /** Shift of the schedule. Default: the checkpoint's. */
  shift?: number | undefined
  /** Default: `unipc`. */
  scheduler?: SchedulerName | undefined
  /** Noise level, 0 to 1, from which on down the low-noise expert is asked. Default: the checkpoint's. */
  boundary?: number | undefined
  loras?: readonly PipelineLora[] | undefined
  /** Adapters that are on the device already, by expert and module, beside `loras`. */
  adapters?: Partial<Record<Expert, ReadonlyMap<string, readonly ModuleAdapter[]>>> | undefined
  /** Initial noise [1, 16, F, H, W]; drawn from the seed unless given. */
  latents?: Float32Array | undefined
}

/** A clip and what it was made from. */
export interface GeneratedClip {
  width: number
  height: number
  /** RGB frames in order. */
  frames: RgbImage[]
  /** [1, 16, F, H, W] of the two below. */
  latentShape: readonly number[]
  initialLatents: Float32Array
  /** Normalised: what the VAE decoded after denormalising. */
  finalLatents: Float32Array
}

/** Everything up to the denoising loop, for callers that compare it with another implementation. */
export interface EncodedInputs {
  /** [1, L, dim]. */
  promptEmbeds: Float32Array
  negativeEmbeds: Float32Array
  textShape: readonly number[]
  /** [1, 20, F, H, W]: 4 mask and 16 latent channels. */
  condition: Float32Array
  conditionShape: readonly number[]
}

/** Image and prompt to clip, with both experts. One clip at a time. */
export interface WanPipeline {
  readonly checkpoint: WanCheckpoint
  /** Yields progress; returns the clip. */
  generateIter(
    options: GenerateOptions,
    context?: RunContext,
  ): AsyncGenerator<StageEvent, GeneratedClip>
  generate(options: GenerateOptions, context?: RunContext): Promise<GeneratedClip>
  /** The inputs of the denoising loop, which `generate` would use. */
  encode(
    options: Pick<
      GenerateOptions,
      'image' | 'prompt' | 'negativePrompt' | 'width' | 'height' | 'numFrames'
    >,
    context?: RunContext,
  ): Promise<EncodedInputs>
  /** Frees what it loaded. */
  release(): void
}

/** Prepares a pipeline. Networks are loaded when they are first needed. */
export function openPipeline(
  checkpoint: WanCheckpoint,
  device: Device,
  options: PipelineOptions = {},
): WanPipeline {
  return new Pipeline(checkpoint, device, options)
}

class Pipeline implements WanPipeline {
  readonly checkpoint: WanCheckpoint
  readonly #device: Device
  readonly #options: PipelineOptions
  readonly #compute: 'f32' | 'f16'
  readonly #embeds = new Map<string, Float32Array>()
  readonly #conditions = new Map<string, Float32Array>()
  readonly #experts: Partial<Record<Expert, WanTransformer>> = {}
  #vae: WanVae | undefined
  #isReleased = false

  constructor(checkpoint: WanCheckpoint, device: Device, options: PipelineOptions) {
    this.checkpoint = checkpoint
    this.#device = device
    this.#options = options
    this.#compute = options.compute ?? (device.info.computeDTypes.includes('f16') ? 'f16' : 'f32')
  }

  generate(options: GenerateOptions, context?: RunContext): Promise<GeneratedClip> {
    return drain(this.generateIter(options, context))
  }

  async *generateIter(
    options: GenerateOptions,
    context: RunContext = {},
  ): AsyncGenerator<StageEvent, GeneratedClip> {
    this.#check(options)
    const latentShape = this.#latentShape(options)
    const initialLatents =
      options.latents ??
      normals(
        options.seed,
        noiseStream,
        latentShape.reduce((p, n) => p * n, 1),
      )
    const inputs = yield* this.#encodeIter(options, context)
    const finalLatents = yield* this.#denoiseIter(
      options,
      inputs,
      latentShape,
      initialLatents,
      context,
    )
    if (this.#options.lowMemory) await this.#makeRoom()
    const frames = yield* this.#decodeIter(options, latentShape, finalLatents, context)
    const { width, height } = options
    return { width, height, frames, latentShape, initialLatents, finalLatents }
  }

  async encode(
    options: Parameters<WanPipeline['encode']>[0],
    context: RunContext = {},
  ): Promise<EncodedInputs> {
    this.#checkSize(options)
    return await drain(this.#encodeIter(options, context))
  }

  release(): void {
    this.#releaseExperts()
    this.#releaseVae()
    this.#isReleased = true
  }

  #check(options: GenerateOptions): void {
    this.#checkSize(options)
    const { loras = [], latents } = options
    const { transformer } = this.checkpoint
    const shape = this.#latentShape(options)
    if (latents && latents.length !== shape.reduce((p, n) => p * n, 1)) {
      throw samplerErrors.BAD_LATENTS('The latents have', [latents.length], shape)
    }
    for (const { weights } of loras) checkLoraModules(weights, transformerLoraTargets(transformer))
  }

  #checkSize(options: Pick<GenerateOptions, 'image' | 'width' | 'height' | 'numFrames'>): void {
    if (this.#isReleased) throw samplerErrors.RELEASED()
    const { image, width, height } = options
    checkClipSize(options, gridOf(this.checkpoint.vae, this.checkpoint.transformer))
    if (typeof image !== 'string' && (image.width !== width || image.height !== height)) {
      throw samplerErrors.IMAGE_SIZE(`${image.width}×${image.height}`, `${width}×${height}`)
    }
  }

  #latentShape({
    width,
    height,
    numFrames,
  }: Pick<GenerateOptions, 'width' | 'height' | 'numFrames'>): number[] {
    const { zDim, temporalFactor, spatialFactor } = this.checkpoint.vae
    const frames = (numFrames - 1) / temporalFactor + 1
    return [1, zDim, frames, height / spatialFactor, width / spatialFactor]
  }

  async *#encodeIter(
    options: Parameters<WanPipeline['encode']>[0],
    { signal }: RunContext,
  ): AsyncGenerator<StageEvent, EncodedInputs> {
    const phase = 'encode'
    const { prompt, negativePrompt = '', width, height, numFrames } = options
    yield { type: 'started', phase, total: 2 }
    const image =
      typeof options.image === 'string'
        ? await readImage(options.image, { width, height, fit: 'fill' })
        : options.image
    await this.#encodeTexts([prompt, negativePrompt], signal)
    yield { type: 'progress', phase, done: 1, total: 2, item: 'prompts' }
    const [, zDim, ...grid] = this.#latentShape(options)
    const condition = await this.#encodeImage(image, numFrames, signal)
    yield { type: 'progress', phase, done: 2, total: 2, item: 'first frame' }
    const { textLength, textEncoder } = this.checkpoint
    return {
      promptEmbeds: this.#embeds.get(prompt)!,
      negativeEmbeds: this.#embeds.get(negativePrompt)!,
      textShape: [1, textLength, textEncoder.dim],
      condition,
      conditionShape: [1, 4 + zDim!, ...grid],
    }
  }

  /** Encodes what is not known yet, all in one visit of the text encoder. */
  async #encodeTexts(texts: readonly string[], signal: AbortSignal | undefined): Promise<void> {
    const missing = [...new Set(texts)].filter((text) => !this.#embeds.has(text))
    if (missing.length === 0) return
    const quantize = this.#options.quantizeTextEncoder
    const encoder = await loadTextEncoder(this.checkpoint, this.#device, { quantize, signal })
    try {
      signal?.throwIfAborted()
      const states = (await this.#take(await encoder.encode(missing))) as Float32Array
      const each = states.length / missing.length
      missing.forEach((text, i) => {
        remember(this.#embeds, text, states.slice(i * each, (i + 1) * each), texts)
      })
    } finally {
      await encoder.release()
    }
  }

  async #encodeImage(
    image: RgbImage,
    numFrames: number,
    signal: AbortSignal | undefined,
  ): Promise<Float32Array> {
    const key = createHash('sha256')
      .update(`${image.width}×${image.height}×${numFrames}`)
      .update(image.data)
      .digest('hex')
    const known = this.#conditions.get(key)
    if (known) return known
    const vae = await this.#loadVae(signal)
    signal?.throwIfAborted()
    const device = this.#device
    const { data, shape } = conditionVideo(image, numFrames)
    const condition = (await this.#take(
      device.scope(() => {
        const { mean } = vae.encode(device.upload(data, shape, 'f32'))
        return buildCondition(device.ops, vae.normalise(mean))
      }),
    )) as Float32Array
    remember(this.#conditions, key, condition)
    if (this.#options.lowMemory) this.#releaseVae()
    return condition
  }

  async *#denoiseIter(
    options: GenerateOptions,
    inputs: EncodedInputs,
    latentShape: readonly number[],
    initialLatents: Float32Array,
    { signal }: RunContext,
  ): AsyncGenerator<StageEvent, Float32Array> {
    const device = this.#device
    const { steps, scheduler = 'unipc', guidance, guidance2 = guidance } = options
    const shift = options.shift ?? this.checkpoint.scheduler.flowShift
    const boundary = 1000 * (options.boundary ?? this.checkpoint.boundaryRatio)
    const solver = schedulers[scheduler]({ numSteps: steps, shift })
    const phase = 'denoise'
    yield { type: 'started', phase, total: steps }

    const kept: Tensor[] = []
    const keep = (data: Float32Array, shape: readonly number[]) => {
      const tensor = device.upload(data, shape, 'f32')
      kept.push(tensor)
      return tensor
    }
    const loras = new LoadedLoras(device, options)
    try {
      const condition = keep(inputs.condition, inputs.conditionShape)
      const texts = {
        prompt: keep(inputs.promptEmbeds, inputs.textShape),
        negative: keep(inputs.negativeEmbeds, inputs.textShape),
      }
      let latents = initialLatents
      for (const [i, timestep] of solver.schedule.timesteps.entries()) {
        signal?.throwIfAborted()
        const expert: Expert = timestep >= boundary ? 'high' : 'low'
        const transformer = await this.#loadExpert(expert, signal)
        signal?.throwIfAborted()
        const velocity = await this.#velocity(transformer, {
          latents,
          latentShape,
          condition,
          timestep,
          ...texts,
          guidance: expert === 'high' ? guidance : guidance2,
          adapters: loras.of(expert, transformer),
        })
        if (!velocity.every(Number.isFinite)) throw samplerErrors.NOT_FINITE(i + 1, expert)
        latents = solver.step(latents, velocity)
        yield {
          type: 'progress',
          phase,
          done: i + 1,
          total: steps,
          item: `${expert}-noise expert`,
          values: { timestep },
        }
      }
      return latents
    } finally {
      loras.release()
      for (const tensor of kept) device.release(tensor)
    }
  }

  /** v = v_negative + guidance · (v_prompt − v_negative); the prompt's alone at guidance 1. */
  async #velocity(
    transformer: WanTransformer,
    step: {
      latents: Float32Array
      latentShape: readonly number[]
      condition: Tensor
      timestep: number
      prompt: Tensor
      negative: Tensor
      guidance: number
      adapters: ReadonlyMap<string, readonly ModuleAdapter[]>
    },
  ): Promise<Float32Array> {
    const device = this.#device
    const { ops } = device
    const { timestep, guidance, adapters } = step
    const forward = (texts: readonly Tensor[]): Promise<Float32Array> =>
      this.#take(
        device.scope(() => {
          const noisy = device.upload(step.latents, step.latentShape, 'f32')
          const one = ops.concat([noisy, step.condition], 1)
          const isPair = texts.length === 2
          return transformer.forward(
            ops,
            {
              latents: isPair ? ops.concat([one, one], 0) : one,
              timesteps: texts.map(() => timestep),
              text: isPair ? ops.concat(texts, 0) : texts[0]!,
            },
            { adapters },
          )
        }),
      )
    if (guidance === 1) return forward([step.prompt])
    let positive: Float32Array
    let negative: Float32Array
    if (this.#numTokens(step.latentShape) <= maxBatchedTokens) {
      const both = await forward([step.prompt, step.negative])
      positive = both.subarray(0, both.length / 2)
      negative = both.subarray(both.length / 2)
    } else {
      positive = await forward([step.prompt])
      negative = await forward([step.negative])
    }
    return negative.map((away, i) => away + guidance * (positive[i]! - away))
  }

  #numTokens([, , frames, rows, columns]: readonly number[]): number {
    const [, patchRows, patchColumns] = this.checkpoint.transformer.patchSize
    return (frames! * rows! * columns!) / (patchRows * patchColumns)
  }

  async *#decodeIter(
    { width, height, numFrames }: GenerateOptions,
    latentShape: readonly number[],
    latents: Float32Array,
    { signal }: RunContext,
  ): AsyncGenerator<StageEvent, RgbImage[]> {
    const phase = 'decode'
    yield { type: 'started', phase, total: numFrames }
    const device = this.#device
    const vae = await this.#loadVae(signal)
    signal?.throwIfAborted()
    const denormalised = device.scope(() =>
      vae.denormalise(device.upload(latents, latentShape, 'f32')),
    )
    const frames: RgbImage[] = []
    try {
      // One latent frame at a time: little memory, and a bar that moves.
      for (const part of vae.decodeChunks(denormalised, { chunkLatentFrames: 1 })) {
        const pixels = await this.#take(part)
        signal?.throwIfAborted()
        const size = width * height * 3
        for (let at = 0; at < pixels.length; at += size) {
          frames.push({ width, height, data: toBytes(pixels.subarray(at, at + size)) })
        }
        yield { type: 'progress', phase, done: frames.length, total: numFrames }
      }
    } finally {
      device.release(denormalised)
    }
    if (this.#options.lowMemory) this.#releaseVae()
    return frames
  }

  /** Reads a tensor that belongs to no scope, and frees it. */
  async #take(tensor: Tensor): Promise<Float32Array> {
    try {
      return (await this.#device.read(tensor)) as Float32Array
    } finally {
      this.#device.release(tensor)
    }
  }

  async #loadVae(signal: AbortSignal | undefined): Promise<WanVae> {
    return (this.#vae ??= await loadVae(this.checkpoint, this.#device, { signal }))
  }

  #releaseVae(): void {
    this.#vae?.release()
    this.#vae = undefined
  }

  async #loadExpert(expert: Expert, signal: AbortSignal | undefined): Promise<WanTransformer> {
    const { experts = {}, lowMemory, quantize, recoveryAdapter, streamedShare } = this.#options
    if (lowMemory) await this.#makeRoom(expert)
    const there = experts[expert] ?? this.#experts[expert]
    if (there) return there
    return (this.#experts[expert] = await loadTransformer(this.checkpoint, expert, this.#device, {
      compute: this.#compute,
      quantize,
      recovery: recoveryAdapter
        ? await fetchRecoveryAdapter(recoveryAdapter, expert, { signal })
        : undefined,
      streamedShare,
      signal,
    }))
  }

  /** Frees the experts that were loaded here, and moves those that were given to host memory. */
  async #makeRoom(except?: Expert): Promise<void> {
    for (const expert of expertNames) {
      if (expert === except) continue
      await this.#options.experts?.[expert]?.toHost()
      this.#experts[expert]?.release()
      delete this.#experts[expert]
    }
  }

  #releaseExperts(): void {
    for (const expert of expertNames) {
      this.#experts[expert]?.release()
      delete this.#experts[expert]
    }
  }
}

/** The LoRAs of one clip, brought to the device when their expert is first asked. */
class LoadedLoras {
  readonly #device: Device
  readonly #options: GenerateOptions
  readonly #loaded: DeviceLora[] = []
  readonly #joined: Partial<Record<Expert, ReadonlyMap<string, readonly ModuleAdapter[]>>> = {}

  constructor(device: Device, options: GenerateOptions) {
    this.#device = device
    this.#options = options
  }

  of(expert: Expert, transformer: WanTransformer): ReadonlyMap<string, readonly ModuleAdapter[]> {
    const known = this.#joined[expert]
    if (known) return known
    const own = (this.#options.loras ?? [])
      .filter((lora) => lora.expert === expert)
      .map(({ weights, weight }) => {
        const targets = transformer.loraTargets
        const lora = uploadLora(this.#device, weights, { strength: weight, targets })
        this.#loaded.push(lora)
        return lora
      })
    const given = this.#options.adapters?.[expert]
    return (this.#joined[expert] = joinAdapters([...(given ? [{ adapters: given }] : []), ...own]))
  }

  release(): void {
    for (const lora of this.#loaded) lora.release()
  }
}

/** Adds to a map of bounded size; the oldest goes, but never one of `needed`. */
function remember(
  map: Map<string, Float32Array>,
  key: string,
  value: Float32Array,
  needed: readonly string[] = [],
): void {
  map.set(key, value)
  for (const old of map.keys()) {
    if (map.size <= maxRemembered) break
    if (old !== key && !needed.includes(old)) map.delete(old)
  }
}

/** [−1, 1] to 8 bits, rounded; what is outside is clamped. */
function toBytes(pixels: Float32Array): Uint8Array {
  const bytes = new Uint8ClampedArray(pixels.length)
  for (let i = 0; i < pixels.length; i++) bytes[i] = (pixels[i]! * 0.5 + 0.5) * 255
  return new Uint8Array(bytes.buffer)
}
