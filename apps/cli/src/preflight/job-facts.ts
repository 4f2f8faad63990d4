import { access, readFile, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import {
  captionFile,
  readManifest,
  type BucketPlan,
  type DatasetFacts,
  type PreflightFacts,
  type TrainDataset,
  type TrainJob,
} from '@kinora/config-schema'
import { isImageFile, probe, readImage, type MediaProbe } from '@kinora/media'
import { openCheckpoint, transformerTensors, type WanCheckpoint } from '@kinora/wan'
import type { RunContext } from '@kinora/stage'

/** Files and folders that a job names and that are not there, as it spells them. */
export async function findMissingFiles(job: TrainJob): Promise<string[]> {
  const { sample, first_sample, datasets, kinora, network } = job.config.process[0]
  const named = [
    ...datasets.flatMap(({ dataset_path, mask_path }) => [dataset_path, mask_path]),
    ...[sample, first_sample].flatMap((list) =>
      (list?.samples ?? []).map(({ ctrl_img }) => ctrl_img),
    ),
    kinora.validation.folder,
    network.pretrained_lora_path,
  ].filter((path) => path !== null)
  const missing: string[] = []
  for (const path of new Set(named)) if (!(await exists(path))) missing.push(path)
  return missing
}

type CheckpointFacts = NonNullable<PreflightFacts['checkpoint']>

/** What rules ask of a checkpoint. */
export function checkpointFacts({ boundaryRatio, transformer }: WanCheckpoint): CheckpointFacts {
  let expertParameters = 0
  for (const shape of transformerTensors(transformer).values()) {
    expertParameters += shape.reduce((product, extent) => product * extent, 1)
  }
  return { boundaryRatio, expertParameters }
}

/** The release, whose facts hold before it is downloaded. */
const released = /(^|\/)wan2\.2-i2v-a14b/i
const releasedFacts: CheckpointFacts = { boundaryRatio: 0.9, expertParameters: 14_288_901_184 }

/**
 * Facts of the job's checkpoint without downloading anything: from a folder as it is, of the release by its name, else unknown.
 */
export async function findCheckpointFacts(
  { model }: TrainJob['config']['process'][0],
  { signal }: RunContext,
): Promise<CheckpointFacts | undefined> {
  const { name_or_path: source } = model
  const isFolder = await stat(source).then(
    (entry) => entry.isDirectory(),
    () => false,
  )
  if (isFolder) return checkpointFacts(await openCheckpoint(source, { signal }))
  return released.test(source) ? releasedFacts : undefined
}

/** What is known of a clip from its manifest or its file. */
interface ClipFacts {
  seconds: number
  pixels: number
}

/**
 * What rules ask of a job's clips, from its plan.
 *
 * @param planFile where the plan is, or would be: clips are named relative to it
 * @param probes of the files that planning looked into, by resolved path
 */
export async function datasetFacts(
  job: TrainJob,
  plan: BucketPlan,
  planFile: string,
  probes: ReadonlyMap<string, MediaProbe>,
): Promise<DatasetFacts[]> {
  const folder = dirname(resolve(planFile))
  const facts: DatasetFacts[] = []
  for (const [index, dataset] of job.config.process[0].datasets.entries()) {
    const files = new Set(
      plan.buckets.flatMap(({ items }) =>
        items.filter((item) => item.dataset === index).map(({ clip }) => resolve(folder, clip)),
      ),
    )
    const known = await manifestFacts(dataset)
    const clips = [...files].flatMap((file): ClipFacts[] => {
      const probe = probes.get(file)
      const found =
        known.get(file) ??
        (probe && { seconds: probe.numFrames / probe.fps, pixels: probe.width * probe.height })
      return found ? [found] : []
    })
    const seconds = clips.map((clip) => clip.seconds).toSorted((a, b) => a - b)
    facts.push({
      numClips: files.size,
      ...(clips.length === 0
        ? {}
        : {
            medianSeconds: seconds[seconds.length >> 1]!,
            maxPixels: Math.max(...clips.map(({ pixels }) => pixels)),
          }),
      captions: await Promise.all(
        [...files].map((file) =>
          readFile(captionFile(file, dataset.caption_ext), 'utf8').catch(() => null),
        ),
      ),
    })
  }
  return facts
}

/** media's probe, which remembers what it found by resolved path. */
export function rememberProbes(
  probes: Map<string, MediaProbe>,
): (
  file: string,
  context: RunContext,
) => Promise<Pick<MediaProbe, 'width' | 'height' | 'fps' | 'numFrames'>> {
  return async (file, context) => {
    if (isImageFile(file)) {
      const { width, height } = await readImage(file)
      return { width, height, fps: 16, numFrames: 1 }
    }
    const found = await probe(file, context)
    probes.set(resolve(file), found)
    return found
  }
}

async function manifestFacts({ dataset_path }: TrainDataset): Promise<Map<string, ClipFacts>> {
  const inside = join(dataset_path, 'manifest.jsonl')
  for (const file of [inside, dataset_path]) {
    let text: string
    try {
      text = await readFile(file, 'utf8')
    } catch {
      continue
    }
    return new Map(
      readManifest(text, { fileName: file }).clips.map((clip) => [
        resolve(dirname(file), clip.file),
        { seconds: clip.duration, pixels: clip.width * clip.height },
      ]),
    )
  }
  return new Map()
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  )
}
