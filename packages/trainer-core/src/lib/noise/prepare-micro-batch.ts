import type { TrainDataset, TrainJob, TrainSettings } from '@kinora/config-schema'
import {
  maskKey,
  type CacheFolder,
  type LatentsEntry,
  type TextEntry,
} from '../cache/cache-entries.ts'
import type { PromptVariant } from '../data/captions.ts'
import type { Sample } from '../data/dataset.ts'
import { maskWeights } from '../data/loss-masks.ts'
import type { Expert, Purpose, RandomStreams } from './random-streams.ts'
import { createTimestepUniforms, timestepAt, timestepWeight } from './timesteps.ts'

// Axes: B batch, Z latent channels, F latent frames, H rows, W columns, L text rows, D text channels.

/** What one forward and backward pass needs, on the host. */
export interface MicroBatch {
  readonly samples: readonly Sample[]
  readonly shape: readonly [number, number, number, number, number]
  /** x_σ = (1 − σ) x0 + σ ε. */
  readonly noisy_BZFHW: Float32Array
  /** ε − x0. */
  readonly target_BZFHW: Float32Array
  readonly condition_BZFHW: Float32Array
  readonly text_BLD: Float32Array
  readonly textShape: readonly [number, number, number]
  /** Prompts of the preservation pass, where the job has one. */
  readonly preservationText_BLD: Float32Array | undefined
  /** Contrastive guidance: the unconditional prompt, and how far from it each item's target is pushed. */
  readonly guidance?:
    | { readonly text_BLD: Float32Array; readonly factors: readonly number[] }
    | undefined
  /** Loss masks [B, F, H, W], where any sample has one: shares of white, 1 for a sample without. */
  readonly mask_BFHW?: Float32Array | undefined
  /** The same as factors of the loss, of mean 1 a sample. */
  readonly maskWeights_BFHW?: Float32Array | undefined
  /** 1000 σ. */
  readonly timesteps: readonly number[]
  /** How much the loss of each item counts: set, sample, regularisation and timestep. */
  readonly weights: readonly number[]
}

/** Where cached entries are, by sample and by text. */
export interface CacheKeys {
  latents(sample: Sample): string
  text(text: string): string
}

export interface PrepareOptions {
  job: TrainJob
  boundary: number
  cache: CacheFolder
  keys: CacheKeys
  random: RandomStreams
  textLength: number
}

/** Entries kept in memory, least recently used dropped first: small datasets are read once. */
const entryBytes = 512 * 2 ** 20

export interface MicroBatches {
  /**
   * What an expert trains on, noised at random.
   *
   * @param draw number of the first item among all that the expert has drawn; each item takes the next
   */
  prepare(expert: Expert, samples: readonly Sample[], draw: number): Promise<MicroBatch>
  /**
   * One sample at a given timestep with its full caption, for measuring: the same noise each time.
   *
   * @param index which of the fixed noises
   */
  prepareFixed(expert: Expert, sample: Sample, timestep: number, index: number): Promise<MicroBatch>
}

/** Reads cached entries and makes noised micro-batches of them. */
export function createMicroBatches(options: PrepareOptions): MicroBatches {
  const { job, boundary, cache, keys, random, textLength } = options
  const { train, kinora } = job.config.process[0]
  const latents = new EntryCache<LatentsEntry>(
    (key) => cache.readLatents(key),
    (entry) => entry.latents.byteLength * 3,
  )
  const texts = new EntryCache<TextEntry>(
    (key) => cache.readText(key),
    (entry) => entry.values.byteLength,
  )
  const masks = new EntryCache<Float32Array>(
    (key) => cache.readMask(key),
    (entry) => entry.byteLength,
  )
  const uniformOf = createTimestepUniforms(random, kinora.timestep_sampling)
  const weighting = timestepWeighting(train)

  async function encodeTexts(prompts: readonly string[]): Promise<{
    text_BLD: Float32Array
    textShape: [number, number, number]
  }> {
    const entries = await Promise.all(prompts.map((prompt) => texts.get(keys.text(prompt))))
    const dim = entries[0]!.dim
    const text_BLD = new Float32Array(prompts.length * textLength * dim)
    entries.forEach(({ values }, b) => text_BLD.set(values, b * textLength * dim))
    return { text_BLD, textShape: [prompts.length, textLength, dim] }
  }

  async function readMasks(
    samples: readonly Sample[],
    length: number,
  ): Promise<Pick<MicroBatch, 'mask_BFHW' | 'maskWeights_BFHW'>> {
    if (samples.every(({ mask }) => mask === undefined)) return {}
    const mask_BFHW = new Float32Array(samples.length * length).fill(1)
    const maskWeights_BFHW = Float32Array.from(mask_BFHW)
    for (const [b, sample] of samples.entries()) {
      if (!sample.mask) continue
      const cells = await masks.get(maskKey(sample, sample.mask))
      mask_BFHW.set(cells, b * length)
      maskWeights_BFHW.set(maskWeights(cells, sample.dataset.mask_min_value), b * length)
    }
    return { mask_BFHW, maskWeights_BFHW }
  }

  /** Mixes latents and noise, and puts the prompts to them. */
  async function assemble(
    samples: readonly Sample[],
    timesteps: readonly number[],
    noiseOf: (b: number, length: number) => { noise: Float32Array; posterior?: Float32Array },
    weights: readonly number[],
    prompts: readonly PromptVariant[],
  ): Promise<MicroBatch> {
    const entries = await Promise.all(samples.map((sample) => latents.get(keys.latents(sample))))
    const [z, f, h, w] = entries[0]!.shape
    const length = z * f * h * w
    const noisy_BZFHW = new Float32Array(samples.length * length)
    const target_BZFHW = new Float32Array(noisy_BZFHW.length)
    const condition_BZFHW = new Float32Array(noisy_BZFHW.length)
    entries.forEach((entry, b) => {
      const { noise, posterior } = noiseOf(b, length)
      const sigma = timesteps[b]! / 1000
      for (let i = 0; i < length; i++) {
        const x0 = entry.latents[i]! + (posterior ? entry.deviation[i]! * posterior[i]! : 0)
        noisy_BZFHW[b * length + i] = (1 - sigma) * x0 + sigma * noise[i]!
        target_BZFHW[b * length + i] = noise[i]! - x0
      }
      condition_BZFHW.set(entry.condition, b * length)
    })
    const preserved = prompts.map(({ preservation }) => preservation)
    return {
      samples,
      shape: [samples.length, z, f, h, w],
      noisy_BZFHW,
      target_BZFHW,
      condition_BZFHW,
      ...(await readMasks(samples, f * h * w)),
      ...(await encodeTexts(prompts.map(({ caption }) => caption))),
      preservationText_BLD: preserved.every((prompt) => prompt !== undefined)
        ? (await encodeTexts(preserved)).text_BLD
        : undefined,
      timesteps,
      weights,
    }
  }

  /** Factor of contrastive guidance of each item: given, or drawn from a range, and with `sigma` 1 at the clean end. */
  async function guidanceOf(
    expert: Expert,
    timesteps: readonly number[],
    draw: number,
  ): Promise<MicroBatch['guidance']> {
    if (!train.do_guidance_loss) return undefined
    const asked = train.guidance_loss_target
    const factors = timesteps.map((t, b) => {
      const [least, most] = typeof asked === 'number' ? [asked, asked] : asked
      const u = least === most ? 0 : random.uniforms('guidanceTarget', expert, draw + b, 1)[0]!
      const factor = least + (most - least) * u
      return train.guidance_loss_schedule === 'sigma' ? 1 + (factor - 1) * (t / 1000) : factor
    })
    const { text_BLD } = await encodeTexts(timesteps.map(() => train.unconditional_prompt))
    return { text_BLD, factors }
  }

  return {
    async prepare(expert, samples, draw) {
      const timesteps = samples.map(({ dataset }, b) =>
        timestepAt(uniformOf(expert, draw + b), expert, {
          type: train.timestep_type,
          bias: dataset.is_reg ? train.content_or_style_reg : train.content_or_style,
          boundary,
          shift: kinora.shift,
        }),
      )
      const weights = samples.map(
        ({ item, dataset }, b) =>
          item.weight *
          (dataset.is_reg ? train.reg_weight : 1) *
          timestepWeight(timesteps[b]!, weighting),
      )
      const prompts = samples.map((sample, b) => drawPrompt(sample, expert, draw + b, random))
      const noiseOf = (b: number, length: number) => ({
        noise: random.normals('noise', expert, draw + b, length),
        ...(kinora.latents === 'sample'
          ? { posterior: random.normals('posterior', expert, draw + b, length) }
          : {}),
      })
      const guidance = await guidanceOf(expert, timesteps, draw)
      return { ...(await assemble(samples, timesteps, noiseOf, weights, prompts)), guidance }
    },
    prepareFixed: (expert, sample, timestep, index) =>
      assemble(
        [sample],
        [timestep],
        (_, length) => ({ noise: random.normals('validationNoise', expert, index, length) }),
        [1],
        [promptPair(sample, 'caption')],
      ),
  }
}

/** One of a sample's two prompts, with that of the preservation pass. */
function promptPair(
  { prompts }: Pick<Sample, 'prompts'>,
  which: 'caption' | 'dropped',
): PromptVariant {
  const { preservation } = prompts
  return {
    caption: prompts[which],
    ...(preservation ? { preservation: preservation[which] } : {}),
  }
}

/** The prompt of a draw: dropped by chance, else the caption or one of its variants. */
export function drawPrompt(
  sample: Pick<Sample, 'prompts'> & { dataset: Pick<TrainDataset, 'caption_dropout_rate'> },
  expert: Expert,
  draw: number,
  random: RandomStreams,
): PromptVariant {
  const { caption_dropout_rate } = sample.dataset
  const uniform = (purpose: Purpose): number => random.uniforms(purpose, expert, draw, 1)[0]!
  if (caption_dropout_rate > 0 && uniform('captionDropout') < caption_dropout_rate) {
    return promptPair(sample, 'dropped')
  }
  const { variants = [] } = sample.prompts
  return variants.length > 0
    ? variants[Math.floor(uniform('captionChoice') * variants.length)]!
    : promptPair(sample, 'caption')
}

function timestepWeighting({
  timestep_type,
  linear_timesteps,
  linear_timesteps2,
}: TrainSettings): Parameters<typeof timestepWeight>[1] {
  if (timestep_type === 'weighted') return 'weighted'
  if (linear_timesteps2) return 'linear_timesteps2'
  return linear_timesteps ? 'linear_timesteps' : 'none'
}

/** Entries by key, the most recently used kept up to a number of bytes. */
class EntryCache<T> {
  readonly #read: (key: string) => Promise<T>
  readonly #bytesOf: (entry: T) => number
  readonly #entries = new Map<string, T>()
  #bytes = 0

  constructor(read: (key: string) => Promise<T>, bytesOf: (entry: T) => number) {
    this.#read = read
    this.#bytesOf = bytesOf
  }

  async get(key: string): Promise<T> {
    const known = this.#entries.get(key)
    if (known !== undefined) {
      this.#entries.delete(key)
      this.#entries.set(key, known)
      return known
    }
    const entry = await this.#read(key)
    if (!this.#entries.has(key)) {
      this.#entries.set(key, entry)
      this.#bytes += this.#bytesOf(entry)
    }
    for (const [oldest, old] of this.#entries) {
      if (this.#bytes <= entryBytes) break
      this.#entries.delete(oldest)
      this.#bytes -= this.#bytesOf(old)
    }
    return entry
  }
}
