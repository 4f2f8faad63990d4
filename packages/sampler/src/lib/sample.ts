import { access, constants, mkdir } from 'node:fs/promises'
import { dirname, extname } from 'node:path'
import type { Device } from '@kinora/kernel-api'
import { checkVideoOutput, readImage, writeVideo, writeWebp, type VideoEnding } from '@kinora/media'
import {
  codeSystemError,
  drain,
  parseOptions,
  type RunContext,
  type StageEvent,
} from '@kinora/stage'
import { openCheckpoint } from '@kinora/wan'
import { checkClipSize, gridOf, sizeForImage } from './clip-size.ts'
import { samplerErrors } from './errors.ts'
import { readLatents, writeLatents } from './latents-file.ts'
import { sampleOptions, type SampleOptions } from './options.ts'
import { openPipeline } from './pipeline.ts'
import { readLoras } from './read-loras.ts'

/** What a run is given beside its options. */
export interface SampleContext extends RunContext {
  /** Where the networks run. The caller opens and destroys it. */
  device: Device
  /** Fetches from the Hub; the global one unless given. */
  fetch?: typeof fetch | undefined
}

/** What was written. */
export interface SampleResult {
  file: string
  width: number
  height: number
  numFrames: number
  fps: number
  seed: number
  /** Safetensors file with noise and result, where one was asked for. */
  latents?: string
}

/**
 * Generates one clip and writes it. All that can be known to be wrong is told before a network is loaded: a missing image, sides
 * that are not multiples of 16, frames that are not 4n + 1, LoRAs, latents, the ending of the file, no ffmpeg or none that writes it, a folder
 * that cannot be written.
 */
export async function* sampleIter(
  options: SampleOptions,
  { device, signal, fetch }: SampleContext,
): AsyncGenerator<StageEvent, SampleResult> {
  const o = parseOptions('SAMPLER', sampleOptions, options)
  if (o.image === undefined) throw samplerErrors.NO_IMAGE()
  const ending = extname(o.out).toLowerCase()
  if (!isVideoEnding(ending)) throw samplerErrors.BAD_OUTPUT(o.out)
  await checkVideoOutput(ending)
  const size = await chooseSize(o, o.image)
  checkClipSize({ ...size, numFrames: o.numFrames })
  const image = await readImage(o.image, { ...size, fit: 'fill' })
  const loras = await readLoras(o.lora)
  const latents = o.latents === undefined ? undefined : await readLatents(o.latents)

  const checkpoint = await openCheckpoint(o.checkpoint, {
    signal,
    ...(o.cacheDir === undefined ? {} : { cacheDir: o.cacheDir }),
    ...(fetch === undefined ? {} : { fetch }),
  })
  const grid = gridOf(checkpoint.vae, checkpoint.transformer)
  checkClipSize({ ...size, numFrames: o.numFrames }, grid)
  if (latents) {
    const wanted = [
      1,
      checkpoint.vae.zDim,
      (o.numFrames - 1) / grid.temporalFactor + 1,
      size.height / grid.spatialFactor,
      size.width / grid.spatialFactor,
    ]
    if (latents.shape.join() !== wanted.join() && latents.shape.join() !== wanted.slice(1).join()) {
      throw samplerErrors.BAD_LATENTS(`${o.latents} holds latents`, latents.shape, wanted)
    }
  }

  await makeFolderOf(o.out)
  if (o.saveLatents !== undefined) await makeFolderOf(o.saveLatents)
  const pipeline = openPipeline(checkpoint, device, {
    compute: o.compute === 'auto' ? undefined : o.compute,
    lowMemory: o.lowMemory,
  })
  try {
    const clip = yield* pipeline.generateIter(
      {
        image,
        prompt: o.prompt,
        negativePrompt: o.negativePrompt,
        seed: o.seed,
        ...size,
        numFrames: o.numFrames,
        steps: o.steps,
        guidance: o.guidance,
        guidance2: o.guidance2,
        shift: o.shift,
        scheduler: o.scheduler,
        boundary: o.boundary,
        loras,
        latents: latents?.data,
      },
      { signal },
    )
    yield { type: 'started', phase: 'write', total: 1 }
    await writers[ending](o.out, clip.frames, { fps: o.fps }, { signal })
    if (o.saveLatents !== undefined) {
      await writeLatents(o.saveLatents, clip, { seed: String(o.seed), prompt: o.prompt })
    }
    yield { type: 'progress', phase: 'write', done: 1, total: 1, item: o.out }
    return {
      file: o.out,
      ...size,
      numFrames: o.numFrames,
      fps: o.fps,
      seed: o.seed,
      ...(o.saveLatents === undefined ? {} : { latents: o.saveLatents }),
    }
  } finally {
    pipeline.release()
  }
}

/** As `sampleIter`, without its events. */
export function sample(options: SampleOptions, context: SampleContext): Promise<SampleResult> {
  return drain(sampleIter(options, context))
}

const writers = { '.mp4': writeVideo, '.webp': writeWebp } as const satisfies Record<
  VideoEnding,
  unknown
>
const isVideoEnding = (ending: string): ending is VideoEnding => ending in writers

/** Makes the folder that a file will be written to, and sees that it can be. */
async function makeFolderOf(file: string): Promise<void> {
  try {
    await mkdir(dirname(file), { recursive: true })
    await access(dirname(file), constants.W_OK)
  } catch (error) {
    throw codeSystemError(error, file)
  }
}

async function chooseSize(
  {
    width,
    height,
    area,
  }: { width?: number | undefined; height?: number | undefined; area: number },
  image: string,
): Promise<{ width: number; height: number }> {
  if (width !== undefined && height !== undefined) return { width, height }
  if (width !== undefined || height !== undefined) throw samplerErrors.HALF_SIZE()
  return sizeForImage(await readImage(image), area)
}
