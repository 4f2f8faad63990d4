import type { DatasetOptions, PlanBucketsOptions } from '@kinora/bucketer'
import type { TrainDataset, TrainJob } from '@kinora/config-schema'
import { kinoraErrors } from './errors.ts'

const wanFps = 16

/**
 * What bucketer is asked for a job's datasets: AI Toolkit's sizes and frames, in the order of the job, so that the index of a
 * sample's dataset is the job's.
 */
export function planOptions(job: TrainJob, out: string): PlanBucketsOptions {
  const process = job.config.process[0]
  const { datasets, train, kinora } = process
  const realTime = datasets.filter(
    (dataset) => frameMode(dataset, kinora.frame_mode) !== 'uniform' || dataset.auto_frame_count,
  )
  const rates = [...new Set(realTime.map(({ fps }) => fps))]
  if (rates.length > 1) throw kinoraErrors.MIXED_FPS(rates)
  return {
    out,
    rule: 'ai-toolkit',
    fps: rates[0] ?? wanFps,
    seed: process.training_seed ?? 42,
    batchSize: train.batch_size,
    // How many of a bucket's samples make a batch is the trainer's business, which draws anew each epoch.
    lastBatch: 'short',
    datasets: datasets.map((dataset): DatasetOptions => ({
      source: dataset.dataset_path,
      ...sizesOf(dataset),
      numFrames: dataset.num_frames,
      // As in AI Toolkit, one frame a sample is the mode for pictures.
      ...(dataset.num_frames === 1 && !dataset.auto_frame_count ? { images: true } : {}),
      autoNumFrames: dataset.auto_frame_count,
      frameMode: frameMode(dataset, kinora.frame_mode),
      // Our own modes promise the true speed, which AI Toolkit's whole steps keep only at whole ratios of frame rates.
      ...(kinora.frame_mode ? { frameRule: 'by-time' as const } : {}),
      cropPosition: dataset.random_crop ? 'random' : 'centre',
      repeats: dataset.num_repeats,
      weight: dataset.loss_multiplier,
      regularisation: dataset.is_reg,
      flipX: dataset.flip_x,
      flipY: dataset.flip_y,
      ...(dataset.batch_size === null ? {} : { batchSize: dataset.batch_size }),
    })),
  }
}

/**
 * What bucketer is asked for the clips of `kinora.validation.folder`: sizes, frames and captions of the first set that is no
 * regularisation, each clip once. Undefined where the job has no such folder.
 */
export function validationPlanOptions(
  job: TrainJob,
  out: string,
): { options: PlanBucketsOptions; dataset: number } | undefined {
  const { datasets, kinora } = job.config.process[0]
  const { folder } = kinora.validation
  if (folder === null) return undefined
  const dataset = datasets.findIndex(({ is_reg }) => !is_reg)
  const options = planOptions(job, out)
  const like = options.datasets![dataset] as DatasetOptions
  return {
    dataset,
    options: {
      ...options,
      datasets: [{ ...like, source: folder, repeats: 1, weight: 1, flipX: false, flipY: false }],
    },
  }
}

/** Area budgets, or with square_crop the one square. */
function sizesOf({
  resolution,
  square_crop,
  dataset_path,
}: TrainDataset): Pick<DatasetOptions, 'resolutions' | 'sizes'> {
  if (!square_crop) return { resolutions: resolution }
  if (resolution.length > 1) throw kinoraErrors.SQUARE_CROP(dataset_path)
  const side = Math.max(16, Math.floor(resolution[0]! / 16) * 16)
  return { sizes: [`${side}x${side}`] }
}

/** With auto_frame_count it is for trim_auto_frame_count_tail to say: the tail dropped, or the whole clip squeezed. */
function frameMode(
  { shrink_video_to_frames, auto_frame_count, trim_auto_frame_count_tail }: TrainDataset,
  override: TrainJob['config']['process'][0]['kinora']['frame_mode'],
): NonNullable<DatasetOptions['frameMode']> {
  const isSqueezed = auto_frame_count ? !trim_auto_frame_count_tail : shrink_video_to_frames
  return override ?? (isSqueezed ? 'uniform' : 'real-time')
}
