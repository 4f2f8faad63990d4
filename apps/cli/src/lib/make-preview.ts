import { readFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { readBucketPlan, type TrainJob } from '@kinora/config-schema'
import type { Device } from '@kinora/kernel-api'
import type { Expert } from '@kinora/lora-files'
import {
  isImageFile,
  probe,
  readFrames,
  readImage,
  writeImage,
  writeVideo,
  writeWebp,
  type RgbImage,
} from '@kinora/media'
import { openPipeline, type PipelineLora } from '@kinora/sampler'
import type { RunContext } from '@kinora/stage'
import type { PreviewRequest, TrainContext } from '@kinora/trainer-core'
import { describePreviews } from '../previews/describe-previews.ts'
import { previewName } from '../previews/preview-files.ts'

interface PreviewSource {
  job: TrainJob
  device: Device
  /** bucket-plan.json, whose clips give first frames with `kinora.sample.auto_control`. */
  plan: string
}

/** What trainer-core calls for previews: each of the job's samples through sampler, with the LoRAs as they are. */
export function makePreview({
  job,
  device,
  plan,
}: PreviewSource): NonNullable<TrainContext['preview']> {
  const process = job.config.process[0]
  const { kinora, trigger_word, model } = process
  return async (request, context) => {
    const pipeline = openPipeline(request.checkpoint, device, {
      experts: Object.fromEntries(request.transformers),
      lowMemory: model.low_vram,
      quantize: model.quantize ? model.qtype : undefined,
      quantizeTextEncoder: model.quantize_te ? model.qtype_te : undefined,
      recoveryAdapter: model.accuracy_recovery_adapter ?? undefined,
      streamedShare: model.layer_offloading ? model.layer_offloading_transformer_percent : 0,
      ...(kinora.compute === 'auto' ? {} : { compute: kinora.compute }),
    })
    try {
      for (const [index, item] of request.sample.samples.entries()) {
        context.signal?.throwIfAborted()
        const { width, height } = item
        const image = item.ctrl_img ?? (await firstFrame(plan, index, { width, height }, context))
        const { frames } = await pipeline.generate(
          {
            image,
            prompt: item.prompt.replaceAll('[trigger]', trigger_word ?? ''),
            negativePrompt: item.neg,
            seed: item.seed,
            width,
            height,
            numFrames: item.num_frames,
            steps: item.sample_steps,
            guidance: item.guidance_scale,
            guidance2: kinora.sample.guidance_scale_2 ?? undefined,
            shift: kinora.sample.shift,
            scheduler: kinora.sample.scheduler,
            boundary: request.boundary,
            loras: lorasOf(request, item.network_multiplier),
          },
          context,
        )
        await writePreview(request, index, frames, item.fps)
      }
    } finally {
      pipeline.release()
    }
    const { outDir: samples, step, sample } = request
    try {
      return await describePreviews({ job, plan, samples, step, items: sample.samples }, context)
    } catch (error) {
      context.signal?.throwIfAborted()
      // The previews are there; what could not be measured of them must not take them away.
      return { undescribed: (error as Error).message }
    }
  }
}

function lorasOf({ loras }: PreviewRequest, weight: number): PipelineLora[] {
  return (Object.keys(loras) as Expert[]).flatMap((expert) => {
    const weights = loras[expert]
    return weights ? [{ expert, weights, weight }] : []
  })
}

async function writePreview(
  { outDir, step, sample }: PreviewRequest,
  index: number,
  frames: readonly RgbImage[],
  fps: number,
): Promise<void> {
  const file = join(outDir, previewName(step, index, sample.format))
  switch (sample.format) {
    case 'mp4':
      return writeVideo(file, frames, { fps })
    case 'webp':
      return writeWebp(file, frames, { fps, quality: 80 })
    case 'jpg':
    case 'png':
      return writeImage(file, frames[0]!)
    default:
      return sample.format satisfies never
  }
}

/** The first frame of one of the plan's samples, cut to the preview's shape around its middle. */
async function firstFrame(
  planFile: string,
  index: number,
  size: { width: number; height: number },
  { signal }: RunContext,
): Promise<RgbImage> {
  const plan = readBucketPlan(await readFile(planFile, 'utf8'), { fileName: planFile })
  const clips = [...new Set(plan.buckets.flatMap(({ items }) => items.map(({ clip }) => clip)))]
  const clip = resolve(dirname(planFile), clips[index % clips.length]!)
  if (isImageFile(clip)) return readImage(clip, { ...size, fit: 'cover' })
  const facts = await probe(clip, { signal })
  const scale = Math.min(facts.width / size.width, facts.height / size.height)
  const width = Math.round(size.width * scale)
  const height = Math.round(size.height * scale)
  const crop = {
    x: Math.floor((facts.width - width) / 2),
    y: Math.floor((facts.height - height) / 2),
    width,
    height,
  }
  for await (const frame of readFrames(clip, { ...size, crop, probe: facts }, { signal })) {
    return { ...size, data: frame.data }
  }
  throw new Error(`${clip} gave no frame.`)
}
