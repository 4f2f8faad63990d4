import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { Device } from '@kinora/kernel-api'
import { parseLoraFileName, readLora } from '@kinora/lora-files'
import { readFrames, writeVideo, type RgbImage } from '@kinora/media'
import type { PipelineLora, WanPipeline } from '@kinora/sampler'
import { writeFileAtomic, type RunContext, type StageEvent } from '@kinora/stage'
import { demoPrompt, type DemoSettings } from './demo-job.ts'
import { psnr } from './psnr.ts'

/** A held-out first frame with its true clip. */
export interface EvaluationClip {
  image: string
  truth: string
}

/** What a set of previews came to. */
export interface PreviewResult {
  /** Nothing had to be generated. */
  reused: boolean
  clips: { image: string; file: string; psnr: number }[]
}

interface PreviewWork {
  folder: string
  settings: DemoSettings
  evaluation: readonly EvaluationClip[]
  pipeline: WanPipeline
  /** LoRA files, named by expert; none for the base model. */
  loras: readonly string[]
}

const fps = 16
/** Bump when previews of the same inputs would differ. */
const previewVersion = 1

/** tiny-wan's held-out clips, as absolute paths. */
export async function readEvaluation(tinyWan: string): Promise<EvaluationClip[]> {
  const { evaluation } = JSON.parse(await readFile(join(tinyWan, 'truth.json'), 'utf8')) as {
    evaluation: EvaluationClip[]
  }
  return evaluation.map(({ image, truth }) => ({
    image: join(tinyWan, image),
    truth: join(tinyWan, truth),
  }))
}

/**
 * Generates a clip from each held-out first frame with the same prompt and seed, writes it as mp4, and measures how near it
 * comes to the true clip. Previews of the same inputs are found in `previews.json` and not generated again.
 */
export async function* previewsIter(
  { folder, settings, evaluation, pipeline, loras }: PreviewWork,
  { device, signal }: RunContext & { device: Device },
): AsyncGenerator<StageEvent, PreviewResult> {
  const { size, numFrames, sampleSteps, shift, seed } = settings
  const stateFile = join(folder, 'previews.json')
  const key = hashOf([
    previewVersion,
    [size, numFrames, sampleSteps, shift, seed, demoPrompt, device.info.adapter],
    await Promise.all(
      (['transformer', 'transformer_2', 'vae', 'text_encoder'] as const).map((part) =>
        pipeline.checkpoint.fingerprint(part),
      ),
    ),
    await Promise.all([...loras, ...evaluation.flatMap(Object.values)].map(hashFile)),
  ])
  const known = await readState(stateFile)
  if (known?.key === key && (await allThere(folder, known.clips))) {
    return {
      reused: true,
      clips: known.clips.map((clip) => ({ ...clip, file: join(folder, clip.file) })),
    }
  }

  const adapters: PipelineLora[] = []
  for (const file of loras) {
    const { expert } = parseLoraFileName(basename(file))!
    adapters.push({ expert, weights: await readLora(file) })
  }
  const phase = 'generate'
  const total = evaluation.length * sampleSteps
  yield { type: 'started', phase, total }
  const clips: SavedClip[] = []
  for (const [index, { image, truth }] of evaluation.entries()) {
    const generating = pipeline.generateIter(
      {
        image,
        prompt: demoPrompt,
        seed,
        width: size,
        height: size,
        numFrames,
        steps: sampleSteps,
        guidance: 1,
        shift,
        scheduler: 'euler',
        loras: adapters,
      },
      { signal },
    )
    let next = await generating.next()
    while (!next.done) {
      const event = next.value
      if (event.type === 'progress' && event.phase === 'denoise') {
        const done = index * sampleSteps + event.done
        yield { type: 'progress', phase, done, total, item: basename(image) }
      }
      next = await generating.next()
    }
    const { frames } = next.value
    const file = `${index + 1}.mp4`
    await writeVideo(join(folder, file), frames, { fps }, { signal })
    const expected = await readClip(truth, size, { signal })
    const data = (list: readonly RgbImage[]): Uint8Array[] => list.map((frame) => frame.data)
    clips.push({
      image: basename(image),
      file,
      sha256: await hashFile(join(folder, file)),
      psnr: psnr(data(frames), data(expected)),
    })
  }
  await writeFileAtomic(stateFile, `${JSON.stringify({ key, clips }, null, 2)}\n`)
  return { reused: false, clips: clips.map((clip) => ({ ...clip, file: join(folder, clip.file) })) }
}

/** All frames of a clip at the previews' size. */
export async function readClip(
  file: string,
  size: number,
  { signal }: RunContext = {},
): Promise<RgbImage[]> {
  const frames: RgbImage[] = []
  for await (const { data } of readFrames(file, { width: size, height: size }, { signal })) {
    frames.push({ width: size, height: size, data })
  }
  return frames
}

interface SavedClip {
  image: string
  /** Relative to the folder. */
  file: string
  sha256: string
  psnr: number
}

async function readState(file: string): Promise<{ key: string; clips: SavedClip[] } | undefined> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as { key: string; clips: SavedClip[] }
  } catch {
    return undefined
  }
}

async function allThere(folder: string, clips: readonly SavedClip[]): Promise<boolean> {
  for (const { file, sha256 } of clips) {
    const found = await hashFile(join(folder, file)).catch(() => '')
    if (found !== sha256) return false
  }
  return true
}

async function hashFile(file: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(file))
    .digest('hex')
}

function hashOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex')
}
